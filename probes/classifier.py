"""What the probes have in common that choose their options on validation rows."""

import math
from abc import ABC, abstractmethod
from typing import Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from torch import Tensor

from probes.inputs import Labels, own_modes
from probes.rows import BLOCK_ROWS, Features, Rows, as_rows
from probes.splits import TuningSplit, tuning_split


class UnfittedProbeError(NotFittedError, RuntimeError):
    """A probe was used before it was fitted."""


def require_fitted(probe: object, attribute: str = "classes", call: str = "fit(features, labels)") -> None:
    """UnfittedProbeError if `fit` has not given the probe this attribute."""
    if not hasattr(probe, attribute):
        raise UnfittedProbeError(f"the {type(probe).__name__} has not been fitted: call {call} first")


def warm_up_cosine(done: int, iterations: int, warm_up: int) -> float:
    """Factor of the learning rate before iteration `done`: up over the first `warm_up`, then by a cosine to 0."""
    if done < warm_up:
        return (done + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / max(1, iterations - warm_up)))


class TunedProbe(ClassifierMixin, BaseEstimator, ABC):
    """A classifier of feature vectors whose options are chosen on validation rows.

    A scikit-learn classifier: it can be cloned, cross-validated, and stand at the end of a pipeline.

    Without a validation set, a stratified, seeded `validation_fraction` of the training rows chooses.

    After `fit`: `classes` (the labels seen, sorted), `validation_accuracy` (in [0, 1], of what was chosen), and
    `warnings`, what a reader of the result must know, such as an end of a grid that was chosen.
    """

    classes: np.ndarray
    validation_accuracy: float
    warnings: list[str]
    n_features_in_: int

    _at_once = BLOCK_ROWS
    """How many rows are read and predicted at a time."""

    def __init__(self, *, validation_fraction: float = 0.1, seed: int = 0) -> None:
        self.validation_fraction = validation_fraction
        self.seed = seed

    @own_modes()
    def fit(
        self,
        features: Features,
        labels: Labels,
        validation_features: Features | None = None,
        validation_labels: Labels | None = None,
    ) -> Self:
        """Fit on `features` (n, D) and integer `labels` (n,) ≥ 0; returns self.

        Raises on wrong shapes, NaN or infinity, labels that are no class, or a single class.
        """
        train = self._rows(features)
        self.n_features_in_ = train.shape[-1]
        held = validation_features
        if held is not None:
            held = self._rows(held, "validation_features", train.shape[-1])
        fraction, seed = self.validation_fraction, self.seed
        self._fit(tuning_split(train, labels, held, validation_labels, fraction=fraction, seed=seed))
        return self

    @property
    def classes_(self) -> np.ndarray:
        """`classes`, as scikit-learn calls them."""
        return self.classes

    @own_modes()
    def predict_proba(self, features: Features) -> np.ndarray:
        """Class probabilities (n, C), columns in the order of `classes`."""
        require_fitted(self)
        rows = self._rows(features, width=self.n_features_in_)
        return torch.cat([self._logits(block).softmax(1).cpu() for _, block in rows.blocks(self._at_once)]).numpy()

    def predict(self, features: Features) -> np.ndarray:
        """Most probable label of each row, int64 (n,)."""
        probabilities = self.predict_proba(features)
        return self.classes[probabilities.argmax(1)]

    def _rows(self, features: Features, name: str = "features", width: int | None = None) -> Rows:
        return as_rows(features, name, "(n, D)" if width is None else f"(n, {width})", 2, width)

    @abstractmethod
    def _fit(self, split: TuningSplit) -> None: ...

    @abstractmethod
    def _logits(self, features: Tensor) -> Tensor:
        """(b, C) of features (b, D) of any float precision."""
