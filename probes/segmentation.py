"""Segmentation from frozen feature maps: a linear head on the token grid, and what all such heads share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from probes.classifier import require_fitted, warm_up_cosine
from probes.dense_metrics import mean_iou, segmentation_counts
from probes.grids import RATE_LIMITS, end_warnings, settle
from probes.inputs import Array, at_least_float32, check_counts, float_tensor, own_modes, sorted_grid, whole_number
from probes.splits import stratified_holdout

LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
IGNORE = 255


class Segmenter(Protocol):
    """A head that was fitted to maps (h, w, D) and masks (H, W), and scores the classes of each token."""

    num_classes: int

    def fit(self, maps: Sequence[Array], masks: Sequence[np.ndarray]) -> Any:
        """Fit to maps and to masks of the images' own sizes; returns itself."""

    def scores(self, features: Array) -> Tensor:
        """Logits, log-probabilities or votes (h, w, C) of a map (h, w, D)."""

    def probabilities(self, features: Array) -> Tensor:
        """The scores as shares that sum to 1 (h, w, C); of logits and log-probabilities the softmax."""
        return self.scores(features).softmax(2)


def upsample(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores (h, w, C) of tokens at every pixel: (C, H, W), bilinear with half-pixel centres."""
    planes = scores.permute(2, 0, 1).contiguous()  # PyTorch is four times as fast with them
    return F.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0]


def segment(scores: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Class of the highest up-sampled score at every pixel, the lowest of equals: int64 (H, W)."""
    return upsample(scores, size).max(0).indices.cpu().numpy()  # on a CPU ten times as fast as argmax


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at another size (H, W): the value at the middle of each new pixel, none in between."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(mask.shape, size, strict=True))
    return mask[rows[:, None], columns]


def count_scores(
    scores: Iterable[Tensor], masks: Sequence[np.ndarray], num_classes: int, ignore_index: int
) -> np.ndarray:
    """`segmentation_counts` of images by their token scores (h, w, C), at the size of their masks: int64 (n, C, C)."""
    counts = [
        segmentation_counts(segment(own, mask.shape), mask, num_classes, ignore_index)
        for own, mask in zip(scores, masks, strict=True)
    ]
    return np.stack(counts)


def tuning_images(
    masks: Sequence[np.ndarray], fraction: float, seed: int, ignore_index: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images to fit and images to choose options on: whole ones, since patches of one image are alike.

    Raises ValueError where there are too few of them, or all pixels of either part are ignored.
    """
    count = len(masks)
    if count * fraction <= 0.5:
        raise ValueError(f"{fraction:.0%} of {count} images leave none to choose options on: give more images")
    parts = stratified_holdout(np.zeros(count, np.int64), fraction, seed)
    for purpose, part in zip(("fit", "choose options on"), parts, strict=True):
        if not any((masks[i] != ignore_index).any() for i in part):
            raise ValueError(
                f"the {len(part)} of {count} images to {purpose} have only ignored pixels ({ignore_index}): leave such "
                "images out, or give another seed"
            )
    return parts


def check_classes(num_classes: int) -> None:
    """Raise unless it is an integer of at least 2."""
    if whole_number(num_classes, "num_classes") < 2:
        raise ValueError(f"num_classes must be ≥ 2, got {num_classes}")


def check_pairs(maps: Sequence[Array], masks: Sequence[np.ndarray], num_classes: int, ignore_index: int) -> None:
    """Raise unless there are as many maps (h, w, D) as masks (H, W), of one D, whose values are classes or ignored."""
    if len(maps) != len(masks) or not len(maps):
        raise ValueError(f"as many maps as masks are needed, and at least one, got {len(maps)} and {len(masks)}")
    for number, (features, mask) in enumerate(zip(maps, masks, strict=True)):
        float_tensor(features, f"map {number}", "(h, w, D)", 3)
        if features.shape[2] != maps[0].shape[2]:
            raise ValueError(f"maps must share D, got {maps[0].shape[2]} and, in map {number}, {features.shape[2]}")
        if not isinstance(mask, np.ndarray):
            raise TypeError(f"mask {number} must be a numpy array, got {type(mask).__name__}")
        if mask.ndim != 2 or not mask.size or not np.issubdtype(mask.dtype, np.integer):
            raise ValueError(f"mask {number} must be integers (H, W), got {mask.dtype} {mask.shape}")
        values = np.unique(mask)
        wrong = values[((values < 0) | (values >= num_classes)) & (values != ignore_index)]
        if len(wrong):
            raise ValueError(
                f"mask {number} holds {wrong.tolist()[:5]}: expected classes 0 … {num_classes - 1}, or {ignore_index} "
                "for pixels to ignore; set num_classes or ignore_index"
            )


@dataclass(kw_only=True, eq=False)
class LinearSegmenter(Segmenter):
    """Batch normalisation and a 1×1 convolution on the token grid, logits up-sampled, cross-entropy at the pixels.

    After DINOv3's linear protocol (`eval/segmentation/configs/config-ade20k-linear-training.yaml`): AdamW with
    weight decay 1e-3, linear warm-up over a twenty-fifth of the iterations, cosine to 0. Several learning rates
    train at once on the same batches, each with its own weights from N(0, 0.01²), biases 0; the one with the best
    mIoU on held-out training images, scored at the size of their masks, is kept (of equals the lowest). Where the
    lowest or the highest is best, rates beyond it are trained on the same batches. Unlike DINOv3: the features are
    given, so there is no augmentation and no dropout; the normalisation has no weights of its own, which the
    convolution makes superfluous, takes the batch's statistics in training and running ones (momentum 0.1) afterwards;
    of each image of a batch, `pixels` random ones have a loss (None: all of them).

    After `fit`: `learning_rate`; `validation_miou` of the chosen head and `validation_mious` by learning rate;
    `weight` (D, C) and `bias` (C,), which take the features as they are.
    """

    num_classes: int = field(kw_only=False)
    ignore_index: int = IGNORE
    learning_rates: Sequence[float] = LEARNING_RATES
    iterations: int = 1000
    batch_size: int = 16
    pixels: int | None = 1024
    weight_decay: float = 1e-3
    validation_fraction: float = 0.1
    seed: int = 0
    device: torch.device | str = "cpu"
    """Where the heads are trained."""

    def __post_init__(self) -> None:
        pixels = 1 if self.pixels is None else self.pixels
        check_counts(iterations=self.iterations, batch_size=self.batch_size, pixels=pixels)
        check_classes(self.num_classes)
        self.learning_rates = sorted_grid(self.learning_rates, "learning_rates")
        self.device = torch.device(self.device)  # refuses a bad one

    @own_modes()
    def fit(self, maps: Sequence[Array], masks: Sequence[np.ndarray]) -> LinearSegmenter:
        """Fit on maps (h, w, D), each of its own h and w, and masks (H, W) of integers; returns self.

        Raises on other shapes and values, and on too few images to hold one out.
        """
        check_pairs(maps, masks, self.num_classes, self.ignore_index)
        kept, held = tuning_images(masks, self.validation_fraction, self.seed, self.ignore_index)
        self.validation_miou = -1.0

        def score(rates: list[float]) -> dict[float, float]:
            """Train heads of these rates on the same batches, keep the best so far, and tell how good each is."""
            heads = self._train(maps, masks, kept, sorted(rates))
            return self._choose(heads.eval(), sorted(rates), maps, masks, held)

        scores = score(list(self.learning_rates))
        settle(scores, score, RATE_LIMITS)
        self.validation_mious = dict(sorted(scores.items()))
        self.warnings = end_warnings("learning rate", scores, self.learning_rate)
        return self

    def _train(
        self, maps: Sequence[Array], masks: Sequence[np.ndarray], images: np.ndarray, rates: Sequence[float]
    ) -> _Heads:
        generator = torch.Generator().manual_seed(self.seed)
        heads = _Heads(maps[0].shape[2], self.num_classes, len(rates), generator).to(self.device)
        groups = [{"params": [heads.weights[r], heads.biases[r]], "lr": rate} for r, rate in enumerate(rates)]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        most, warm_up = self.iterations, self.iterations // 25
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: warm_up_cosine(done, most, warm_up))
        for rows in self._batches(images, generator):
            grids = (float_tensor(maps[row], f"map {row}", "(h, w, D)", 3) for row in rows)
            batch = [(grid, *self._draw(masks[row], generator)) for grid, row in zip(grids, rows, strict=True)]
            optimizer.zero_grad()
            self._loss(heads, batch).backward()
            optimizer.step()
            schedule.step()
        return heads

    def _batches(self, images: np.ndarray, generator: torch.Generator) -> Iterator[list[int]]:
        """Images of each iteration: all of them once in random order, then again; short batches are left out."""
        size, done = min(self.batch_size, len(images)), 0
        while True:
            order = images[torch.randperm(len(images), generator=generator, device="cpu").numpy()].tolist()
            for start in range(0, len(order) - size + 1, size):
                if done == self.iterations:
                    return
                done += 1
                yield order[start : start + size]

    def _draw(self, mask: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Places (P, 2) of pixels as `grid_sample` counts them, x and y in (−1, 1), and their labels (P,)."""
        height, width = mask.shape
        count = height * width
        drawn = (
            torch.arange(count, device="cpu")
            if self.pixels is None
            else torch.randint(count, (self.pixels,), generator=generator, device="cpu")
        )
        labels = torch.from_numpy(mask.reshape(-1)[drawn.numpy()].astype(np.int64))
        centres = torch.stack([drawn % width, drawn // width], 1).float() + 0.5
        return centres / torch.tensor([width, height], device="cpu") * 2 - 1, labels

    def _loss(self, heads: _Heads, batch: Sequence[tuple[Array, Tensor, Tensor]]) -> Tensor:
        """Sum over the heads of each one's mean cross-entropy over the pixels that count."""
        grids = [torch.as_tensor(features, dtype=torch.float32, device=self.device) for features, _, _ in batch]
        logits = heads(torch.cat([grid.flatten(0, 1) for grid in grids]))  # (tokens, R, C)
        sampled = []
        parts = logits.split([grid.shape[0] * grid.shape[1] for grid in grids])
        for grid, tokens, (_, places, _) in zip(grids, parts, batch, strict=True):
            image = tokens.flatten(1).T.unflatten(1, grid.shape[:2])[None]  # (1, R·C, h, w)
            found = F.grid_sample(image, places.to(self.device)[None, None], padding_mode="border", align_corners=False)
            sampled.append(found[0, :, 0].T.unflatten(1, logits.shape[1:]))  # (P, R, C)
        labels = torch.cat([labels for _, _, labels in batch]).to(self.device)
        kept = labels != self.ignore_index
        labels = labels[kept][:, None].expand(-1, logits.shape[1])
        losses = F.cross_entropy(torch.cat(sampled)[kept].flatten(0, 1), labels.flatten(), reduction="sum")
        return losses / kept.sum().clamp(min=1)

    def _choose(
        self,
        heads: _Heads,
        rates: Sequence[float],
        maps: Sequence[Array],
        masks: Sequence[np.ndarray],
        images: np.ndarray,
    ) -> dict[float, float]:
        folded = [heads.folded(r) for r in range(len(rates))]
        truth = [masks[i] for i in images]
        scores = []
        for head in folded:
            logits = (_affine(maps[i], *head) for i in images)
            scores.append(mean_iou(count_scores(logits, truth, self.num_classes, self.ignore_index).sum(0)))
        best = int(np.argmax(scores))
        if scores[best] > self.validation_miou:
            self.learning_rate, self.validation_miou = rates[best], scores[best]
            self.weight, self.bias = folded[best]
        return dict(zip(rates, scores, strict=True))

    @own_modes()
    def scores(self, features: Array) -> Tensor:
        """Logits (h, w, C) of a map (h, w, D)."""
        require_fitted(self, "weight", "fit(maps, masks)")
        return _affine(features, self.weight, self.bias)


def _affine(features: Array, weight: Tensor, bias: Tensor) -> Tensor:
    rows = float_tensor(features, "features", f"(h, w, {len(weight)})", 3, len(weight))
    return at_least_float32(rows).to(weight) @ weight + bias


class _Heads(nn.Module):
    """R linear heads after one normalisation: tokens (n, D) → logits (n, R, C)."""

    def __init__(self, width: int, num_classes: int, count: int, generator: torch.Generator) -> None:
        super().__init__()
        start = torch.empty(num_classes, width, dtype=torch.float32, device="cpu").normal_(0, 0.01, generator=generator)
        self.norm = nn.BatchNorm1d(width, affine=False, dtype=torch.float32, device="cpu")
        self.weights = nn.ParameterList([nn.Parameter(start.clone()) for _ in range(count)])
        self.biases = nn.ParameterList(
            [nn.Parameter(torch.zeros(num_classes, dtype=torch.float32, device="cpu")) for _ in range(count)]
        )

    def forward(self, tokens: Tensor) -> Tensor:
        logits = F.linear(self.norm(tokens), torch.cat(list(self.weights)), torch.cat(list(self.biases)))
        return logits.unflatten(1, (len(self.weights), -1))

    @torch.no_grad()
    def folded(self, head: int) -> tuple[Tensor, Tensor]:
        """Weight (D, C) and bias (C,) of one head that take features which are not normalised."""
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        scale = (self.norm.running_var + self.norm.eps).rsqrt()
        weight = scale[:, None] * self.weights[head].T
        return weight, self.biases[head] - self.norm.running_mean @ weight
