"""Pictures of more than 8 bits as 8 bits: which value is black, and which is white."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np
from PIL import Image

from randar_features.data.decode.opening import MAX_PIXELS, ImageError

DARK_SHARE = 1 / 64  # a picture that nowhere reaches this share of its range is noted
DEEP_DARK_SHARE = 1 / 16  # the same of more than 8 bits: 12-bit values in a 16-bit file reach a sixteenth
STRIP_VALUES = 2**22
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF, with the next
SAMPLE_FORMAT = 339
WHITE_IS_ZERO, SIGNED = 0, 2


@dataclass(frozen=True)
class Reading:
    """How pictures are read. The options of a command that reads pictures extend it.

    The range is never taken from a picture's own values, so that pictures stay comparable. Unless stated it is 0 to
    65535 for 16-bit integers, 0 to 2**bits − 1 if the file states fewer bits, and 0 to 1 for floats. Values outside a
    stated range are clipped. 8-bit pictures are always 0 to 255.

    Attributes:
        value_range: LOW HIGH, for pictures of more than 8 bits the values of black and of white, such as 0 4095;
            none: the range of their number type.
        max_pixels: largest number of pixels of a picture; larger ones count as unreadable and are not decoded.

    Raises:
        ValueError, TypeError: no such range, or a limit below 1.
    """

    value_range: tuple[float, float] | None = field(default=None, metadata={"metavar": "VALUE"})
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.value_range is not None:
            object.__setattr__(self, "value_range", _checked_range(self.value_range))
        if not isinstance(self.max_pixels, Integral) or isinstance(self.max_pixels, bool) or self.max_pixels < 1:
            raise ValueError(f"max_pixels must be a number of pixels of at least 1, got {self.max_pixels!r}")

    def content(self) -> dict[str, Any]:
        """What a store records of it, and compares: the range, None where none is stated."""
        return {"value_range": self.value_range and list(self.value_range)}

    @property
    def reading(self) -> Reading:
        """These two alone, of options that extend them."""
        return Reading(self.value_range, self.max_pixels)


DEFAULT_READING = Reading()


def _checked_range(value_range: Any) -> tuple[float, float]:
    try:
        low, high = value_range
        fits = all(isinstance(end, Real) and math.isfinite(end) for end in (low, high)) and low < high
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            "value_range must be two numbers, the value that is black and the higher one that is white, such as "
            f"(0, 4095), or None for the range of the number type; got {value_range!r}"
        )
    return float(low), float(high)


def is_deep(image: Image.Image) -> bool:
    """Whether a picture just opened holds more than 8 bits a value; Pillow reads colours of 16 bits as 8."""
    return image.mode[0] in "IF" or any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


def nominal_range(image: Image.Image) -> tuple[float, float]:
    """The range of the number type of an image of mode ``"I;16"``, ``"I"`` or ``"F"``, as its file has it."""
    if image.mode == "F":
        return 0.0, 1.0
    tags = getattr(image, "tag_v2", {})
    bits = min(tags.get(BITS_PER_SAMPLE, (16,))[0], 16)  # 32-bit integers hold 16-bit values as a rule
    signed = tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED and tags.get(BITS_PER_SAMPLE) == (16,)
    return 0.0, 2.0 ** (bits - signed) - 1


def eight_bit(image: Image.Image, value_range: tuple[float, float] | None) -> tuple[Image.Image, str | None]:
    """Modes ``"I;16"``, ``"I"`` and ``"F"`` as ``"L"``, and a note for its owner or None.

    Raises:
        ImageError: a value is NaN, or lies outside the nominal range, or the range cannot be told.
    """
    low, high = value_range or nominal_range(image)
    values = np.asarray(image)
    lowest, highest = values.min(), values.max()
    if value_range is None:
        _check_values(image, float(lowest), float(highest), high)
    elif not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ImageError(f"values from {lowest:g} to {highest:g}: expected finite numbers")
    scaled = np.empty(values.shape, np.uint8)
    step = max(STRIP_VALUES // max(values.shape[1], 1), 1)
    for start in range(0, len(values), step):
        rows = slice(start, start + step)
        share = (values[rows].astype(np.float64) - low) / (high - low)
        scaled[rows] = np.rint(share.clip(0, 1) * 255)
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        scaled, highest = 255 - scaled, low + high - lowest
    return Image.fromarray(scaled), _deep_darkness(float(highest), low, high)


def _check_values(image: Image.Image, lowest: float, highest: float, high: float) -> None:
    if not (lowest >= 0 and highest <= high):
        raise ImageError(
            f"values from {lowest:g} to {highest:g} of mode '{image.mode}', expected 0 to {high:g}: "
            "state value_range, the values that are black and white"
        )
    if image.mode == "I" and image.format != "PPM" and 0 < highest <= 255:
        raise ImageError(
            f"32-bit integers up to {highest:g} may be 8-bit values or dark 16-bit ones: state value_range, "
            "(0, 255) or (0, 65535)"
        )


def _deep_darkness(highest: float, low: float, high: float) -> str | None:
    if highest - low > DEEP_DARK_SHARE * (high - low):
        return None
    return (
        f"is nearly black: its values reach {highest:g} in a range from {low:g} to {high:g}; state value_range if "
        "another value is white, such as (0, 4095) of 12-bit data (--value-range 0 4095)"
    )


def darkness(brightest: float, share: float = DARK_SHARE) -> str | None:
    """What there is to note of a picture whose highest value is this share of its range, or None."""
    if brightest >= share:
        return None
    return f"is nearly black: its highest value is {brightest:.4f} of its range"


def deep_colours(high: Image.Image, low: Image.Image, value_range: tuple[float, float]) -> Image.Image:
    """An image of 16-bit colours as 8 bits under a stated range; `high` and `low` are its bytes, of one mode."""
    start, end = value_range
    shares = (np.arange(2**16) - start) / (end - start)
    table = np.rint(shares.clip(0, 1) * 255).astype(np.uint8)
    bands = []
    for name, upper, lower in zip(high.getbands(), high.split(), low.split(), strict=True):
        values = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
        bands.append(upper if name == "A" else Image.fromarray(table[values]))  # opacity is no value of the scene
    return Image.merge(high.mode, bands)


def swap_bytes(image: Image.Image) -> None:
    """Let a picture just opened, of 16-bit colours, give the low bytes of its values instead of the high ones."""
    native = {"little": "L", "big": "B"}[sys.byteorder]
    for number, tile in enumerate(image.tile):  # type: ignore[attr-defined]
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        mode, order = args[0].split(";16")
        swapped = {"L": "B", "B": "L"}[order.replace("N", native)]
        args = (f"{mode};16{swapped}", *args[1:])
        image.tile[number] = tile._replace(args=args if isinstance(tile.args, tuple) else args[0])  # type: ignore[attr-defined]
