"""A linear head trained by SGD at many learning rates in one pass, the best one chosen on validation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .classifier import TunedProbe
from .joint_linear import LEARNING_RATES, JointLinearProbe
from .splits import TuningSplit

__all__ = ["LEARNING_RATES", "LinearProbe"]

_ONLY = "features"


class LinearProbe(TunedProbe):
    """`JointLinearProbe` on a single output; its protocol and its options.

    After `fit`: `learning_rate` (base) and `validation_accuracy` (in [0, 1]) of the chosen head;
    `validation_accuracies` by base learning rate; `classes` (the labels seen, sorted); `weight` (D, C) and
    `bias` (C,) for normalised features, on `device`.
    """

    learning_rate: float
    validation_accuracies: dict[float, float]
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        *,
        learning_rates: Sequence[float] = LEARNING_RATES,
        epochs: int = 30,
        batch_size: int = 256,
        momentum: float = 0.9,
        normalization: str = "standardize",
        buffer_rows: int | None = None,
        validation_fraction: float = 0.1,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        """Options as those of `JointLinearProbe`."""
        super().__init__(validation_fraction=validation_fraction, seed=seed)
        self.learning_rates, self.epochs, self.batch_size = learning_rates, epochs, batch_size
        self.momentum, self.normalization = momentum, normalization
        self.buffer_rows, self.device = buffer_rows, device
        self._new_joint()  # refuses bad options

    def _new_joint(self) -> JointLinearProbe:
        return JointLinearProbe(**self.get_params())

    @property
    def _width(self) -> int:
        return len(self.weight)

    def _fit(self, split: TuningSplit) -> None:
        self._joint = self._new_joint()
        head = self._joint.fit_splits({_ONLY: split}).heads[_ONLY]
        self.classes, self.weight, self.bias = self._joint.classes, head.weight, head.bias
        self.learning_rate, self.validation_accuracy = head.learning_rate, head.validation_accuracy
        self.validation_accuracies, self.warnings = head.validation_accuracies, head.warnings

    def _logits(self, features: Tensor) -> Tensor:
        return self._joint.heads[_ONLY].predict(features)
