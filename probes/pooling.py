"""Feature maps to one vector an image."""

from __future__ import annotations

import torch
from torch import Tensor

POOLINGS = ("mean", "mean+deviation", "max", "flat")


def pool(maps: Tensor, pooling: str) -> Tensor:
    """One vector an image.

    Args:
        maps: (b, G, H, D) float features on a grid; G = H = 1 for an encoder that has none.
        pooling: "mean" over locations, (b, D); "mean+deviation", that and the population standard deviation,
            (b, 2·D); "max" over locations, (b, D); "flat", all locations row by row, (b, G·H·D). On a grid of
            one location all but "mean+deviation" are the same, and its deviations are 0.

    Raises:
        ValueError: an unknown pooling, or maps of another number of axes.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}; got {pooling!r}")
    if maps.ndim != 4:
        raise ValueError(f"maps must have shape (b, G, H, D), got {tuple(maps.shape)}")
    if pooling == "flat":
        return maps.flatten(1)
    locations = maps.flatten(1, 2)
    if pooling == "max":
        return locations.amax(dim=1)
    mean = locations.mean(dim=1)
    if pooling == "mean":
        return mean
    return torch.cat([mean, locations.std(dim=1, correction=0)], dim=1)
