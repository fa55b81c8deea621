"""Pictures of segmentations: the image, the truth and the prediction in colours, and which colour is which class."""

from collections.abc import Sequence
from math import gcd

import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.patches import Rectangle

from benchmarks.report.figures import CHARACTER, FONT, GAP, LINE, enlarge, make_canvas, to_png

OPACITY = 0.6
SHADES = np.array([[1, 1], [1, 0.5], [0.45, 1]])  # saturation and value of bright, dark and pale colours
HEIGHT = 180  # pixels of a picture


def class_colours(count: int) -> np.ndarray:
    """Colours (count, 3) in [0, 1]: hues evenly spread, those of neighbours in the list far apart.

    Around the circle of hues they are bright, dark and pale in turn, so that those next to each other differ too.
    """
    step = next(step for step in range(round(0.4 * count), count + 1) if gcd(step, count) == 1)
    places = np.arange(count) * step % count
    return hsv_to_rgb(np.column_stack([places / count, SHADES[places % len(SHADES)]]))


def overlay(image: np.ndarray, mask: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) uint8 in the colours of its mask's classes; other values of the mask stay bare.

    Of the image the brightness alone shines through: its own colours would shift those of the classes.
    """
    known = (mask >= 0) & (mask < len(colours))
    grey = image.mean(axis=2, keepdims=True)
    tinted = (1 - OPACITY) * grey + OPACITY * 255 * colours[np.where(known, mask, 0)]
    return np.where(known[..., None], np.rint(tinted), image).astype(np.uint8)


def segmentations(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    ignore_index: int,
) -> bytes:
    """PNG: a row an image, with columns image, truth and prediction, and a legend of the classes that occur.

    Pixels to ignore are bare in both.
    """
    colours = class_colours(len(names))
    rows = []
    for image, truth, prediction in zip(images, truths, predictions, strict=True):
        shown = np.where(truth == ignore_index, ignore_index, prediction)
        pictures = [image, overlay(image, truth, colours), overlay(image, shown, colours)]
        rows.append([enlarge(picture, HEIGHT) for picture in pictures])
    present = sorted(
        {int(value) for mask in (*truths, *predictions) for value in np.unique(mask)} & {*range(len(names))}
    )
    places = _legend_places(present, names, sum(picture.width + GAP for picture in rows[0]))
    lines = places[-1][1] + 1 if places else 0
    canvas = make_canvas(rows, top=LINE * (1 + lines))
    for column, title in enumerate(("image", "truth", "prediction")):
        canvas.title(column, rows[0][column], title)
    for value, (x, line) in zip(present, places, strict=True):
        corner = (GAP + x, GAP + LINE * line)
        canvas.axes.add_patch(Rectangle(corner, 16, 16, color=(*colours[value], 1)))
        canvas.axes.text(corner[0] + 22, corner[1] + 8, names[value], va="center", fontsize=FONT)
    return to_png(canvas.figure)


def _legend_places(present: Sequence[int], names: Sequence[str], width: int) -> list[tuple[int, int]]:
    """Distance from the left, in pixels, and line of each entry."""
    places, x, line = [], 0, 0
    for value in present:
        entry = 22 + CHARACTER * (len(names[value]) + 2)
        if x and x + entry > width:
            x, line = 0, line + 1
        places.append((x, line))
        x += entry
    return places
