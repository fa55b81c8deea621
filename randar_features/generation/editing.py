"""Redraw a part of an image, or draw beyond its edges; all other pixels stay exactly the same."""

from collections.abc import Sequence
from itertools import count
from numbers import Integral
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from randar_features.generation.classes import ClassesLike, resolve
from randar_features.generation.complete import as_classes
from randar_features.generation.generate import DecodingSettings, check_settings, generate
from randar_features.generation.recipe import GuidanceLike, recipe_of
from randar_features.generation.sampling import SeedLike, Stream, image_seeds, substream
from randar_features.hub import Model
from randar_features.sequence import as_flag, as_tensor, has_several


@torch.no_grad()
def inpaint(
    model: Model,
    images: Tensor,
    mask: Tensor,
    classes: ClassesLike | None = None,
    *,
    square: bool = False,
    generator: SeedLike = None,
    guidance: GuidanceLike = None,
    **settings: Unpack[DecodingSettings],
) -> Tensor:
    """Redraw the pixels under the mask, seeing the rest of the image.

    A token is redrawn if the mask touches any of its pixels. The model first gets all other tokens, in one pass.
    Pixels under the mask are never seen: the tokenizer, which looks across the edge of a token, gets the nearest
    pixels outside the mask instead. Only the pixels under the mask are taken from the decoded image. All others stay
    exactly as they were. With a class, the region is redrawn as that class, with guidance.

    An image of another size keeps its size. The model gets a square window around the mask, at the model's size and
    with twice the extent of the mask if the image has room; the redrawn pixels are pasted back into the image.

    Args:
        model: from `load_model`: its `transformer`, `tokenizer` and `image_size` S are used.
        images: (B, 3, H, W) float in [0, 1].
        mask: boolean (H, W) for all images, or (B or 1, H, W), also with a channel, (B or 1, 1, H, W); True: draw
            anew. It must be neither empty nor full.
        classes: (B,) class indices or names, one for all images, or None for the null class (then without guidance).
        square: return the middle square of the images at the model's size, (B, 3, S, S), instead of whole images at
            their own size.
        generator, guidance, settings: as for `generate` (steps, schedule, order, temperature, top_k, top_p, cache,
            dtype). The steps are for the redrawn tokens; None: a number recommended for as many tokens. LlamaGen and
            PAR can redraw only their last tokens: LlamaGen whole rows at the bottom.

    Returns:
        (B, 3, H, W) in the dtype and on the device of `images`; (B, 3, S, S) with `square`.
    """
    check_images(images)
    size = check_model(model).image_size
    mask = check_mask(mask, len(images), images.shape[2:]).to(images.device)
    if as_flag("square", square):
        images, mask = middle_square(images, mask, size)
    windows = windows_around(mask, size)
    shown = [cut(images[number : number + 1], *window) for number, window in enumerate(windows)]
    hidden = [cut(mask[number : number + 1], *window) for number, window in enumerate(windows)]
    covered = torch.cat([resized_mask(own, size) for own in hidden])
    if covered.flatten(1).all(dim=1).any():
        raise ValueError(
            "the mask covers all of the square around it, which is what the model sees: redraw one part after the other"
        )
    redrawn = redraw(
        model,
        torch.cat([resized(image, size) for image in shown]),
        covered,
        classes,
        generator=generator,
        guidance=guidance,
        **settings,
    )
    result = images.clone()
    for number, (window, own) in enumerate(zip(windows, hidden, strict=True)):
        place = cut(result[number : number + 1], *window)
        place.copy_(torch.where(own, resized(redrawn[number : number + 1], window[1]), place))
    return result


def redraw(
    model: Model,
    images: Tensor,
    mask: Tensor,
    classes: ClassesLike | None,
    *,
    generator: SeedLike,
    guidance: GuidanceLike,
    **settings: Unpack[DecodingSettings],
) -> Tensor:
    """Images (B, 3, S, S) decoded with the tokens under the mask (B, S, S) drawn anew, on the images' device."""
    transformer, numbers = resolve(model, classes)
    patch = model.image_size // transformer.config.grid
    known = (F.max_pool2d(mask[:, None].float(), patch).flatten(1) == 0).to(transformer.device)
    indices, seeds = as_classes(numbers, transformer, len(images)), image_seeds(generator, len(images))
    recipe_of(transformer).guide(guidance)  # a wrong one is refused, also where none is needed
    guidance = 1.0 if classes is None else guidance
    check_settings(transformer, indices, known, guidance, **settings)
    tokens = model.tokenizer.encode(filled(images, mask)).to(transformer.device)
    drawn = generate(transformer, indices, generator=seeds, guidance=guidance, tokens=tokens, known=known, **settings)
    return model.tokenizer.decode(drawn).to(images.device, images.dtype)


@torch.no_grad()
def outpaint(
    model: Model,
    images: Tensor,
    padding: int | tuple[int, int, int, int],
    classes: ClassesLike | None = None,
    *,
    generator: SeedLike = None,
    guidance: GuidanceLike = None,
    **settings: Unpack[DecodingSettings],
) -> Tensor:
    """Draw beyond the edges of images. The images themselves stay exactly as they were.

    The padded canvas may be larger than the model's images. Then `inpaint` completes windows of S×S pixels one after
    the other, at every S/2 and at the far edges, always the window that has the most known pixels.

    Args:
        model, classes, generator, guidance, settings: as for `inpaint`.
        images: (B, 3, H, W) float in [0, 1], of any size.
        padding: pixels to draw at the left, top, right and bottom, or one number for all. The canvas,
            H + top + bottom by W + left + right, must be at least S×S.

    Returns:
        (B, 3, H + top + bottom, W + left + right) in the dtype and on the device of `images`.
    """
    size = check_model(model).image_size
    check_images(images)
    left, top, right, bottom = check_padding(padding, images, size)
    if classes is not None:  # once for all windows
        classes = as_classes(resolve(model, classes)[1], model.transformer, len(images))
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


def middle_square(images: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The middle squares of images (B, 3, H, W) and masks (B, H, W), at S pixels a side."""
    side = min(images.shape[2:])
    corner = tuple((length - side) // 2 for length in images.shape[2:])
    square = resized(cut(images, corner, side), size)
    return square, check_mask(resized_mask(cut(mask, corner, side), size), len(images), (size, size))


def windows_around(mask: Tensor, size: int) -> list[tuple[tuple[int, int], int]]:
    """Top and left of a square around each of the masks (B, H, W), and its side, whatever the other masks are.

    Raises:
        ValueError: a mask reaches further than the shorter side of the images.
    """
    height, width = mask.shape[1:]
    windows = []
    for own in mask:
        extent = [(int(line[0]), int(line[-1]) + 1) for line in lines_of(own)]
        longest = max(end - start for start, end in extent)
        if longest > min(height, width):
            raise ValueError(
                f"the mask reaches over {longest} pixels, and the largest square in images of {width}×{height} has "
                f"{min(height, width)}: redraw one part after the other"
            )
        side = min(max(size, 2 * longest), height, width)
        top, left = (
            min(max((start + end - side) // 2, 0), length - side)
            for (start, end), length in zip(extent, (height, width), strict=True)
        )
        windows.append(((top, left), side))
    return windows


def lines_of(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The rows and the columns in which a mask (H, W) has a pixel."""
    return mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]


def cut(pixels: Tensor, corner: Sequence[int], side: int) -> Tensor:
    """The square (…, side, side) of pixels (…, H, W) with this top and left."""
    top, left = corner
    return pixels[..., top : top + side, left : left + side]


def resized(images: Tensor, side: int) -> Tensor:
    """Square images (B, 3, s, s) at another size, in [0, 1]; at the same size they pass unchanged."""
    if images.shape[-1] == side:
        return images
    exact = images if images.dtype == torch.float64 else images.float()  # no kernel takes half formats on a CPU
    return F.interpolate(exact, (side, side), mode="bicubic", antialias=True).clamp(0, 1).to(images.dtype)


def resized_mask(mask: Tensor, side: int) -> Tensor:
    """Square masks (B, s, s) at another size, True wherever the mask touches the pixel."""
    return F.adaptive_max_pool2d(mask[:, None].float(), side)[:, 0] > 0


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


def check_model(model: Model) -> Model:
    """The model itself; TypeError for a transformer alone, which knows no pixels."""
    if not hasattr(model, "tokenizer"):
        raise TypeError(f"a model is expected, as load_model gives it; got {type(model).__name__}")
    return model


def check_images(images: Tensor) -> None:
    """TypeError unless `images` is a tensor, ValueError unless of floats (B, 3, H, W) in [0, 1]."""
    shape = "(B, 3, H, W)"
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images must be a float tensor of shape {shape} in [0, 1]; got {type(images).__name__}. Of a file it is "
            "to_tensor(load_image(path))[None], both from randar_features.data"
        )
    if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"images must be floats of shape {shape}; got {tuple(images.shape)}, {images.dtype}")
    if images.numel() == 0:
        raise ValueError(f"images must hold at least one image, with pixels; got {tuple(images.shape)}")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images must have values in [0, 1]; got {low} … {high}")


def check_mask(mask: Tensor, batch: int, size: Sequence[int]) -> Tensor:
    """`mask` as (B, H, W) boolean; TypeError or ValueError if it is none of this height and width, or empty or full."""
    try:
        given = as_tensor(mask)
    except TypeError:
        raise TypeError(
            f"the mask must be a boolean tensor (H, W), True where to draw anew; got {type(mask).__name__}. Of a "
            "Pillow image of mode 'L' it is numpy.asarray(image) > 127"
        ) from None
    mask = given[:, 0] if given.dim() == 4 and given.shape[1] == 1 else given
    height, width = size
    if mask.dtype != torch.bool or mask.shape not in ((height, width), (1, height, width), (batch, height, width)):
        raise ValueError(
            f"the mask must be boolean of shape ({height}, {width}) or ({batch}, {height}, {width}), as the images, "
            f"True where to draw anew; got {tuple(given.shape)}, {given.dtype}"
        )
    share = mask.expand(batch, -1, -1).flatten(1).float().mean(dim=1)
    if (share == 0).any():
        raise ValueError("the mask is False everywhere: there is nothing to draw anew")
    if (share == 1).any():
        raise ValueError("the mask is True everywhere: nothing is kept; use generate for a new image")
    return mask.expand(batch, -1, -1)


def check_padding(padding: int | Sequence[int], images: Tensor, size: int) -> tuple[int, int, int, int]:
    """The four paddings; ValueError unless the canvas is at least S×S and larger than the images."""
    sides: list[Any] = list(padding) if has_several(padding) else [padding] * 4
    whole = all(isinstance(side, Integral) and not isinstance(side, bool) and int(side) >= 0 for side in sides)
    if len(sides) != 4 or not whole or not any(sides):
        raise ValueError(
            "padding must be four numbers of pixels (left, top, right, bottom), or one, none below 0 and not all 0; "
            f"got {padding!r}"
        )
    left, top, right, bottom = map(int, sides)  # of NumPy's short integers sums could overflow
    height, width = images.shape[2] + top + bottom, images.shape[3] + left + right
    if min(height, width) < size:
        raise ValueError(
            f"images of {images.shape[2]}×{images.shape[3]} pixels, padded by {left, top, right, bottom}, make "
            f"{height}×{width}; the model draws at least {size}×{size}: pad more, or enlarge the images first"
        )
    return left, top, right, bottom
