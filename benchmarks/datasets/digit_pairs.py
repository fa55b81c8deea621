"""Pairs of placements of one scanned digit, where the truth of every point is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from randar_features.data import PhotoDigit, PhotoDigits, corresponding_points


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


def box_size(mask: np.ndarray) -> tuple[int, int]:
    """Width and height of the box around the non-zero pixels."""
    rows, columns = np.nonzero(mask)
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
