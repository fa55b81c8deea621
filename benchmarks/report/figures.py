"""Pictures for reports, as PNG bytes. Images are uint8 (H, W, 3) arrays, or floats in [0, 1]."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

COLOURS = {"single": "#8a94a0", "repeat": "#e08e0b", "reverse": "#1565c0", "pixels": "#2e7d4f", "codes": "#9c3d8f"}
RIGHT, WRONG = "#12a150", "#e5343d"  # for those who see red as green, wrong frames are thin and wrong lines dashed
INK = "#1c2024"
DPI = 130
FONT = 10  # points
LINE, CHARACTER = 30, 10  # pixels that a line of titles is high, and a letter wide
GAP = 10  # pixels between images


def to_png(figure: Figure) -> bytes:
    """The figure on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def fewer_colours(png: bytes, colours: int) -> bytes:
    """The same picture with a palette of at most 256 colours, in a file of a third of the size."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(min(colours, 256), Image.Quantize.MEDIANCUT).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def layer_chart(curves: Mapping[str, Sequence[float]], baselines: Mapping[str, float], label: str) -> bytes:
    """A line over the layers for each context, a dashed level for what has no layers; shares in [0, 1]."""
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    ends = []
    for name, values in curves.items():
        shown = [100 * value for value in values]
        best = int(np.argmax(values))
        axes.plot(shown, color=COLOURS.get(name, INK), linewidth=2.2, marker="o", markersize=4)
        axes.plot(best, shown[best], "o", color=COLOURS.get(name, INK), markersize=10, markerfacecolor="white", mew=2.2)
        ends.append((shown[-1], name))
    for name, value in baselines.items():
        axes.axhline(100 * value, color=COLOURS.get(name, INK), linestyle="--", linewidth=1.6)
        ends.append((100 * value, name))
    last = max(len(values) for values in curves.values()) - 1
    axes.set(xlabel="layer", ylabel=label, xticks=range(last + 1), xlim=(-0.2, last + 0.2))
    axes.grid(axis="y", color="#e6e9ec")
    axes.spines[["top", "right"]].set_visible(False)
    _name_ends(axes, ends, last + 0.2)
    return to_png(figure)


def _name_ends(axes: Axes, ends: list[tuple[float, str]], x: float) -> None:
    """Write each name beside the end of its line, moved up where it would cover another, and tied to it."""
    low, high = axes.get_ylim()
    height, y = (high - low) / 18, -np.inf
    for value, name in sorted(ends):
        y = max(value, y + height)
        colour = COLOURS.get(name, INK)
        tie: dict[str, Any] = {"arrowstyle": "-", "color": colour, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
        place: dict[str, Any] = {"xy": (x, value), "xytext": (x + 0.15, y), "annotation_clip": False}
        axes.annotate(name, **place, color=colour, va="center", weight="bold", arrowprops=tie)


@dataclass(frozen=True)
class Canvas:
    """A figure whose axes count its pixels, x to the right and y down, and the corner (x, y) of each cell on it."""

    figure: Figure
    axes: Axes
    corners: list[list[tuple[int, int]]]


def make_canvas(rows: Sequence[Sequence[Image.Image]], *, left: int = 0, top: int = 0) -> Canvas:
    """Pictures in rows and columns on white, GAP pixels apart, with room for titles at the left and above."""
    widths = [max(row[c].width for row in rows if c < len(row)) + GAP for c in range(max(map(len, rows)))]
    heights = [max(image.height for image in row) + GAP for row in rows]
    xs, ys = np.cumsum([left + GAP, *widths]), np.cumsum([top + GAP, *heights])
    paper = Image.new("RGB", (int(xs[-1]), int(ys[-1])), "white")
    corners = [[(int(xs[c]), int(ys[r])) for c in range(len(row))] for r, row in enumerate(rows)]
    for images, places in zip(rows, corners, strict=True):
        for image, place in zip(images, places, strict=True):
            paper.paste(image, place)
    figure = Figure(figsize=(paper.width / DPI, paper.height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.asarray(paper), extent=(0, paper.width, paper.height, 0), interpolation="none")
    axes.set_axis_off()
    return Canvas(figure, axes, corners)


def enlarge(image: np.ndarray, height: int, *, smooth: bool = False) -> Image.Image:
    """A picture of the given height; smooth: bicubic, else each pixel a rectangle."""
    picture = as_picture(image)
    width = round(picture.width * height / picture.height)
    return picture.resize((width, height), Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST)


def as_picture(image: np.ndarray) -> Image.Image:
    """uint8 (H, W, 3), or floats in [0, 1]."""
    return Image.fromarray(image if image.dtype == np.uint8 else np.rint(255 * image).astype(np.uint8))


def image_grid(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    frames: Sequence[Sequence[str | None]] | None = None,
    height: int = 128,
    smooth: bool = False,
) -> bytes:
    """Images in rows and columns with titles.

    frames: colour of the frame around each image, None for none. height: of an image, in pixels. smooth: see
    `enlarge`.
    """
    pictures = [[enlarge(image, height, smooth=smooth) for image in row] for row in rows]
    left = CHARACTER * max(map(len, row_titles), default=0)
    canvas = make_canvas(pictures, left=left, top=LINE if column_titles else 0)
    for title, picture, (x, y) in zip(column_titles, pictures[0], canvas.corners[0], strict=False):
        canvas.axes.text(x + picture.width / 2, y - 6, title, ha="center", va="bottom", fontsize=FONT)
    for title, corners in zip(row_titles, canvas.corners, strict=False):
        canvas.axes.text(left - 2, corners[0][1] + height / 2, title, ha="right", va="center", fontsize=FONT)
    for colours, images, corners in zip(frames or [], pictures, canvas.corners, strict=False):
        for colour, image, corner in zip(colours, images, corners, strict=True):
            if colour is not None:
                width = 1.2 if colour == WRONG else 3.5
                canvas.axes.add_patch(Rectangle(corner, *image.size, fill=False, color=colour, linewidth=width))
    return to_png(canvas.figure)


def match_lines(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    points: Sequence[np.ndarray],
    found: Mapping[str, Sequence[np.ndarray]],
    right: Mapping[str, Sequence[np.ndarray]],
    *,
    scale: int = 3,
) -> bytes:
    """Lines from points of a first image to the ones found in a second, green where right, else red and dashed.

    pairs: P pairs of images of one height. points: (K, 2) x and y of each pair, (0, 0) the centre of the first
    pixel. found, right: by representation, one a column, (K, 2) and bool (K,) of each pair. scale: pixels drawn
    a pixel.
    """
    joined = [np.concatenate([first, _margin(first), second], axis=1) for first, second in pairs]
    row = [[enlarge(image, scale * len(image))] * len(found) for image in joined]
    canvas = make_canvas(row, top=LINE)
    for c, name in enumerate(found):
        x, y = canvas.corners[0][c]
        total = sum(int(each.sum()) for each in right[name]), sum(map(len, right[name]))
        title = f"{name}: {total[0]} of {total[1]}"
        canvas.axes.text(x + row[0][c].width / 2, y - 6, title, ha="center", va="bottom", fontsize=FONT)
        for r, (first, _) in enumerate(pairs):
            shift = np.array([first.shape[1] + _margin(first).shape[1], 0])
            ends = (scale * (p + 0.5) + canvas.corners[r][c] for p in (points[r], found[name][r] + shift))
            for start, end, ok in zip(*ends, right[name][r], strict=True):
                _line(canvas.axes, start, end, ok)
    return to_png(canvas.figure)


def _margin(image: np.ndarray) -> np.ndarray:
    return np.full((len(image), len(image) // 8, 3), 255, dtype=image.dtype)


def _line(axes: Axes, start: np.ndarray, end: np.ndarray, right: bool) -> None:
    (line,) = axes.plot(*zip(start, end, strict=True), color=RIGHT if right else WRONG, linewidth=1.4)
    line.set(linestyle="-" if right else "--", marker="o", markersize=4, mec="white", mew=0.7)
