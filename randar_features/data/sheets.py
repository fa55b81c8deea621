"""Images side by side, each row and column under its name."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from randar_features.data.decode.transforms import contact_sheet, to_image

FONT_PIXELS = 11
MARGIN = 4
GAP = 2  # pixels between images
CUT = "…"


def labelled_sheet(
    images: Sequence[Tensor], columns: int, *, column_labels: Sequence[str] = (), row_labels: Sequence[str] = ()
) -> Image.Image:
    """Images ``(3, H, W)`` of one size side by side, row by row, on white, with names above and at the left.

    Args:
        images: in rows of `columns`.
        columns: images in a row.
        column_labels: one for each column, or none at all; what is wider than a column ends in "…".
        row_labels: one for each row, or none at all; the margin is as wide as the longest needs.

    Returns:
        Mode ``"RGB"``.

    Raises:
        ValueError: another number of labels.
    """
    sheet = to_image(contact_sheet(images, columns, GAP))
    height, width = images[0].shape[1:]
    rows = -(-len(images) // columns)
    for kind, labels, count in (("column", column_labels, columns), ("row", row_labels, rows)):
        if labels and len(labels) != count:
            raise ValueError(f"{len(labels)} {kind} labels for {count} {kind}s: give one for each")
    font = ImageFont.load_default(FONT_PIXELS)
    left = 2 * MARGIN + round(max(map(font.getlength, row_labels))) if row_labels else 0
    top = 2 * MARGIN + FONT_PIXELS if column_labels else 0
    labelled = Image.new("RGB", (left + sheet.width, top + sheet.height), "white")
    labelled.paste(sheet, (left, top))
    draw = ImageDraw.Draw(labelled)
    for column, label in enumerate(column_labels):
        place = (left + column * (width + GAP) + width / 2, top / 2)
        draw.text(place, fitted(label, width, font), "black", font, anchor="mm")
    for row, label in enumerate(row_labels):
        draw.text((left - MARGIN, top + row * (height + GAP) + height / 2), label, "black", font, anchor="rm")
    return labelled


def fitted(label: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """A label, or as much of it as fits into a width."""
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(label + CUT) > width:
        label = label[:-1]
    return label + CUT
