"""A class head on a pooled middle block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from randar_features.training.auxiliary.showing import Features


class ClassHead(nn.Module):
    """Cross-entropy of the label from the mean over locations, for images that are shown under the null class.

    After LSEP (arXiv 2509.21565), a linear classifier within the generator. The features become those of a
    supervised model, and a card has to say so. Images with their class given are left out, since there the class
    token tells the answer.

    Args:
        dim: D, of the features.
        classes: how many.
        reads: the tokens that are pooled, each with its own linear classifier.
    """

    def __init__(self, dim: int, classes: int, reads: Sequence[str]) -> None:
        super().__init__()
        self.classifiers = nn.ModuleDict({read: nn.Linear(dim, classes) for read in reads})

    def forward(self, features: Features, labels: Tensor) -> Tensor:
        """The mean in nats over reads and images; `labels` (B,), −1 where an image is left out. 0 if all are."""
        losses = []
        for read, classifier in self.classifiers.items():
            logits = classifier(features[read].mean(1)).float()
            total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
            losses.append(total / (labels >= 0).sum().clamp(min=1))
        return torch.stack(losses).mean()
