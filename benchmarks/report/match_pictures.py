"""Pictures of matched points: lines from an image to the places found in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from benchmarks.datasets.point_pairs import PairSet, PointPair
from benchmarks.report import figures

SHOWN_PAIRS, SHOWN_POINTS, SHOWN_HEIGHT = 3, 10, 160


def is_right(found: np.ndarray, pair: PointPair, kept: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Which points were found within a tenth of the box's longer side, bool (K,); `kept`: those that `found` has."""
    return np.linalg.norm(found - pair.targets[kept], axis=1) <= 0.1 * max(pair.box)


def match_lines(found: Mapping[str, Sequence[np.ndarray]], data: PairSet) -> bytes:
    """PNG of some pairs, one column a representation, with at most `SHOWN_POINTS` lines each.

    found: by representation, the pixels (K, 2) found in the target of every pair of the set.
    """
    rows = np.unique(np.linspace(0, len(data.pairs) - 1, SHOWN_PAIRS).round().astype(int)).tolist()
    pairs = [data.pairs[row] for row in rows]
    kept = [np.linspace(0, len(p.points) - 1, min(SHOWN_POINTS, len(p.points))).round().astype(int) for p in pairs]
    columns = {n: [each[row][k] for row, k in zip(rows, kept, strict=True)] for n, each in found.items()}
    return figures.match_lines(
        [(_shown(data, pair.source), _shown(data, pair.target)) for pair in pairs],
        [_scaled(pair.points[k], data.sizes[pair.source]) for pair, k in zip(pairs, kept, strict=True)],
        {n: [_scaled(f, data.sizes[p.target]) for f, p in zip(of, pairs, strict=True)] for n, of in columns.items()},
        {n: [is_right(f, p, k) for f, p, k in zip(of, pairs, kept, strict=True)] for n, of in columns.items()},
        scale=1,
    )


def _shown(data: PairSet, image: int) -> np.ndarray:
    height, width = data.sizes[image]
    size = round(width * SHOWN_HEIGHT / height), SHOWN_HEIGHT
    return np.asarray(Image.fromarray(data.load(image)).resize(size, Image.Resampling.BICUBIC))


def _scaled(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels of an image of this size as those of its picture, `SHOWN_HEIGHT` high."""
    return (points + 0.5) * (SHOWN_HEIGHT / size[0]) - 0.5
