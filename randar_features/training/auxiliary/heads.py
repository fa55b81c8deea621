"""Heads of the losses in addition to next-token prediction: alignment, self-distillation, a class head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from randar_features.training.auxiliary.showing import Features

MIN_DEVIATION = 1e-3


class Alignment(nn.Module):
    """1 − cosine between projected features and a teacher's map, at every location of the grid.

    REPA (Yu et al., arXiv 2410.06940) with the two changes of iREPA (Singh et al., 2512.10794): the projector is a
    3×3 convolution, which keeps places apart, and the map is normalised over each image's locations. At an image
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

    def forward(self, features: Features, labels: Tensor, share: float | None = None) -> Tensor:
        """The mean in nats over reads and images; `labels` (B,), −1 where an image is left out. 0 if all are.

        share: the share of images that are not left out, in the whole batch; None: in `labels`.
        """
        counted = (labels >= 0).sum() if share is None else torch.tensor(share * len(labels))
        counted = counted.where(counted > 0, 1).to(labels.device)
        losses = []
        for read, classifier in self.classifiers.items():
            logits = classifier(features[read].mean(1)).float()
            total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
            losses.append(total / counted)
        return torch.stack(losses).mean()
