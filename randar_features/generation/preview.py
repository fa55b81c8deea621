"""Samples to look at while a model is being trained: the same classes and seeds each time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from randar_features.generation.generate import generate
from randar_features.models import ImageTransformer
from randar_features.tokenizers import ImageTokenizer


def sample_preview(
    tokenizer: ImageTokenizer,
    classes: Sequence[int],
    *,
    steps: int | None = None,
    guidance: float | tuple[float, float] = (1.0, 4.0),
    seed: int = 0,
    batch_size: int = 32,
) -> Callable[[ImageTransformer], Tensor]:
    """A function from a transformer to images (n, 3, S, S) in [0, 1] on the CPU, one for each class.

    The seeds are always the same, so that differences between two previews are the training's. The global
    random state is left alone.

    Args:
        tokenizer: the one that made the training's tokens; it follows the transformer to its device.
        classes: what to draw; C for the null class, an index twice for two images of a class.
        steps, guidance: as in `generate`.
        seed: of the first image; the others' count up from it.
        batch_size: images at once, which the images do not depend on.
    """
    seeds = torch.arange(seed, seed + len(classes), device="cpu")

    @torch.no_grad()
    def preview(transformer: ImageTransformer) -> Tensor:
        tokenizer.to(transformer.device)
        images = []
        for start in range(0, len(classes), batch_size):
            rows = slice(start, start + batch_size)
            tokens = generate(transformer, classes[rows], steps=steps, guidance=guidance, generator=seeds[rows])
            images.append(tokenizer.decode(tokens).float().cpu())
        return torch.cat(images)

    return preview


def spread_classes(num_classes: int, count: int) -> list[int]:
    """`count` of the classes 0 … C−1, evenly spread; some twice where there are fewer."""
    return [index * num_classes // count for index in range(count)]
