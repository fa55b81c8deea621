"""Samples to look at while a model is being trained: the same classes and seeds each time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from randar_features.generation.generate import generate
from randar_features.models import ImageTransformer
from randar_features.tokenizers import ImageTokenizer

GUIDANCE = (1.0, 4.0)
AT_ONCE = 32  # images; they do not depend on it


def sample_preview(tokenizer: ImageTokenizer, classes: Sequence[int]) -> Callable[[ImageTransformer], Tensor]:
    """A function from a transformer to images (n, 3, S, S) in [0, 1] on the CPU, one for each class.

    The seeds are always 0, 1, …, so that differences between two previews are the training's. The global random state
    is left alone. The tokenizer, that of the training's tokens, follows the transformer to its device. Classes are
    indices, C for the null class; an index twice gives two images of a class.
    """
    seeds = torch.arange(len(classes), device="cpu")

    @torch.no_grad()
    def preview(transformer: ImageTransformer) -> Tensor:
        tokenizer.to(transformer.device)
        images = []
        for start in range(0, len(classes), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            tokens = generate(transformer, classes[rows], guidance=GUIDANCE, generator=seeds[rows])
            images.append(tokenizer.decode(tokens).float().cpu())
        return torch.cat(images)

    return preview


def spread_classes(num_classes: int, count: int) -> list[int]:
    """`count` of the classes 0 … C−1, evenly spread; some twice where there are fewer."""
    return [index * num_classes // count for index in range(count)]
