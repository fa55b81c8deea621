"""From pictures of any size to square pixel tensors, byte for byte as the published models were trained."""

import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MAX_RESIZED_PIXELS = 2**27


def adm_center_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle ``size`` by ``size`` pixels of ``image``, its shorter side scaled to ``size`` (ADM's crop).

    While the shorter side is at least ``2 * size``, both sides are halved with a box filter; bicubic does the
    rest (Dhariwal and Nichol, 2021, arXiv:2105.05233, ``image_datasets.py``). Smaller images are scaled up.
    The mode is kept; Pillow scales modes ``"P"`` and ``"1"`` by nearest neighbour, so convert these to
    ``"RGB"`` first (:func:`~randar_features.data.load_image` does).

    Raises:
        TypeError: ``image`` is no Pillow image.
        ValueError: ``size`` is no whole number, or less than 1.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"expected a Pillow image, got {type(image).__name__}: open it with load_image")
    if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
        raise ValueError(f"a crop needs a size of at least 1 pixel, a whole number; got size={size!r}")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    image = _shorten_strip(image, size)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _shorten_strip(image: Image.Image, size: int) -> Image.Image:
    """Cut the ends off an extreme strip, which would take gigabytes once its short side is ``size``."""
    shorter, longer = min(image.size), max(image.size)
    if longer / shorter * size * size <= MAX_RESIZED_PIXELS:
        return image
    kept = 3 * shorter + 8
    start = (longer - kept) // 2
    if image.width == longer:
        return image.crop((start, 0, start + kept, shorter))
    return image.crop((0, start, shorter, start + kept))


def to_tensor(image: Image.Image) -> Tensor:
    """A Pillow image of mode ``"RGB"`` as float32 ``(3, H, W)`` in [0, 1]: each 8-bit value divided by 255.

    Raises:
        ValueError: the image has another mode.
    """
    if image.mode != "RGB":
        raise ValueError(f"expected an image of mode 'RGB', got '{image.mode}': convert it with load_image")
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))  # (H, W, 3)
    return pixels.permute(2, 0, 1).contiguous().float().div_(255)


def to_image(pixels: Tensor) -> Image.Image:
    """A float tensor ``(3, H, W)`` in [0, 1] as a Pillow image of mode ``"RGB"``, rounded to 8 bit.

    Values outside [0, 1] are clamped. Inverse of :func:`to_tensor`.

    Raises:
        ValueError: the tensor has another shape.
    """
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ValueError(f"expected a tensor of shape (3, H, W), got {tuple(pixels.shape)}")
    rounded = pixels.detach().float().mul(255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(rounded.permute(1, 2, 0).contiguous().cpu().numpy())


def tensor_center_crop(pixels: Tensor, size: int) -> Tensor:
    """ADM's centre crop of float pixels ``(3, H, W)`` in [0, 1] → float32 ``(3, size, size)``.

    Pixels that are ``size`` by ``size`` already pass unchanged. Others are rounded to 8 bit and go through
    :func:`adm_center_crop`, so that a picture gives the same result as a tensor, array, file or Pillow image.
    """
    if tuple(pixels.shape[-2:]) == (size, size):
        return pixels.detach().float().cpu()
    return to_tensor(adm_center_crop(to_image(pixels), size))


def contact_sheet(images: Sequence[Tensor], columns: int, gap: int = 2) -> Tensor:
    """Images ``(3, H, W)`` of one size side by side, row by row, on white: ``(3, H', W')``."""
    channels, height, width = images[0].shape
    rows = math.ceil(len(images) / columns)
    sheet = torch.ones(channels, rows * (height + gap) - gap, columns * (width + gap) - gap, device="cpu")
    for number, image in enumerate(images):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet
