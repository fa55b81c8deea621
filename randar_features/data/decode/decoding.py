"""One picture, however it comes, to an upright 8-bit RGB image or a square pixel tensor."""

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from randar_features.data.decode.opening import MAX_PIXELS, ImageError, check_size, name_of, open_picture
from randar_features.data.decode.ranges import (
    DARK_SHARE,
    DEEP_DARK_SHARE,
    DEFAULT_READING,
    Reading,
    darkness,
    deep_colours,
    eight_bit,
    is_deep,
    swap_bytes,
)
from randar_features.data.decode.transforms import adm_center_crop, tensor_center_crop, to_tensor

Decoded = TypeVar("Decoded")

RANGE_TOLERANCE = 1e-4
ORIENTATION_TAG = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image stored in each EXIF orientation is turned upright; 1 is upright already."""
STRIP_PIXELS = 2**22  # converted at once, so that a large image is not in memory three times


class Picture(NamedTuple):
    """A picture that was read.

    Attributes:
        image: mode ``"RGB"``, upright.
        orientation: the EXIF orientation it was stored in, 1 … 8; None where the file says nothing.
        note: a warning for its owner, such as that it is nearly black; else None.
    """

    image: Image.Image
    orientation: int | None
    note: str | None


def load_image(
    image: str | os.PathLike[str] | bytes | Image.Image | np.ndarray,
    *,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Read a picture as a Pillow image of mode ``"RGB"``, upright.

    The format is told by the content (`formats.FORMATS`). EXIF orientation is applied; transparent pixels are blended
    onto white; palette, grayscale, 1-bit and CMYK images are converted. Of an animation or a document of many pages,
    the first.

    Args:
        image: a file path, an encoded file as ``bytes``, a Pillow image, or a uint8 array ``(H, W, 3)``.
        value_range: the values that are black and white, of pictures of more than 8 bits; None: the range of their
            number type, see :class:`Reading`.
        max_pixels: a larger picture is refused, before its pixels are decoded.

    Raises:
        ImageError: the file is missing, truncated or no image, is larger than allowed, or its values fit no range.
        TypeError, ValueError: something else than the above, or an array of another shape or dtype.

    Warns:
        UserWarning: the picture is nearly black, as 12-bit values in a 16-bit file are, or all transparent.
    """
    picture = read_picture(image, Reading(value_range, max_pixels))
    if picture.note:
        warnings.warn(f"{name_of(image)} {picture.note}", stacklevel=2)
    return picture.image


def read_picture(image: Any, reading: Reading = DEFAULT_READING) -> Picture:
    """As :func:`load_image`, with the orientation that was applied; the warning is in `note`."""
    check_image(image)
    if isinstance(image, Tensor):
        raise TypeError("load_image takes paths, bytes, Pillow images and arrays, got a tensor: use to_image")
    if isinstance(image, np.ndarray):
        grey = image[..., 0] if image.shape[2:] == (1,) else image
        return Picture(Image.fromarray(np.ascontiguousarray(grey)).convert("RGB"), None, None)
    return decode(image, lambda opened: _to_picture(opened, image, reading), reading)


def decode(
    image: str | os.PathLike[str] | bytes | Image.Image,
    convert: Callable[[Image.Image], Decoded],
    reading: Reading = DEFAULT_READING,
) -> Decoded:
    """What `convert` makes of a picture; whatever fails in reading or converting becomes an ImageError."""
    try:
        with open_picture(image, reading.max_pixels) as opened:
            return convert(opened)
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = " ".join(str(error).split())
        if isinstance(error, KeyError | IndexError | AttributeError | TypeError | AssertionError) or not reason:
            reason = f"the file is damaged ({type(error).__name__}{': ' if reason else ''}{reason})"
        raise ImageError(f"cannot read {name_of(image)}: {reason}") from error


def read_pixels(image: Any, size: int, reading: Reading = DEFAULT_READING) -> tuple[Tensor, str | None]:
    """Any picture that :func:`load_image` takes, or a float tensor, as float32 ``(3, size, size)`` in [0, 1].

    Everything goes through ADM's centre crop. Tensors: ``(3, H, W)`` in [0, 1]. Also returns the note of
    :class:`Picture`.

    Raises:
        ImageError, TypeError, ValueError: as :func:`load_image` and :func:`check_image`.
    """
    if not isinstance(image, Tensor):
        picture = read_picture(image, reading)
        return to_tensor(adm_center_crop(picture.image, size)), picture.note
    check_image(image)
    if image.dtype == torch.uint8:
        return read_pixels(_channels_last(image).cpu().numpy(), size, reading)
    return tensor_center_crop(image.clamp(0, 1).expand(3, -1, -1), size), darkness(float(image.detach().max()))


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
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if not (grey or (array.ndim == 3 and array.shape[2] == 3)) or array.size == 0:
        remedy = "for other channels, pass a Pillow image, which is converted"
        if array.ndim == 3 and array.shape[0] in (1, 3):
            remedy = "channels come last, as np.moveaxis(array, -3, -1) puts them"
        raise ValueError(f"expected a uint8 array (H, W, 3), or grey (H, W), got shape {array.shape}: {remedy}")


def _check_tensor(pixels: Tensor) -> None:
    shape = tuple(pixels.shape)
    if pixels.is_meta or pixels.layout != torch.strided:
        raise TypeError(f"expected a dense tensor of pixels, got {pixels.layout} {shape} on {pixels.device}")
    if pixels.dtype == torch.uint8:
        _channels_last(pixels)
        return
    if not pixels.is_floating_point():
        raise TypeError(
            f"expected float pixels (3, H, W) in [0, 1], got {pixels.dtype} {shape}: "
            "divide 8-bit values by 255, or pass a uint8 array (H, W, 3)"
        )
    if len(shape) != 3 or shape[0] not in (1, 3) or pixels.numel() == 0:
        raise ValueError(f"expected float pixels (3, H, W), or grey (1, H, W), in [0, 1], got shape {shape}")
    check_range(pixels)


def _channels_last(pixels: Tensor) -> Tensor:
    """A uint8 tensor (3, H, W), (H, W, 3), (1, H, W) or (H, W) as (H, W, 3) or (H, W).

    Raises:
        ValueError: another shape, or one that leaves open which axis is colour.
    """
    shape = tuple(pixels.shape)
    first, last = (len(shape) == 3 and shape[axis] in (1, 3) for axis in (0, 2))
    if (len(shape) != 2 and first == last) or pixels.numel() == 0:
        unclear = ": which axis is colour is unclear, pass a NumPy array (H, W, 3)" if first else ""
        raise ValueError(f"expected a uint8 tensor (3, H, W) or (H, W, 3), got shape {shape}{unclear}")
    return pixels.permute(1, 2, 0) if first else pixels


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


def orientation_of(image: Image.Image) -> int | None:
    """The EXIF orientation that a file states, 1 … 8; None if it states none, or in damaged metadata."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
    except Exception:  # damaged metadata does not spoil the pixels
        return None
    return orientation if orientation == 1 or orientation in TURNS else None


def _to_picture(opened: Image.Image, source: Any, reading: Reading) -> Picture:
    deep, stored = is_deep(opened), orientation_of(opened)
    opened.load()
    orientation = orientation_of(opened)  # Pillow turns a TIFF upright while it loads it
    check_size(opened, reading.max_pixels)  # an icon's size is known once it is decoded
    image, note = opened, None
    if opened.mode[0] in "IF":
        image, note = eight_bit(opened, reading.value_range)
    elif deep and reading.value_range is not None:
        image = _deep_colours(opened, source, reading)
    image, visible = _to_rgb(image)
    if not visible:
        note = "is transparent everywhere: it is read as white"
    elif note is None:
        note = _darkness(image, DEEP_DARK_SHARE if deep and reading.value_range is None else DARK_SHARE)
    return Picture(image.transpose(TURNS[orientation]) if orientation in TURNS else image, stored, note)


def _deep_colours(high: Image.Image, source: Any, reading: Reading) -> Image.Image:
    """Colours of 16 bits under a stated range: Pillow gives their high bytes; a second reading gives the low ones."""
    if isinstance(source, Image.Image):
        raise ImageError("a stated value_range takes 16-bit colours from files: give the path instead of the image")
    assert reading.value_range is not None
    with open_picture(source, reading.max_pixels) as low:
        swap_bytes(low)
        low.load()
        return deep_colours(high, low, reading.value_range)


def _to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """Mode ``"RGB"``, transparent pixels on white, and whether anything is visible."""
    if not image.has_transparency_data:
        return image.convert("RGB"), True
    result, visible = Image.new("RGB", image.size), False
    rows = max(STRIP_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        strip = image.crop(box)
        strip = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")
        visible |= strip.getchannel("A").getextrema() != (0, 0)
        result.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), box)
    return result, visible


def _darkness(image: Image.Image, share: float) -> str | None:
    """`darkness` of an RGB image; for most images a few pixels show that they are bright enough."""
    for sample in (image.resize((8, 8), Image.Resampling.NEAREST), image):
        brightest = max(high for _, high in sample.getextrema()) / 255  # type: ignore[misc]
        if brightest >= share:
            return None
    return darkness(brightest, share)
