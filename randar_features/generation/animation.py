"""An image as it is drawn: its tokens appear step by step."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from randar_features import sequence
from randar_features.data import labelled_sheet
from randar_features.generation.complete import as_classes, complete
from randar_features.generation.recipe import recipe_of
from randar_features.generation.sampling import Sampling, image_seeds
from randar_features.generation.schedule import check_steps
from randar_features.hub import Model
from randar_features.store.files import written_whole

OPEN = 0.5  # grey of what is not drawn yet


@torch.no_grad()
def decoding_frames(
    model: Model,
    class_index: int,
    *,
    seed: int,
    order: str | Tensor | None = None,
    steps: int | None = None,
) -> Tensor:
    """The image of a class and a seed as it is after each step: (steps, 3, S, S) float in [0, 1].

    What is drawn is shown as it is in the finished image, the rest grey. The last frame is the image that
    `generate` gives for `generator=torch.tensor([seed])`.
    """
    recipe, num_tokens = recipe_of(model.transformer), model.transformer.config.num_tokens
    schedule = recipe.schedule(None, num_tokens, 0, check_steps(steps, num_tokens))
    classes = as_classes(class_index, model.transformer)
    decoded = complete(
        model.transformer,
        classes,
        seeds=image_seeds(torch.tensor([seed], device="cpu"), 1, classes.device),
        steps=steps,
        guidance=recipe.guide(None),
        order=order,
        sampling=Sampling(),
    )
    image = model.tokenizer.decode(decoded.tokens).cpu()
    return reveal(image[0], decoded.order[0].cpu(), schedule)


def reveal(image: Tensor, order: Tensor, schedule: Sequence[int]) -> Tensor:
    """An image (3, S, S) whose tokens appear in an order (N,), step by step: (steps, 3, S, S)."""
    shown_at = torch.repeat_interleave(torch.arange(len(schedule), device="cpu"), torch.tensor(schedule, device="cpu"))
    step_of = torch.empty_like(order).scatter_(0, order, shown_at)
    side = sequence.grid_side(len(order))
    size = image.shape[-1] // side
    step_of = step_of.view(side, side).repeat_interleave(size, 0).repeat_interleave(size, 1)
    frames = torch.arange(len(schedule), device="cpu")[:, None, None]
    return torch.where((step_of <= frames)[:, None], image, OPEN)


def order_frames(
    model: Model,
    class_index: int,
    *,
    seed: int,
    orders: Sequence[str | None],
    steps: int | None = None,
    side: int | None = None,
) -> list[Image.Image]:
    """The steps of the image of a class and a seed, in several orders side by side under their names.

    Args:
        class_index, seed, steps: as for `decoding_frames`.
        orders: one panel each; None is the model's only order.
        side: pixels a side of a panel; None: the model's.
    """
    labels = [order or "its only order" for order in orders]
    panels = [decoding_frames(model, class_index, seed=seed, order=order, steps=steps) for order in orders]
    if side is not None:
        panels = [F.interpolate(panel, (side, side), mode="nearest") for panel in panels]
    return [labelled_sheet(frame, len(panels), column_labels=labels) for frame in zip(*panels, strict=True)]


FORMATS = {".gif": "GIF", ".png": "PNG", ".webp": "WEBP"}
"""What an animation is written as, by the ending of its file."""


def check_ending(path: Path) -> str:
    """The format of an animation by its ending; ValueError for an ending of no animation."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} names no animation: expected a name that ends in {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def save_animation(
    path: Path, frames: Sequence[Image.Image], *, seconds_per_frame: float = 0.08, last: float = 1.5
) -> None:
    """Write frames of one size as an endless animation that rests on the last frame for `last` seconds.

    The ending of the file tells the format: a GIF, an animated PNG or an animated WebP.

    Raises:
        ValueError: the file has another ending.
    """
    format = check_ending(path)
    first, *others = frames
    durations = [round(1000 * seconds_per_frame)] * len(others) + [round(1000 * last)]
    # Equal frames stay: each is a step. WebP and PNG would be lossy or blended otherwise.
    options = {"WEBP": {"lossless": True}, "GIF": {}, "PNG": {"default_image": False}}[format]
    with written_whole(path) as file:
        first.save(file, format=format, save_all=True, append_images=others, duration=durations, loop=0, **options)
