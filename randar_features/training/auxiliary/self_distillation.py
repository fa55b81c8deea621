"""Self-distillation: the averaged model, which sees the whole image, teaches a block that sees a part of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from randar_features.training.auxiliary.showing import Features

MIN_DEVIATION = 1e-3


class SelfDistillation(nn.Module):
    """1 − cosine between predicted and averaged features, at every location; no weights from elsewhere.

    After SRA (Jiang et al., arXiv 2505.02831: a shallow block learns from a deeper one of the averaged model) and
    ST-AR (Yue et al., 2509.15185: the same for autoregressive models). The teacher reads the second showing, so that
    each location sees the whole image; the student sees, at the first showing, the part that comes before.

    Args:
        dim: D, of the features.
        reads: the tokens at which it learns, each with its own predictor of two layers.
    """

    def __init__(self, dim: int, reads: Sequence[str]) -> None:
        super().__init__()
        self.predictors = nn.ModuleDict(
            {read: nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)) for read in reads}
        )

    def forward(self, features: Features, targets: Features) -> Tensor:
        """The mean over reads, images and locations. Targets: the teacher's features (B, N, D), no gradient."""
        losses = []
        for read, predictor in self.predictors.items():
            predicted = predictor(features[read]).float()
            losses.append(1 - F.cosine_similarity(predicted, standardized(targets[read]), dim=-1).mean())
        return torch.stack(losses).mean()


def standardized(features: Tensor) -> Tensor:
    """Features (B, N, D) with mean 0 and deviation 1 in each channel, over all images and locations at hand.

    Else the cosine would be nearly 1 at once: one common vector holds most of the residual stream's energy. The
    statistics are a micro batch's, as batch normalisation's are.
    """
    features = features.detach().float()
    mean, deviation = features.mean((0, 1)), features.std((0, 1), correction=0)
    return (features - mean) / deviation.clamp(min=MIN_DEVIATION)
