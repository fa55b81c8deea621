"""Pictures of matched points: lines from an image to the points found in another."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from benchmarks.datasets.point_pairs import PairSet, PointPair
from benchmarks.report.figures import LINE, RIGHT, WRONG, as_picture, make_canvas, to_png

SHOWN_PAIRS, SHOWN_POINTS, SHOWN_HEIGHT = 3, 10, 160


def is_right(found: np.ndarray, pair: PointPair, kept: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Which points were found within a tenth of the box's longer side, bool (K,); `kept`: those that `found` has."""
    return np.linalg.norm(found - pair.targets[kept], axis=1) <= 0.1 * max(pair.box)


def match_lines(found: Mapping[str, Sequence[np.ndarray]], data: PairSet) -> bytes:
    """PNG of some pairs, a column each representation: lines to the places found, green if right, else red and dashed.

    found: by representation, the pixels (K, 2) found in the target of every pair of the set; at most `SHOWN_POINTS` of
    each pair are drawn.
    """
    chosen = np.unique(np.linspace(0, len(data.pairs) - 1, SHOWN_PAIRS).round().astype(int)).tolist()
    images = [[_shown(data, image) for image in (data.pairs[n].source, data.pairs[n].target)] for n in chosen]
    joined = [np.concatenate([first, _margin(first), second], axis=1) for first, second in images]
    rows = [[as_picture(image)] * len(found) for image in joined]
    canvas = make_canvas(rows, top=LINE)
    for c, (name, of_pairs) in enumerate(found.items()):
        counts = np.zeros(2, int)
        for r, n in enumerate(chosen):
            pair, first = data.pairs[n], images[r][0]
            kept = np.linspace(0, len(pair.points) - 1, min(SHOWN_POINTS, len(pair.points))).round().astype(int)
            right = is_right(of_pairs[n][kept], pair, kept)
            counts += int(right.sum()), len(right)
            shift = np.array([first.shape[1] + _margin(first).shape[1], 0])
            starts = _scaled(pair.points[kept], data.sizes[pair.source])
            ends = _scaled(of_pairs[n][kept], data.sizes[pair.target]) + shift
            for start, end, ok in zip(starts, ends, right, strict=True):
                _line(canvas.axes, start + 0.5 + canvas.corners[r][c], end + 0.5 + canvas.corners[r][c], bool(ok))
        canvas.title(c, rows[0][c], f"{name}: {counts[0]} of {counts[1]}")
    return to_png(canvas.figure)


def _shown(data: PairSet, image: int) -> np.ndarray:
    height, width = data.sizes[image]
    size = round(width * SHOWN_HEIGHT / height), SHOWN_HEIGHT
    return np.asarray(Image.fromarray(data.load(image)).resize(size, Image.Resampling.BICUBIC))


def _scaled(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels of an image of this size as those of its picture, `SHOWN_HEIGHT` high."""
    return (points + 0.5) * (SHOWN_HEIGHT / size[0]) - 0.5


def _margin(image: np.ndarray) -> np.ndarray:
    return np.full((len(image), len(image) // 8, 3), 255, dtype=image.dtype)


def _line(axes: Axes, start: np.ndarray, end: np.ndarray, right: bool) -> None:
    (line,) = axes.plot(*zip(start, end, strict=True), color=RIGHT if right else WRONG, linewidth=1.4)
    line.set(linestyle="-" if right else "--", marker="o", markersize=4, mec="white", mew=0.7)
