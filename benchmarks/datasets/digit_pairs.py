"""Point matching between two placements of one scanned digit, where every point's truth is known.

The layer of each representation is chosen on pairs of validation scans; the test pairs are touched once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from benchmarks.datasets.digits import BATCH_SIZE
from probes import bootstrap_interval, match_points, pck
from randar_features import Model, extract_features
from randar_features.data import PhotoDigit, PhotoDigits, corresponding_points

ALPHA = 0.1


@dataclass(frozen=True)
class Pair:
    """Two placements of one scan, and the same K points in both: (x, y) pixels, 0 the centre of the first pixel."""

    first: PhotoDigit
    second: PhotoDigit
    points: np.ndarray
    targets: np.ndarray


def load_pairs(split: str, size: int, *, count: int, points: int, seed: int) -> list[Pair]:
    """Pairs of placements of the first `count` scans of a split, with at most `points` common points each."""
    data, generator = PhotoDigits(split, size, 2, seed), np.random.default_rng(seed)
    pairs = []
    for scan in tqdm(range(min(count, len(data.scans))), desc=f"pairs {split}", unit="pair", leave=False):
        first, second = data[2 * scan], data[2 * scan + 1]
        sources, targets = corresponding_points(first, second)
        picked = np.sort(generator.choice(len(sources), min(points, len(sources)), replace=False))
        pairs.append(Pair(first, second, sources[picked] - 0.5, targets[picked] - 0.5))
    return pairs


def pair_maps(representation: str, pairs: Sequence[Pair], model: Model) -> Tensor:
    """Maps (pairs, 2, L, G, G, D) of both pictures: of "pixels" (each patch's), "codes", or a context's every layer."""
    images = [sample.image for pair in pairs for sample in (pair.first, pair.second)]
    config = model.transformer.config
    if representation in ("pixels", "codes"):
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        maps = (_patches if representation == "pixels" else _codes)(pixels, model)[:, None]
    else:
        layers = range(config.num_layers)
        features = extract_features(images, model, layers=layers, context=representation, batch_size=BATCH_SIZE)
        assert features.maps is not None
        maps = features.maps
    return maps.unflatten(0, (-1, 2))


def _patches(pixels: Tensor, model: Model) -> Tensor:
    patch = model.image_size // model.transformer.config.grid
    return F.pixel_unshuffle(pixels, patch).permute(0, 2, 3, 1)


def _codes(pixels: Tensor, model: Model) -> Tensor:
    grid, tokenizer = model.transformer.config.grid, model.tokenizer
    tokens = [tokenizer.encode(batch.to(model.device)) for batch in pixels.split(BATCH_SIZE)]
    return tokenizer.codes(torch.cat(tokens)).cpu().unflatten(1, (grid, grid))


def match(maps: Tensor, pairs: Sequence[Pair]) -> list[np.ndarray]:
    """The points found in each pair's second picture: maps (pairs, 2, G, G, D) → (K, 2) each."""
    found = []
    for (source, target), pair in zip(maps, pairs, strict=True):
        sizes = {"source_size": pair.first.mask.shape, "target_size": pair.second.mask.shape}
        found.append(match_points(source, target, pair.points, **sizes))
    return found


def score(found: Sequence[np.ndarray], pairs: Sequence[Pair]) -> dict[str, float]:
    """PCK@0.1 under all four conventions, see `probes.pck`."""
    owners = np.repeat(np.arange(len(pairs)), [len(pair.points) for pair in pairs])
    return pck(
        np.concatenate(found).astype(np.float64),
        np.concatenate([pair.targets for pair in pairs]),
        owners,
        box_sizes=np.array([box_size(pair.second.mask) for pair in pairs], dtype=np.float64),
        image_sizes=np.array([pair.second.mask.shape for pair in pairs], dtype=np.float64),
        alpha=ALPHA,
    )


def box_size(mask: np.ndarray) -> tuple[int, int]:
    """Width and height of the box around the non-zero pixels."""
    rows, columns = np.nonzero(mask)
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


def right(found: np.ndarray, pair: Pair) -> np.ndarray:
    """Which points were found within a tenth of the picture's longer side, bool (K,)."""
    return np.linalg.norm(found - pair.targets, axis=1) <= ALPHA * max(pair.second.mask.shape)


@dataclass(frozen=True)
class Matched:
    """A representation's layer of the best validation PCK, and what it finds in the test pairs."""

    name: str
    layer: int
    validation: list[float]
    found: list[np.ndarray]

    def summary(self, pairs: Sequence[Pair], seed: int) -> dict[str, Any]:
        """Numbers for a table: PCK of the test pairs, the interval that of `image_per_image`."""
        shares = np.array([right(found, pair).mean() for found, pair in zip(self.found, pairs, strict=True)])
        return {
            "representation": self.name,
            "layer": self.layer,
            "validation": self.validation,
            **score(self.found, pairs),
            "interval": bootstrap_interval(shares, seed=seed),
        }


def match_with(representation: str, validation: Sequence[Pair], test: Sequence[Pair], model: Model) -> Matched:
    """Choose the layer (the first of equals) by `image_per_image`, then match the test pairs with it."""
    maps = pair_maps(representation, [*validation, *test], model)
    scores = []
    for layer in tqdm(range(maps.shape[2]), desc=f"match {representation}", unit="layer", leave=False):
        scores.append(score(match(maps[: len(validation), :, layer], validation), validation)["image_per_image"])
    layer = int(np.argmax(scores))
    return Matched(representation, layer, scores, match(maps[len(validation) :, :, layer], test))


def same_place(test: Sequence[Pair]) -> Matched:
    """Every point is sought where it was in the first picture: what no feature at all achieves."""
    return Matched("same place", 0, [], [np.rint(pair.points).astype(np.int64) for pair in test])
