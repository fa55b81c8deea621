"""The data of each step are a function of the seed and the step, so that resuming needs no state.

Everything is drawn for the whole batch; how processes and micro batches share it changes nothing.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# Seeds this far apart share no steps. PyTorch's generator on a CPU takes the lower 32 bits of a seed alone.
SEED_STRIDE = 0x9E3779B1


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one step's random draws."""
    return torch.Generator(device).manual_seed(seed * SEED_STRIDE + step)


def batch_indices(step: int, *, batch_size: int, size: int, seed: int) -> Tensor:
    """Indices (batch_size,) of step `step`: epochs of freshly shuffled data, one after the other."""
    positions = torch.arange(step * batch_size, (step + 1) * batch_size, device="cpu")
    epochs = positions // size
    parts = [_epoch(seed, int(epoch), size)[positions[epochs == epoch] % size] for epoch in epochs.unique()]
    return torch.cat(parts)


@lru_cache(maxsize=2)
def _epoch(seed: int, epoch: int, size: int) -> Tensor:
    return torch.randperm(size, generator=step_generator(seed, -1 - epoch), device="cpu")


def spread(size: int, count: int) -> Tensor:
    """Indices (min(count, size),) of images evenly spread through `size`, so that all classes of sorted data count."""
    return torch.linspace(0, size - 1, min(count, size), device="cpu").long()


@dataclass(frozen=True)
class Draws:
    """A step's random choices for its images: `indices`, `crops`, `dropped` classes (B,), and the dropout's seed."""

    indices: Tensor
    crops: Tensor
    dropped: Tensor
    dropout_seed: int


def draw(
    generator: torch.Generator, step: int, *, batch_size: int, size: int, crops: int, class_dropout: float, seed: int
) -> Draws:
    """The draws of step `step`; `generator` is the step's, on the CPU, and is advanced."""
    return Draws(
        indices=batch_indices(step, batch_size=batch_size, size=size, seed=seed),
        crops=torch.randint(crops, (batch_size,), generator=generator, device="cpu"),
        dropped=torch.rand(batch_size, generator=generator, device="cpu") < class_dropout,
        dropout_seed=int(torch.randint(2**62, (), generator=generator, device="cpu")),
    )
