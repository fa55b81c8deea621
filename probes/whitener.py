"""Principal axes of unit variance, measured on the training images."""

from __future__ import annotations

import torch
from torch import Tensor

from .inputs import Array, at_least_float32, feature_matrix
from .rows import Features, as_rows
from .standardizer import Standardizer

NORMALIZATIONS = ("unit", "standardized", "whitened")
"""What is done with vectors before cosines, besides bringing them to length 1."""


class Whitener:
    """(x - mean) in the leading principal axes, each divided by its deviation: scikit-learn's `PCA(whiten=True)`.

    Features of generators have a mean that is far longer than what varies, so that all cosines are near 1, and a few
    axes hold most of the variance; here every axis has its say. Written here, and not taken from scikit-learn, since
    features are read block by block.

    Args:
        components: how many axes; None: all whose deviation is more than rounding.

    After `fit`: `mean` (D,), `axes` (D, K), divided by the deviations, float64.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self, components: int | None = None) -> None:
        if components is not None and components < 1:
            raise ValueError(f"components must be at least 1, or None for all, got {components}")
        self.components = components

    def fit(self, features: Features, labels: object = None) -> Whitener:
        """Measure the axes of `features` (n, D) in float64; returns self.

        Raises:
            ValueError: more components than features, or than these vectors have directions.
        """
        rows = as_rows(features, "features", "(n, D)", 2)
        count, width = rows.shape
        mean = torch.zeros(width, dtype=torch.float64)
        for _, block in rows.blocks():
            mean += block.double().sum(0).cpu()
        self.mean = mean / count
        gram = torch.zeros(width, width, dtype=torch.float64)
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

    def transform(self, features: Array) -> Tensor:
        """Whitened `features` (n, D) → (n, K), on their device; float64 stays, all else is float32."""
        if not hasattr(self, "mean"):
            raise RuntimeError("the Whitener has not been fitted: call fit(features) first")
        return self.apply(feature_matrix(features, width=len(self.mean)))

    def fit_transform(self, features: Array, labels: object = None) -> Tensor:
        """`fit`, then `transform` of the same features."""
        return self.fit(features).transform(features)

    def apply(self, rows: Tensor) -> Tensor:
        """`transform` without the checks, for batches of features that were checked as a whole."""
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
