"""One picture, however it comes, to an RGB image or a square pixel tensor."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .formats import image_format as image_format
from .transforms import adm_center_crop, tensor_center_crop, to_tensor

Decoded = TypeVar("Decoded")

RANGE_TOLERANCE = 1e-4
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """One picture cannot be read. The message names the file, where there is one, and the reason."""


def load_image(image: str | os.PathLike[str] | bytes | Image.Image | np.ndarray) -> Image.Image:
    """Read a picture as a Pillow image of mode ``"RGB"``, upright.

    Takes a file path, an encoded file as ``bytes``, a Pillow image, or a uint8 array ``(H, W, 3)``.
    EXIF orientation is applied; transparent pixels are blended onto white; palette, grayscale, 1-bit and CMYK
    images are converted. Values of 16-bit images (modes ``"I;16"`` and ``"I"``) are divided by 257. Mode
    ``"F"`` has no nominal range: values up to 1 are taken as [0, 1], up to 255 as 8 bit, up to 65535 as 16
    bit. Of an animation, the first frame.

    Raises:
        ImageError: the file is missing, truncated or no image, or its values fit no known range.
        TypeError, ValueError: something else than the above, or an array of another shape or dtype.
    """
    check_image(image)
    if isinstance(image, Tensor):
        raise TypeError("load_image takes paths, bytes, Pillow images and arrays, got a tensor: use to_image")
    if isinstance(image, np.ndarray):
        return Image.fromarray(np.ascontiguousarray(image))
    return decode(image, _to_rgb)


def decode(image: str | os.PathLike[str] | bytes | Image.Image, convert: Callable[[Image.Image], Decoded]) -> Decoded:
    """What `convert` makes of a picture; whatever fails in reading or converting becomes an ImageError."""
    try:
        return convert(_open(image))
    except UnidentifiedImageError:
        raise ImageError(f"cannot read {_name(image)}: not an image of a known format") from None
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot read {_name(image)}: {reason}") from error


def load_pixels(image: Any, size: int) -> Tensor:
    """Any picture that :func:`load_image` takes, or a float tensor, as float32 ``(3, size, size)`` in [0, 1].

    Everything goes through ADM's centre crop. Tensors: ``(3, H, W)`` in [0, 1].

    Raises:
        ImageError, TypeError, ValueError: as :func:`load_image` and :func:`check_image`.
    """
    if not isinstance(image, Tensor):
        return to_tensor(adm_center_crop(load_image(image), size))
    check_image(image)
    if image.dtype == torch.uint8:
        return load_pixels(image.cpu().numpy(), size)
    return tensor_center_crop(image.clamp(0, 1), size)


def check_image(image: Any) -> None:
    """See that ``image`` is of a kind that can be read: type, dtype, shape and, for float tensors, range.

    Raises:
        ImageError: a float tensor holds NaN.
        TypeError: another type or dtype.
        ValueError: another shape, channel count or range.
    """
    if isinstance(image, Tensor):
        _check_tensor(image)
    elif isinstance(image, np.ndarray):
        _check_array(image)
    elif not isinstance(image, (str, os.PathLike, bytes, Image.Image)):
        raise TypeError(
            f"cannot read an image from {type(image).__name__}: expected a path, a Pillow image, "
            "a uint8 array (H, W, 3), or a float tensor (3, H, W) in [0, 1]"
        )


def _check_array(array: np.ndarray) -> None:
    if array.dtype != np.uint8:
        raise TypeError(
            f"expected a uint8 array (H, W, 3), got {array.dtype} {array.shape}: "
            "pass float pixels as a tensor (3, H, W) in [0, 1]"
        )
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(
            f"expected a uint8 array (H, W, 3), got shape {array.shape}: "
            "for other channels, pass a Pillow image, which is converted"
        )


def _check_tensor(pixels: Tensor) -> None:
    shape = tuple(pixels.shape)
    if pixels.dtype == torch.uint8 and len(shape) == 3 and shape[2] == 3 != shape[0]:
        return  # a uint8 array (H, W, 3) that a DataLoader collated
    if not pixels.is_floating_point():
        raise TypeError(
            f"expected float pixels (3, H, W) in [0, 1], got {pixels.dtype} {shape}: "
            "divide 8-bit values by 255, or pass a uint8 array (H, W, 3)"
        )
    if len(shape) != 3 or shape[0] != 3 or pixels.numel() == 0:
        raise ValueError(f"expected float pixels (3, H, W) in [0, 1], got shape {shape}")
    check_range(pixels)


def check_range(pixels: Tensor) -> None:
    """See that all values lie in [0, 1] (to within 1e-4).

    Raises:
        ImageError: a value is NaN.
        ValueError: a value lies outside.
    """
    lowest, highest = (float(value) for value in torch.aminmax(pixels.detach().float()))
    if lowest != lowest:
        raise ImageError("the pixels hold NaN")
    if lowest < -RANGE_TOLERANCE or highest > 1 + RANGE_TOLERANCE:
        raise ValueError(
            f"expected pixels in [0, 1], got values from {lowest:.4g} to {highest:.4g}: "
            "divide 8-bit values by 255, leave out normalisation"
        )


def _open(image: str | os.PathLike[str] | bytes | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
        opened.load()
        return opened


def _name(image: object) -> str:
    if isinstance(image, bytes):
        return f"an image of {len(image)} bytes"
    if isinstance(image, Image.Image):
        return getattr(image, "filename", "") or f"a Pillow image of mode '{image.mode}'"
    return str(Path(os.fspath(image)))  # type: ignore[call-overload]


def _to_rgb(image: Image.Image) -> Image.Image:
    image = _upright(image)
    if image.mode[0] in "IF":
        image = _eight_bit(image)
    elif image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
    except Exception:  # damaged metadata does not spoil the pixels
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _eight_bit(image: Image.Image) -> Image.Image:
    """Modes ``"I;16"``, ``"I"`` and ``"F"`` as ``"L"``: Pillow's own conversion would clip at 255."""
    values = np.asarray(image).astype(np.float64)
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= 65535):
        raise ImageError(f"values from {lowest:g} to {highest:g} of mode '{image.mode}', expected 0 to 65535")
    if image.mode[0] == "I" or highest > 255:
        values = values / 257
    elif highest <= 1:
        values = values * 255
    return Image.fromarray(np.rint(values).astype(np.uint8))
