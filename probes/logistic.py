"""Multinomial logistic regression (L-BFGS) with the regularisation chosen on validation."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from .inputs import Array, Labels, class_indices, feature_matrix
from .metrics import accuracy
from .splits import TuningSplit, tuning_split
from .standardizer import Standardizer

C_GRID = tuple(10.0 ** (exponent / 2) for exponent in range(-10, 1))
"""1e-5 … 1 in half decades; the published grid (DINOv2: 45 values, 1e-6 … 1e5) is for unscaled features."""

_MANY_CLASSES = 64


class LogisticProbe:
    """scikit-learn's `LogisticRegression` on standardised features, after DINOv2's `log_regression.py`.

    Minimises C · Σ cross-entropy + ½ ‖W‖². `fit` goes up the C grid, each start warm from the one before,
    and keeps the C with the best validation accuracy (the smallest of equals). Without a validation set it
    holds out a stratified, seeded `validation_fraction` of the training rows. `refit` then trains once
    more, at that C, on training and validation rows together.

    After `fit`: `C`; `validation_accuracy` (in [0, 1], of the chosen C before refitting);
    `validation_accuracies` and `converged`, by C; `classes` (the labels seen, sorted). float64 features
    are fitted in float64, all others in float32.
    """

    C: float
    classes: np.ndarray
    validation_accuracy: float

    def __init__(
        self,
        *,
        C_grid: Sequence[float] = C_GRID,
        refit: bool = True,
        validation_fraction: float = 0.1,
        max_iterations: int = 1000,
        tolerance: float = 1e-4,
        seed: int = 0,
    ) -> None:
        """`tolerance`: largest component of the gradient of the mean loss at which L-BFGS stops."""
        if not C_grid or min(C_grid) <= 0:
            raise ValueError(f"C_grid must hold at least one value, all > 0, got {tuple(C_grid)}")
        self.C_grid = tuple(sorted(set(C_grid)))
        self.refit = refit
        self.validation_fraction = validation_fraction
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.seed = seed

    def fit(
        self,
        features: Array,
        labels: Labels,
        validation_features: Array | None = None,
        validation_labels: Labels | None = None,
    ) -> LogisticProbe:
        """Fit on `features` (n, D) and integer `labels` (n,) ≥ 0; returns self.

        Raises on wrong shapes, NaN or infinity, labels that are no class, or a single class.
        """
        split = tuning_split(
            features,
            labels,
            validation_features,
            validation_labels,
            fraction=self.validation_fraction,
            seed=self.seed,
        )
        classes, _ = class_indices(split.labels)
        # Few classes make thin products, bound by memory: a second BLAS thread gains little there, and
        # on a busy machine the threads' waiting for each other made a step a hundred times slower.
        with threadpool_limits(1 if len(classes) < _MANY_CLASSES else None, user_api="blas"):
            self._choose(split)
            if self.refit:
                self._refit(split)
        self.classes = self._model.classes_
        return self

    def _choose(self, split: TuningSplit) -> None:
        self._standardizer = Standardizer().fit(split.features)
        train, validation = (self._inputs(rows) for rows in (split.features, split.validation_features))
        model = self._new_model(warm_start=True)
        self.validation_accuracy, self.validation_accuracies, self.converged = -1.0, {}, {}
        for strength in self.C_grid:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # told in `converged` instead
                model.set_params(C=strength).fit(train, split.labels)
            self.converged[strength] = int(model.n_iter_.max()) < self.max_iterations
            score = accuracy(model.predict(validation), split.validation_labels)
            self.validation_accuracies[strength] = score
            if score > self.validation_accuracy:
                self.C, self.validation_accuracy, self._model = strength, score, copy.deepcopy(model)

    def _refit(self, split: TuningSplit) -> None:
        rows = torch.cat([split.features, split.validation_features.to(split.features)])
        self._standardizer = Standardizer().fit(rows)
        self._model = self._new_model(C=self.C)
        self._model.fit(self._inputs(rows), np.concatenate([split.labels, split.validation_labels]))

    def _new_model(self, **options: Any) -> LogisticRegression:
        return LogisticRegression(tol=self.tolerance, max_iter=self.max_iterations, **options)

    def _inputs(self, features: Tensor) -> np.ndarray:
        return self._standardizer.apply(features).cpu().numpy()

    def predict_proba(self, features: Array) -> np.ndarray:
        """Class probabilities (n, C), columns in the order of `classes`."""
        if not hasattr(self, "classes"):
            raise RuntimeError("the LogisticProbe has not been fitted: call fit(features, labels) first")
        rows = feature_matrix(features, width=len(self._standardizer.mean))
        return self._model.predict_proba(self._inputs(rows))

    def predict(self, features: Array) -> np.ndarray:
        """Most probable label of each row, int64 (n,)."""
        probabilities = self.predict_proba(features)
        return self.classes[probabilities.argmax(1)]
