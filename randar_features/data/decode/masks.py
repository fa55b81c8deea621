"""Masks: one class number for each pixel, turned as their image is."""

import os
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from randar_features.data.decode.decoding import TURNS, decode, orientation_of
from randar_features.data.decode.opening import ImageError
from randar_features.data.decode.ranges import DEFAULT_READING, Reading

MASK_MODES = ("L", "P", "1", "I", "I;16", "I;16B")
LOSSY_FORMATS = ("JPEG", "MPO")
MaskOrientation = Literal["stored", "upright"]
WHITE = 255  # what many tools write for the one class of two that is not background


def load_mask(mask: str | os.PathLike[str] | bytes | Image.Image | np.ndarray) -> NDArray[np.integer]:
    """Classes of all pixels, ``(H, W)``: of a picture with one number a pixel (palettes give their numbers).

    The mask's own EXIF orientation is applied.

    Raises:
        ImageError: it cannot be read, or holds colours or opacity, or was compressed with loss.
        ValueError: an array of another shape, or that holds no integers.
    """
    return read_mask(mask)[0]


def read_mask(mask: Any, reading: Reading = DEFAULT_READING) -> tuple[NDArray[np.integer], int | None]:
    """As :func:`load_mask`, and the EXIF orientation that the mask's file states, None if it states none."""
    mask = mask.numpy(force=True) if isinstance(mask, Tensor) else mask
    if not isinstance(mask, np.ndarray):
        return decode(mask, _class_numbers, reading)
    mask = mask.astype(np.uint8) if mask.dtype == bool else mask
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
        raise ValueError(f"a mask must be integers (H, W), got {mask.dtype} {mask.shape}")
    return mask, None


def read_painted(mask: Any, reading: Reading = DEFAULT_READING) -> tuple[NDArray[np.uint8], int | None]:
    """A picture painted in white and black as brightness, uint8 (H, W), and the EXIF orientation that its file states.

    Raises:
        ImageError: it cannot be read, or has transparent pixels, which may mean either.
    """
    return decode(mask, _brightness, reading)


def _brightness(image: Image.Image) -> tuple[NDArray[np.uint8], int | None]:
    stored = orientation_of(image)
    image.load()
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise ImageError("a mask with transparent pixels: paint it white where to draw anew, black elsewhere, opaque")
    brightness = np.asarray(image.convert("RGB").convert("L"))
    return turn(brightness, orientation_of(image)), stored


def fit_mask(
    mask: NDArray[Any],
    size: tuple[int, int],
    *,
    own: int | None,
    image: int | None,
    orientation: MaskOrientation | None = None,
) -> NDArray[Any]:
    """A mask as it lies on its upright image.

    A camera stores an image as its sensor lay, and states by EXIF how to turn it. A mask may be drawn on the stored
    image or on the upright one: its size or its own EXIF tells. If neither does, it is refused until `orientation`
    says it, because a guess could put every mask on the wrong pixels.

    Args:
        mask: (H, W), turned by its own EXIF orientation already.
        size: height and width of the upright image.
        own: the EXIF orientation that the mask states, None if it states none.
        image: the EXIF orientation that the image states, None if it states none.
        orientation: what masks without EXIF were drawn on: the "stored" image or the "upright" one. "upright" also
            takes a mask as its own EXIF turns it, where the image's EXIF says something else.

    Returns:
        (height, width) of `mask`'s dtype.

    Raises:
        ImageError: the mask is of another size either way, or cannot tell which way it lies.
    """
    turned = turn(mask, image)
    fits, turned_fits = mask.shape == size, turned.shape == size
    if not (fits or turned_fits):
        sizes = " and ".join(f"{width}x{height}" for height, width in (size, mask.shape))
        raise ImageError(f"image and mask must have one size, got {sizes} pixels")
    if own in TURNS and own != image and orientation != "upright":
        raise ImageError(
            f"the mask is turned by its EXIF orientation {own}, the image by {image or 'none'}: write both with one "
            "orientation, or state mask_orientation='upright' if that is how they lie on each other"
        )
    if fits and turned_fits and image in TURNS and own is None:
        if orientation is None:
            raise ImageError(
                f"the image is turned upright by its EXIF orientation {image}, and the mask does not tell whether it "
                "was drawn on the stored image or on the upright one: state mask_orientation, 'stored' or 'upright'"
            )
        fits = orientation == "upright"
    return mask if fits else turned


def turn(mask: NDArray[Any], orientation: int | None) -> NDArray[Any]:
    """An array (H, W) that is stored in an EXIF orientation, upright."""
    flips = {
        2: mask[:, ::-1],
        3: mask[::-1, ::-1],
        4: mask[::-1],
        5: mask.T,
        6: mask.T[:, ::-1],
        7: mask[::-1, ::-1].T,
        8: mask.T[::-1],
    }
    return np.ascontiguousarray(flips[orientation]) if orientation in flips else mask


def is_white_on_black(values: NDArray[np.integer], num_classes: int | None, ignore_index: int | None) -> bool:
    """Whether these values of a mask are 0 and 255 for the classes 0 and 1."""
    return num_classes == 2 and ignore_index != WHITE and WHITE in values and set(values.tolist()) <= {0, WHITE}


def _class_numbers(image: Image.Image) -> tuple[NDArray[np.integer], int | None]:
    if image.mode not in MASK_MODES:
        raise ImageError(
            f"a mask of mode '{image.mode}': expected one class number a pixel (modes {', '.join(MASK_MODES)}); "
            "map colours to numbers first"
        )
    if image.format in LOSSY_FORMATS:
        raise ImageError(f"a mask of format {image.format}, which changes class numbers: expected PNG or another "
                         "lossless format")  # fmt: skip
    stored = orientation_of(image)
    image.load()
    numbers = np.array(image)
    numbers = numbers.astype(np.uint8) if image.mode == "1" else numbers
    return turn(numbers, orientation_of(image)), stored  # Pillow turns a TIFF upright while it loads it
