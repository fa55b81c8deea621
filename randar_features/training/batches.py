"""Which images each step sees: a function of the seed and the step, so that resuming needs no state."""

from __future__ import annotations

import torch
from torch import Tensor

# Seeds this far apart share no steps. PyTorch's generator on a CPU takes the lower 32 bits of a seed alone.
SEED_STRIDE = 0x9E3779B1


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of one step's random draws."""
    return torch.Generator().manual_seed(seed * SEED_STRIDE + step)


def batch_indices(step: int, *, batch_size: int, size: int, seed: int) -> Tensor:
    """Indices (batch_size,) of step `step`: epochs of freshly shuffled data, one behind the other."""
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // size
    parts = [
        torch.randperm(size, generator=step_generator(seed, -1 - int(epoch)))[positions[epochs == epoch] % size]
        for epoch in epochs.unique()
    ]
    return torch.cat(parts)
