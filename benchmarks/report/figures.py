"""Pictures for reports, as PNG bytes. Images are uint8 (H, W, 3) arrays, or floats in [0, 1]."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Canvas:
    """A figure whose axes count its pixels, x to the right and y down, and the corner (x, y) of each cell on it."""

    figure: Figure
    axes: Axes
    corners: list[list[tuple[int, int]]]

    def title(self, column: int, picture: Image.Image, text: str) -> None:
        """Write a text above a column, whose first picture this is."""
        x, y = self.corners[0][column]
        self.axes.text(x + picture.width / 2, y - 6, text, ha="center", va="bottom", fontsize=FONT)


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
    for column, (title, picture) in enumerate(zip(column_titles, pictures[0], strict=False)):
        canvas.title(column, picture, title)
    for title, corners in zip(row_titles, canvas.corners, strict=False):
        canvas.axes.text(left - 2, corners[0][1] + height / 2, title, ha="right", va="center", fontsize=FONT)
    for colours, images, corners in zip(frames or [], pictures, canvas.corners, strict=False):
        for colour, image, corner in zip(colours, images, corners, strict=True):
            if colour is not None:
                width = 1.2 if colour == WRONG else 3.5
                canvas.axes.add_patch(Rectangle(corner, *image.size, fill=False, color=colour, linewidth=width))
    return to_png(canvas.figure)
