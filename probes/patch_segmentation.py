"""Segmentation by classifying patches one by one: CAPI's cheap protocol (`eval_segmentation.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from probes.classifier import require_fitted
from probes.dense_metrics import mean_iou
from probes.grids import C_LIMITS, end_warnings, settle
from probes.inputs import Array, at_least_float32, check_counts, float_tensor, own_modes, sorted_grid, whole_number
from probes.logistic import LogisticProbe
from probes.retrieval import ExactGallery, best_rows, normalized
from probes.segmentation import IGNORE, Segmenter, check_classes, check_pairs, count_scores, tuning_images

K_GRID = (1, 3, 10, 30)
DISTANCES = ("cosine", "euclidean")
C_GRID = tuple(10.0 ** (-6 + 11 * step / 7) for step in range(8))
"""CAPI's eight values from 1e-6 to 1e5."""

_SPARE = 16  # candidates more than asked for, which rounding may have put in another order
_LEAST = 1e-12  # probability of a class that a classifier has not seen


def patch_labels(mask: np.ndarray, grid: tuple[int, int], num_classes: int, ignore_index: int = IGNORE) -> np.ndarray:
    """The most frequent label among the pixels of each cell of a grid (h, w), the lowest of equals: int64 (h, w).

    The label to ignore counts like any other, but loses against a class that is as frequent. A pixel belongs to
    the cell in which its middle lies. Raises where the mask (H, W) has fewer pixels than the grid has cells.
    """
    if mask.shape[0] < grid[0] or mask.shape[1] < grid[1]:
        raise ValueError(f"a mask of {mask.shape} must have a pixel for each cell of the grid {grid}")
    rows, columns = ((2 * np.arange(n) + 1) * cells // (2 * n) for n, cells in zip(mask.shape, grid, strict=True))
    cells = rows[:, None] * grid[1] + columns
    values = np.where(mask == ignore_index, num_classes, mask.astype(np.int64))  # uint8 ends below some num_classes
    counts = np.bincount((cells * (num_classes + 1) + values).ravel(), minlength=grid[0] * grid[1] * (num_classes + 1))
    labels = counts.reshape(*grid, num_classes + 1).argmax(2)
    return np.where(labels == num_classes, ignore_index, labels)


class Patches(NamedTuple):
    """Patches of several images, those to ignore left out: `rows` (n, D) and their `labels` (n,)."""

    rows: Tensor
    labels: np.ndarray


def gather_patches(
    maps: Sequence[Array],
    masks: Sequence[np.ndarray],
    *,
    num_classes: int,
    ignore_index: int = IGNORE,
    images: Sequence[int] | np.ndarray | None = None,
    most: int | None = None,
    seed: int = 0,
) -> Patches:
    """The patches of maps (h, w, D) with `patch_labels` of masks (H, W), read one image at a time.

    images: numbers of those to take, None: all. most: a seeded random choice of at most this many patches of all these
    images together; None: all.
    """
    numbers = range(len(maps)) if images is None else images
    grids = []
    for number in numbers:
        height, width, _ = maps[number].shape
        grids.append(patch_labels(masks[number], (height, width), num_classes, ignore_index).ravel())
    kept = np.flatnonzero(np.concatenate(grids) != ignore_index)
    if most is not None and len(kept) > most:
        kept = np.sort(np.random.default_rng(seed).choice(kept, most, replace=False))
    rows, labels, start = [], [], 0
    for number, grid in zip(numbers, grids, strict=True):
        own = kept[(kept >= start) & (kept < start + len(grid))] - start
        rows.append(_tokens(maps[number])[torch.from_numpy(own)])
        labels.append(grid[own])
        start += len(grid)
    return Patches(torch.cat(rows), np.concatenate(labels))


def _tokens(features: Array, width: int | None = None) -> Tensor:
    """Tokens (h·w, D) float32 or float64, on the CPU, of a map (h, w, D)."""
    tensor = float_tensor(features, "features", f"(h, w, {'D' if width is None else width})", 3, width)
    return at_least_float32(tensor).cpu().flatten(0, 1)


@dataclass(kw_only=True, eq=False)
class _PatchSegmenter(Segmenter):
    """What both have in common: candidates judged by the mIoU of held-out training images at their masks' size."""

    num_classes: int = field(kw_only=False)
    ignore_index: int = IGNORE
    max_patches: int | None = None
    validation_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        check_counts(max_patches=1 if self.max_patches is None else self.max_patches)

    def _split(self, maps: Sequence[Array], masks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        check_pairs(maps, masks, self.num_classes, self.ignore_index)
        return tuning_images(masks, self.validation_fraction, self.seed, self.ignore_index)

    def _patches(self, maps: Sequence[Array], masks: Sequence[np.ndarray], images: np.ndarray) -> Patches:
        return gather_patches(
            maps,
            masks,
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
            images=images,
            most=self.max_patches,
            seed=self.seed,
        )

    def _miou(self, scores: Sequence[Tensor], masks: Sequence[np.ndarray]) -> float:
        """The mIoU of token scores (h, w, C) of some images."""
        return mean_iou(count_scores(scores, masks, self.num_classes, self.ignore_index).sum(0))


@dataclass(kw_only=True, eq=False)
class KNNSegmenter(_PatchSegmenter):
    """Each patch takes the labels of the `k` nearest training patches, one vote each; features as they come.

    A patch's label is the majority of its pixels. k and the distance are chosen by the mIoU of held-out training
    images, of equals the first of `distances`, then the smallest k; then all training patches vote, or a random
    choice of `max_patches`.

    After `fit`: `k`; `distance`; `validation_miou` of the chosen ones, `validation_mious` by (distance, k).
    """

    k_grid: Sequence[int] = K_GRID
    distances: Sequence[str] = DISTANCES

    def __post_init__(self) -> None:
        super().__post_init__()
        self.k_grid = tuple(whole_number(k, "k") for k in sorted_grid(self.k_grid, "k_grid"))
        if not self.distances or not set(self.distances) <= set(DISTANCES):
            raise ValueError(f"expected distances among {DISTANCES}, got {self.distances!r}")

    def fit(self, maps: Sequence[Array], masks: Sequence[np.ndarray]) -> KNNSegmenter:
        """Fit on maps (h, w, D) and masks (H, W); returns self. Raises as `LinearSegmenter.fit`."""
        kept, held = self._split(maps, masks)
        patches = self._patches(maps, masks, kept)
        if len(patches.labels) < self.k_grid[-1]:
            raise ValueError(f"k = {self.k_grid[-1]} needs as many training patches, got {len(patches.labels)}")
        self.validation_mious: dict[tuple[str, int], float] = {}
        for distance in self.distances:
            gallery = _PatchGallery(patches, distance)
            for k, miou in self._mious_by_k(gallery, maps, masks, held).items():
                self.validation_mious[distance, int(k)] = miou
        self.distance, self.k = max(self.validation_mious, key=self.validation_mious.__getitem__)
        self.validation_miou = self.validation_mious[self.distance, self.k]
        of_distance = {float(k): miou for (name, k), miou in self.validation_mious.items() if name == self.distance}
        self.warnings = [] if self.k == 1 else end_warnings("k", of_distance, self.k)
        self._gallery = _PatchGallery(self._patches(maps, masks, np.arange(len(maps))), self.distance)
        return self

    def _mious_by_k(
        self, gallery: _PatchGallery, maps: Sequence[Array], masks: Sequence[np.ndarray], images: np.ndarray
    ) -> dict[float, float]:
        """mIoU of the images by k, of the grid and, while its largest k is best, of three times as many neighbours."""
        truth = [masks[i] for i in images]

        def score(several: list[float]) -> dict[float, float]:
            found = [gallery.nearest_labels(maps[i], int(max(several))) for i in images]
            return {int(k): self._miou([self._votes(labels, int(k)) for labels in found], truth) for k in several}

        scores = score(list(self.k_grid))
        best = max(sorted(scores), key=scores.__getitem__)
        while len(scores) > 1 and best == max(scores) and 3 * best <= len(gallery.labels):
            scores |= (more := score([3 * best]))
            best = 3 * best if more[3 * best] > scores[best] else best
        return scores

    def _votes(self, neighbours: np.ndarray, k: int) -> Tensor:
        voters = torch.from_numpy(neighbours[..., :k])
        votes = torch.zeros(*voters.shape[:2], self.num_classes, dtype=torch.float32, device="cpu")
        return votes.scatter_add_(2, voters, torch.full(voters.shape, 1 / k, dtype=torch.float32, device="cpu"))

    def scores(self, features: Array) -> Tensor:
        """Share of the votes (h, w, C)."""
        require_fitted(self, "distance", "fit(maps, masks)")
        return self._votes(self._gallery.nearest_labels(features, self.k), self.k)

    def probabilities(self, features: Array) -> Tensor:
        """The same as `scores`."""
        return self.scores(features)


class _PatchGallery:
    """Patches to be found by one of `DISTANCES`: what does not depend on the queries is done once."""

    def __init__(self, patches: Patches, distance: str) -> None:
        self.width, self.labels, self.distance = patches.rows.shape[1], patches.labels, distance
        if distance == "euclidean":
            self.rows = patches.rows.double()
        else:
            self.by_cosine = ExactGallery(normalized(patches.rows), patches.rows.device, normal=True)

    def nearest_labels(self, features: Array, k: int) -> np.ndarray:
        """Labels (h, w, k) of the patches nearest to each token of a map (h, w, D), nearest first."""
        queries = _tokens(features, self.width)
        if self.distance == "euclidean":
            ids = nearest_by_distance(queries.double(), self.rows, k).numpy()
        else:
            ids = best_rows(queries, self.by_cosine, torch.full((len(queries),), -1, device="cpu"), k).ids
        return self.labels[ids].reshape(*features.shape[:2], k)


def nearest_by_distance(queries: Tensor, gallery: Tensor, k: int) -> Tensor:
    """The k rows of `gallery` (m, D) nearest to each of `queries` (q, D), both float64, nearest first: int64 (q, k).

    Those of candidates that |g|²/2 − q·g finds, the same order as |q − g|²; these are then compared by their
    differences, in which nothing cancels, equal ones by lowest id.
    """
    estimates = gallery.square().sum(1) / 2 - queries @ gallery.T
    width, rounding = k + _SPARE, 1e-12 * queries.square().sum(1)
    while True:
        values, ids = estimates.topk(min(width, len(gallery)), largest=False)
        if width >= len(gallery) or (values[:, -1] - values[:, k - 1] > rounding).all():
            break
        width *= 4
    ids = ids.sort(dim=1).values
    squares = torch.stack([(gallery[own] - query).square().sum(1) for own, query in zip(ids, queries, strict=True)])
    return ids.gather(1, squares.sort(dim=1, stable=True).indices[:, :k])


@dataclass(kw_only=True, eq=False)
class LogisticSegmenter(_PatchSegmenter):
    """Logistic regression on standardised patches; a patch's label is the majority of its pixels.

    C is chosen by the mIoU of held-out training images (the smallest of equals); then the classifier is fitted once
    more, to all training patches or a random choice of `max_patches`.

    After `fit`: `C`; `validation_miou` of the chosen one before refitting, `validation_mious` and `converged` by C.
    """

    C_grid: Sequence[float] = C_GRID
    max_iterations: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        LogisticProbe(C_grid=self.C_grid, max_iterations=self.max_iterations)  # refuses bad ones

    @own_modes()
    def fit(self, maps: Sequence[Array], masks: Sequence[np.ndarray]) -> LogisticSegmenter:
        """Fit on maps (h, w, D) and masks (H, W); returns self. Raises as `LinearSegmenter.fit`."""
        kept, held = self._split(maps, masks)
        train, tuning = self._patches(maps, masks, kept), self._patches(maps, masks, held)
        self._width = train.rows.shape[1]
        self.converged: dict[float, bool] = {}
        truth = [masks[i] for i in held]

        def score(strengths: list[float]) -> dict[float, float]:
            found = {}
            for strength in strengths:
                self._probe = self._fitted(strength, train, tuning)
                self.converged[strength] = self._probe.converged[strength]
                found[strength] = self._miou([self.scores(maps[i]) for i in held], truth)
            return found

        self.validation_mious = score(sorted(set(self.C_grid)))
        self.C = settle(self.validation_mious, score, C_LIMITS, count=1)
        self.validation_miou = self.validation_mious[self.C]
        self.warnings = end_warnings("C", self.validation_mious, self.C)
        if not self.converged[self.C]:
            self.warnings.append(f"not converged: C {self.C:g} after {self.max_iterations} iterations")
        self._probe = self._fitted(self.C, self._patches(maps, masks, np.arange(len(maps))), tuning)
        return self

    def _fitted(self, strength: float, train: Patches, tuning: Patches) -> LogisticProbe:
        probe = LogisticProbe(C_grid=(strength,), refit=False, max_iterations=self.max_iterations, seed=self.seed)
        return probe.fit(train.rows, train.labels, tuning.rows, tuning.labels)

    @own_modes()
    def scores(self, features: Array) -> Tensor:
        """Log-probabilities (h, w, C)."""
        require_fitted(self, "_probe", "fit(maps, masks)")
        rows = _tokens(features, self._width)
        probabilities = torch.from_numpy(self._probe.predict_proba(rows)).float()
        scores = torch.full((len(probabilities), self.num_classes), _LEAST, dtype=torch.float32, device="cpu")
        scores[:, torch.from_numpy(self._probe.classes)] = probabilities.clamp(min=_LEAST)
        return scores.log().unflatten(0, tuple(features.shape[:2]))
