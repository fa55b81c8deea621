"""Zero mean and unit variance per feature, measured on the training rows."""

from __future__ import annotations

import torch
from torch import Tensor

from .inputs import Array, at_least_float32, feature_matrix
from .rows import Features, as_rows


class Standardizer:
    """(x - mean) / std per feature; a feature that does not vary in training is only centred.

    After `fit`: `mean` and `scale` (the std, or 1 for a constant feature), float64 (D,).
    """

    mean: Tensor
    scale: Tensor

    def fit(self, features: Features) -> Standardizer:
        """Measure the (population) mean and std of `features` (n, D), in float64 whatever their precision.

        One pass over blocks, whose moments are merged (Chan, Golub and LeVeque 1983).
        """
        count, mean, variance = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
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

    def transform(self, features: Array) -> Tensor:
        """Standardised copy of `features` (n, D), on their device; float64 stays, all else is float32."""
        if not hasattr(self, "mean"):
            raise RuntimeError("the Standardizer has not been fitted: call fit(features) first")
        return self.apply(feature_matrix(features, width=len(self.mean)))

    def apply(self, rows: Tensor) -> Tensor:
        """`transform` without the checks, for batches of features that were checked as a whole."""
        rows = at_least_float32(rows)
        mean, scale = (values.to(rows.device, rows.dtype) for values in (self.mean, self.scale))
        return (rows - mean) / scale
