"""Redraw a part of an image, or draw beyond its edges; what is kept stays equal to the bit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from numbers import Integral
from typing import Protocol, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from randar_features.generation.complete import as_classes
from randar_features.generation.generate import DecodingSettings, generate
from randar_features.generation.recipe import GuidanceLike
from randar_features.generation.sampling import SeedLike, Stream, image_seeds, substream
from randar_features.models import ImageTransformer
from randar_features.tokenizers import ImageTokenizer


class ImageModel(Protocol):
    """What editing needs of a loaded model."""

    @property
    def transformer(self) -> ImageTransformer:
        """The generator."""

    @property
    def tokenizer(self) -> ImageTokenizer:
        """Images to tokens and back."""

    @property
    def image_size(self) -> int:
        """Pixels a side, S."""


@torch.no_grad()
def inpaint(
    model: ImageModel,
    images: Tensor,
    mask: Tensor,
    classes: Tensor | Sequence[int] | int | None = None,
    *,
    generator: SeedLike = None,
    guidance: GuidanceLike = None,
    **settings: Unpack[DecodingSettings],
) -> Tensor:
    """Redraw the pixels under the mask, seeing the rest of the image.

    A token is redrawn if the mask touches any of its pixels; the others are given to the model first, in one
    pass. What lies under the mask is not looked at: the tokenizer, which sees across a token's edge, is shown
    the nearest kept pixels there. Of the decoded image only the pixels under the mask are taken: all others
    are the given ones, equal to the bit. With a class the region is redrawn as that class, with guidance.

    Args:
        model: from `load_model`: its `transformer`, `tokenizer` and `image_size` S are used.
        images: (B, 3, S, S) float in [0, 1].
        mask: boolean (S, S) for all images, or (B or 1, S, S), also with a channel, (B or 1, 1, S, S); True = to be
            drawn anew. Neither empty nor full.
        classes: (B,) class indices, one for all images, or None for the null class (without guidance, which
            would have nothing to compare with).
        generator, guidance, settings: as for `generate` (steps, schedule, order, temperature, top_k, top_p,
            cache). The steps are for the redrawn tokens; None recommends a number for theirs. A model of one order
            alone, LlamaGen or PAR, redraws its last tokens only: with LlamaGen whole rows at the bottom.

    Returns:
        (B, 3, S, S) in the dtype and on the device of `images`.
    """
    check_images(images, model.image_size)
    mask = check_mask(mask, len(images), model.image_size).to(images.device)
    transformer, grid = model.transformer, model.transformer.config.grid
    device = transformer.device
    tokens = model.tokenizer.encode(filled(images, mask)).to(device)
    touched = F.max_pool2d(mask[:, None].float(), model.image_size // grid).flatten(1) > 0
    drawn = generate(
        transformer,
        as_classes(classes, transformer, len(images)),
        generator=generator,
        guidance=1.0 if classes is None else guidance,
        tokens=tokens,
        known=~touched.to(device),
        **settings,
    )
    redrawn = model.tokenizer.decode(drawn).to(images.device, images.dtype)
    return torch.where(mask[:, None], redrawn, images)


@torch.no_grad()
def outpaint(
    model: ImageModel,
    images: Tensor,
    padding: int | tuple[int, int, int, int],
    classes: Tensor | Sequence[int] | int | None = None,
    *,
    generator: SeedLike = None,
    guidance: GuidanceLike = None,
    **settings: Unpack[DecodingSettings],
) -> Tensor:
    """Draw what lies beyond the edges of images, which themselves stay equal to the bit.

    The padded canvas may be larger than the model's images: windows of S×S pixels, at every S/2 and at the
    far edges, are then completed by `inpaint` one after the other, each time the one that has most pixels
    already.

    Args:
        model, classes, generator, guidance, settings: as for `inpaint`.
        images: (B, 3, H, W) float in [0, 1], of any size.
        padding: pixels to draw at the left, top, right and bottom, or one number for all. The canvas,
            H + top + bottom by W + left + right, must be at least S×S.

    Returns:
        (B, 3, H + top + bottom, W + left + right) in the dtype and on the device of `images`.
    """
    size = model.image_size
    check_images(images)
    left, top, right, bottom = check_padding(padding, images, size)
    canvas = F.pad(images, (left, right, top, bottom))
    missing = torch.ones(canvas.shape[-2:], dtype=torch.bool, device=images.device)
    missing[top : top + images.shape[2], left : left + images.shape[3]] = False
    seeds = image_seeds(generator, len(images))
    for stream in count(Stream.WINDOW):
        if not missing.any():
            break
        rows, columns = fullest_window(missing, size)
        view, mask = canvas[:, :, rows, columns], missing[rows, columns]
        own = substream(seeds, stream)
        view.copy_(inpaint(model, view, mask, classes, generator=own, guidance=guidance, **settings))
        mask.fill_(False)
    return canvas


def filled(images: Tensor, mask: Tensor) -> Tensor:
    """Images (B, 3, S, S) in which each pixel under the mask (B, S, S) is the mean of its nearest kept ones."""
    kept = (~mask)[:, None].float()
    pixels = images.float() * kept
    while not bool(kept.all()):
        weight, total = (F.avg_pool2d(each, 3, stride=1, padding=1) for each in (kept, pixels))
        reached = (kept == 0) & (weight > 0)
        pixels = torch.where(reached, total / weight.clamp_min(1e-9), pixels)
        kept = torch.where(reached, 1.0, kept)
    return pixels.clamp(0, 1).to(images.dtype)


def fullest_window(missing: Tensor, size: int) -> tuple[slice, slice]:
    """The S×S window of a canvas (H, W) with the fewest missing pixels, but at least one; the first of equals."""
    candidates = [
        (slice(row, row + size), slice(column, column + size))
        for row in window_starts(missing.shape[0], size)
        for column in window_starts(missing.shape[1], size)
    ]
    counts = [int(missing[window].sum()) for window in candidates]
    fewest = min(count for count in counts if count > 0)
    return candidates[counts.index(fewest)]


def window_starts(length: int, size: int) -> list[int]:
    """0, S/2, S, … and length − S."""
    return [*range(0, length - size, max(size // 2, 1)), length - size]


def check_images(images: Tensor, size: int | None = None) -> None:
    """TypeError unless `images` is a tensor, ValueError unless of floats (B, 3, S, S) in [0, 1]; None: of any size."""
    shape = "(B, 3, H, W)" if size is None else f"(B, 3, {size}, {size})"
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images must be a float tensor of shape {shape} in [0, 1]; got {type(images).__name__}. Of a file it is "
            "to_tensor(load_image(path))[None], both from randar_features.data"
        )
    expected = (3, *images.shape[2:]) if size is None else (3, size, size)
    if images.dim() != 4 or images.shape[1:] != expected or not images.is_floating_point():
        raise ValueError(f"images must be floats of shape {shape}; got {tuple(images.shape)}, {images.dtype}")
    if images.numel() == 0 or not (images.min() >= 0 and images.max() <= 1):
        raise ValueError("images must hold at least one image, with values in [0, 1]")


def check_mask(mask: Tensor, batch: int, size: int) -> Tensor:
    """`mask` as (B, S, S) boolean; ValueError if it is of another size, empty or full."""
    given = torch.as_tensor(mask)
    mask = given[:, 0] if given.dim() == 4 and given.shape[1] == 1 else given
    if mask.dtype != torch.bool or mask.shape not in ((size, size), (1, size, size), (batch, size, size)):
        raise ValueError(
            f"the mask must be boolean of shape ({size}, {size}) or ({batch}, {size}, {size}), True where to "
            f"draw anew; got {tuple(given.shape)}, {given.dtype}"
        )
    share = mask.expand(batch, -1, -1).flatten(1).float().mean(dim=1)
    if (share == 0).any():
        raise ValueError("the mask is False everywhere: there is nothing to draw anew")
    if (share == 1).any():
        raise ValueError("the mask is True everywhere: nothing is kept; use generate for a new image")
    return mask.expand(batch, -1, -1)


def check_padding(padding: int | Sequence[int], images: Tensor, size: int) -> tuple[int, int, int, int]:
    """The four paddings; ValueError unless the canvas is at least S×S and larger than the images."""
    sides = list(padding) if isinstance(padding, Iterable) else [padding] * 4
    if len(sides) != 4 or not all(isinstance(side, Integral) and side >= 0 for side in sides) or not any(sides):
        raise ValueError(
            "padding must be four numbers of pixels (left, top, right, bottom), or one, none below 0 and not all 0; "
            f"got {padding!r}"
        )
    left, top, right, bottom = sides
    height, width = images.shape[2] + top + bottom, images.shape[3] + left + right
    if min(height, width) < size:
        raise ValueError(
            f"images of {images.shape[2]}×{images.shape[3]} pixels, padded by {tuple(sides)}, make "
            f"{height}×{width}; the model draws at least {size}×{size}: pad more, or enlarge the images first"
        )
    return left, top, right, bottom
