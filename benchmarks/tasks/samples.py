"""Pictures that a model draws: samples of classes, regions drawn anew, canvases extended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from randar_features import Model, generate, inpaint, outpaint

MASKED = 0.5


def spread_classes(num_classes: int, count: int) -> list[int]:
    """`count` classes at equal distances."""
    return [(2 * index + 1) * num_classes // (2 * count) for index in range(min(count, num_classes))]


def class_names(model: Model, classes: Sequence[int]) -> list[str]:
    """The first name of each class, or its number."""
    names = model.classes
    return [f"class {index}" if names is None else names[index].split(",")[0] for index in classes]


def sample_classes(
    model: Model, classes: Sequence[int], *, each: int, steps: int | None, seed: int
) -> list[list[np.ndarray]]:
    """`each` samples of every class, one list of (S, S, 3) floats a class."""
    repeated = torch.tensor(classes).repeat_interleave(each)
    images = to_arrays(model.tokenizer.decode(generate(model.transformer, repeated, steps=steps, generator=seed)))
    return [images[start : start + each] for start in range(0, len(images), each)]


def inpaint_rows(model: Model, images: Tensor, *, draws: int, seed: int) -> list[list[np.ndarray]]:
    """For each image (3, S, S): itself, itself with the middle half masked, and `draws` ways to fill it."""
    side = model.image_size
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[side // 4 : side - side // 4, side // 4 : side - side // 4] = True
    filled = [inpaint(model, images, mask, generator=seed + draw) for draw in range(draws)]
    return _rows(images, images.masked_fill(mask, MASKED), *filled)


def outpaint_rows(model: Model, images: Tensor, *, draws: int, seed: int) -> list[list[np.ndarray]]:
    """For each image (3, S, S): itself on a canvas twice as wide, and `draws` ways to fill that."""
    pad = model.image_size // 2
    padding = (pad, 0, model.image_size - pad, 0)
    extended = [outpaint(model, images, padding, generator=seed + draw) for draw in range(draws)]
    canvas = torch.nn.functional.pad(images, (pad, model.image_size - pad), value=MASKED)
    return _rows(canvas, *extended)


def _rows(*columns: Tensor) -> list[list[np.ndarray]]:
    return [list(row) for row in zip(*(to_arrays(column) for column in columns), strict=True)]


def to_arrays(images: Tensor) -> list[np.ndarray]:
    """Images (B, 3, H, W) in [0, 1] as floats (H, W, 3)."""
    return list(images.detach().float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())
