"""Standardisation and whitening of feature vectors before a head or cosines, measured on the training images."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor

from probes.classifier import require_fitted
from probes.inputs import Array, at_least_float32, feature_matrix, own_modes
from probes.rows import Features, as_rows

AUTO = "auto"
NORMALIZATIONS = ("unit", "standardized", "whitened")
"""What is done with vectors before cosines, besides bringing them to length 1."""


class FittedTransform(ABC):
    """A transform of feature vectors; `mean`, float64 (D,), after `fit`."""

    mean: Tensor

    @abstractmethod
    def fit(self, features: Features, labels: object = None) -> Self:
        """Measure `features` (n, D), in float64 whatever their precision; returns self."""

    @abstractmethod
    def apply(self, rows: Tensor) -> Tensor:
        """`transform` without the checks, for batches of features that were checked as a whole."""

    def transform(self, features: Array) -> Tensor:
        """Transformed copy of `features` (n, D), on their device; float64 stays, all else is float32."""
        require_fitted(self, "mean", "fit(features)")
        return self.apply(feature_matrix(features, width=len(self.mean)))

    def fit_transform(self, features: Array, labels: object = None) -> Tensor:
        """`fit`, then `transform` of the same features."""
        return self.fit(features).transform(features)


class Standardizer(FittedTransform):
    """(x - mean) / std per feature; a feature that does not vary in training is only centred.

    After `fit`: `mean` and `scale` (the std, or 1 for a constant feature), float64 (D,).
    """

    scale: Tensor

    def fit(self, features: Features, labels: object = None) -> Self:
        """Measure the (population) mean and std of `features` (n, D), in float64 whatever their precision.

        One pass over blocks, whose moments are merged (Chan, Golub and LeVeque 1983).
        """
        count, (mean, variance) = 0, torch.zeros(2, dtype=torch.float64, device="cpu")
        for _, block in as_rows(features, "features", "(n, D)", 2).blocks():
            own_variance, own_mean = (part.cpu() for part in torch.var_mean(block.double(), 0, correction=0))
            count += len(block)
            share, shift = len(block) / count, own_mean - mean
            mean = mean + share * shift
            variance = (1 - share) * variance + share * own_variance + share * (1 - share) * shift.square()
        self.mean, std = mean, variance.sqrt()
        precision = torch.finfo(at_least_float32(block[:1]).dtype)
        # Below a few rounding steps of the mean there is only noise, which division would blow up.
        constant = std <= 10 * precision.eps * self.mean.abs() + precision.tiny
        self.scale = torch.where(constant, 1.0, std)
        return self

    def apply(self, rows: Tensor) -> Tensor:
        """`(rows - mean) / std`, on their device."""
        rows = at_least_float32(rows)
        mean, scale = (values.to(rows.device, rows.dtype) for values in (self.mean, self.scale))
        return (rows - mean) / scale


class Whitener(FittedTransform):
    """(x - mean) in the leading principal axes, each divided by its deviation: scikit-learn's `PCA(whiten=True)`.

    Features of generators have a mean that is far longer than what varies, so that all cosines are near 1, and a few
    axes hold most of the variance; here every axis has its say. Written here, and not taken from scikit-learn, since
    features are read block by block.

    Args:
        components: how many axes; None: all whose deviation is more than rounding.

    After `fit`: `mean` (D,), `axes` (D, K), divided by the deviations, float64.
    """

    axes: Tensor

    def __init__(self, components: int | None = None) -> None:
        if components is not None and components < 1:
            raise ValueError(f"components must be at least 1, or None for all, got {components}")
        self.components = components

    @own_modes()
    def fit(self, features: Features, labels: object = None) -> Self:
        """Measure the axes of `features` (n, D) in float64; returns self.

        Raises:
            ValueError: more components than features, or than these vectors have directions.
        """
        rows = as_rows(features, "features", "(n, D)", 2)
        count, width = rows.shape
        mean = torch.zeros(width, dtype=torch.float64, device="cpu")
        for _, block in rows.blocks():
            mean += block.double().sum(0).cpu()
        self.mean = mean / count
        gram = torch.zeros(width, width, dtype=torch.float64, device="cpu")
        for _, block in rows.blocks():
            centred = block.double().cpu() - self.mean
            gram += centred.T @ centred
        variances, axes = torch.linalg.eigh(gram / max(1, count - 1))  # ascending
        variances, axes = variances.flip(0), axes.flip(1)
        precision = torch.finfo(at_least_float32(block[:1]).dtype)
        # Below that an axis holds the rounding of the features, which division would blow up.
        floor = (precision.eps * (variances[0].clamp_min(0).sqrt() + self.mean.abs().max())) ** 2
        usable = min(int((variances > floor + precision.tiny).sum()), count - 1)
        wanted = usable if self.components is None else self.components
        if not 1 <= wanted <= usable:
            raise ValueError(
                f"components must lie within 1 … {usable}, the directions in which these {count} vectors of {width} "
                f"numbers differ, got {wanted}"
            )
        self.axes = axes[:, :wanted] / variances[:wanted].sqrt()
        return self

    def leading(self, components: int) -> "Whitener":
        """The same with the first axes alone."""
        fewer = Whitener(components)
        fewer.mean, fewer.axes = self.mean, self.axes[:, :components]
        return fewer

    @own_modes()
    def apply(self, rows: Tensor) -> Tensor:
        """Centred `rows` along the principal axes, each divided by its deviation."""
        rows = at_least_float32(rows)
        # Centred first: the mean may be a hundred times as long as what varies.
        return (rows - self.mean.to(rows.device, rows.dtype)) @ self.axes.to(rows.device, rows.dtype)


Transform = Standardizer | Whitener


def fitted_transform(normalization: str, components: int | None, features: Features) -> Transform | None:
    """What one of `NORMALIZATIONS` does to vectors before they are brought to length 1; None: nothing.

    components: of whitening; None: all.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
    if normalization == "unit":
        return None
    return Standardizer().fit(features) if normalization == "standardized" else Whitener(components).fit(features)


Way = tuple[str, int | None]
"""One of `NORMALIZATIONS`, and the components of whitening."""


def fitted_ways(features: Features) -> Iterator[tuple[Way, Transform | None]]:
    """What "auto" tries, fitted to `features` (n, D): each normalization, whitening to all axes, a half, a quarter …

    Down to 8; all axes are the end on the other side, where nothing more can be tried. The axes are measured once.
    """
    yield ("unit", None), None
    yield ("standardized", None), Standardizer().fit(features)
    whole = Whitener().fit(features)
    size = most = whole.axes.shape[1]
    while size >= min(8, most):
        yield ("whitened", size), whole.leading(size)
        size //= 2


def best_way(scores: Mapping[Way, float]) -> tuple[Way, list[str]]:
    """The way with the highest score, the first of equals; a warning where it has the fewest components tried."""
    best = max(scores, key=scores.__getitem__)
    tried = [components for _, components in scores if components is not None]
    if best[1] is None or best[1] > min(tried) or best[1] == 1:
        return best, []
    return best, [f"end of grid: components {best[1]}, the fewest that were tried, were chosen"]
