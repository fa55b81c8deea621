"""Alignment of a middle block to the map of a frozen network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from randar_features.training.auxiliary.showing import Features


class Alignment(nn.Module):
    """1 − cosine between projected features and a teacher's map, at every location of the grid.

    REPA (Yu et al., arXiv 2410.06940) with the two changes of iREPA (Singh et al., 2512.10794): the projector is a
    3×3 convolution, which keeps what lies where, and the map is normalised over each image's locations. At an image
    token the target is what is seen there; at an instruction token what is to be predicted there.

    Args:
        dim: D, of the features.
        channels: C, of the teacher's map.
        grid: G, side of the tokens' grid.
        reads: the tokens that are aligned, each with its own projector.
    """

    def __init__(self, dim: int, channels: int, grid: int, reads: Sequence[str]) -> None:
        super().__init__()
        self.grid = grid
        self.projectors = nn.ModuleDict({read: nn.Conv2d(dim, channels, 3, padding=1) for read in reads})

    def forward(self, features: Features, target: Tensor) -> Tensor:
        """The mean over reads, images and locations. Target: (B, C, G, G), see `alignment_target`."""
        losses = []
        for read, projector in self.projectors.items():
            maps = features[read].transpose(1, 2).unflatten(2, (self.grid, self.grid))
            losses.append(1 - F.cosine_similarity(projector(maps).float(), target, dim=1).mean())
        return torch.stack(losses).mean()


def alignment_target(maps: Tensor, grid: int, removed_mean: float) -> Tensor:
    """A teacher's maps (B, g, g, C) of any format as float32 (B, C, G, G): normalised, then interpolated.

    Each channel's mean over the image's locations is taken out as far as `removed_mean` says: what all locations
    have in common says little about where things are, but much about what the image shows. Then each channel is
    divided by its deviation over the locations.
    """
    maps = maps.float().permute(0, 3, 1, 2)
    mean, deviation = maps.mean((2, 3), keepdim=True), maps.std((2, 3), keepdim=True, correction=0)
    maps = (maps - removed_mean * mean) / (deviation + 1e-6)
    return F.interpolate(maps, size=(grid, grid), mode="bilinear", align_corners=False)
