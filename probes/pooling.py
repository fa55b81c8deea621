"""Feature maps to one vector for each image."""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

POOLINGS = ("mean", "1x1+2x2", "mean+deviation", "max", "flat")


def pool(maps: Tensor, pooling: str) -> Tensor:
    """One vector an image.

    Args:
        maps: (b, G, H, D) float features on a grid; G = H = 1 for an encoder that has none.
        pooling: "mean" over locations, (b, D); "mean+deviation", that and the population standard deviation,
            (b, 2·D); "1x1+2x2", the mean over all locations, then those over the four quadrants, (b, 5·D), where
            an odd row or column in the middle belongs to both sides; "max" over locations, (b, D); "flat", all
            locations row by row, (b, G·H·D). On a grid of one location "mean", "max" and "flat" are the same,
            "1x1+2x2" repeats it, and deviations are 0.

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
    if pooling == "1x1+2x2":
        quadrants = adaptive_avg_pool2d(maps.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        return torch.cat([mean, quadrants.flatten(1)], dim=1)
    return torch.cat([mean, locations.std(dim=1, correction=0)], dim=1)
