"""A linear head trained by SGD at many learning rates in one pass, the best one chosen on validation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .inputs import Array, Labels, class_indices, feature_matrix
from .metrics import accuracy
from .splits import TuningSplit, tuning_split
from .standardizer import Standardizer

LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
"""DINOv2's base learning rates, for a batch of 256."""

_BLOCK_ROWS = 4096


class LinearProbe:
    """Softmax regression by SGD after DINOv2's `eval/linear.py`: one head for each base learning rate.

    SGD with momentum 0.9 and no weight decay; learning rate = base · batch / 256, by a cosine to 0 over all
    iterations; weights from N(0, 0.01²), the same for every head, biases 0. DINOv2 trains 12 500 iterations
    of 1024 rows without standardising; here `epochs` and `batch_size` say, and features are standardised. All
    heads see the same batches and are trained as one matrix. The head with the best validation accuracy (of
    equals that of the lowest learning rate) is kept, and nothing is trained after that choice. Without a
    validation set, a stratified, seeded `validation_fraction` of the training rows chooses.

    After `fit`: `learning_rate` (base) and `validation_accuracy` (in [0, 1]) of the chosen head;
    `validation_accuracies` by base learning rate; `classes` (the labels seen, sorted); `weight` (D, C) and
    `bias` (C,) for standardised features, on `device`.
    """

    learning_rate: float
    validation_accuracy: float
    classes: np.ndarray
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        *,
        learning_rates: Sequence[float] = LEARNING_RATES,
        epochs: int = 30,
        batch_size: int = 256,
        momentum: float = 0.9,
        validation_fraction: float = 0.1,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        """`device`: where the heads are; default where the training features are."""
        if not learning_rates or min(learning_rates) <= 0:
            raise ValueError(f"learning_rates must be at least one value, all > 0, got {tuple(learning_rates)}")
        if epochs < 1 or batch_size < 1:
            raise ValueError(f"epochs and batch_size must be ≥ 1, got {epochs} and {batch_size}")
        self.learning_rates = tuple(sorted(set(learning_rates)))
        self.epochs = epochs
        self.batch_size = batch_size
        self.momentum = momentum
        self.validation_fraction = validation_fraction
        self.seed = seed
        self.device = device

    def fit(
        self,
        features: Array,
        labels: Labels,
        validation_features: Array | None = None,
        validation_labels: Labels | None = None,
    ) -> LinearProbe:
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
        self._standardizer = Standardizer().fit(split.features)
        classes, targets = class_indices(split.labels)
        weights, biases = self._train(split.features, torch.from_numpy(targets))
        self._choose(weights, biases, classes, split)
        return self

    def _train(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """All heads: weights (D, R, C), biases (R, C)."""
        generator = torch.Generator().manual_seed(self.seed)
        device = torch.device(self.device or features.device)
        width, num_heads, num_classes = features.shape[1], len(self.learning_rates), int(targets.max()) + 1
        start = torch.empty(width, 1, num_classes).normal_(0, 0.01, generator=generator)
        weights = start.repeat(1, num_heads, 1).to(device)
        biases = torch.zeros(num_heads, num_classes, device=device)
        speeds = torch.zeros_like(weights), torch.zeros_like(biases)
        rates = torch.tensor(self.learning_rates, device=device)[:, None]
        for rows, factor in self._schedule(len(features), generator):
            inputs = self._inputs(features[rows.to(features.device)], device)
            gradients = _gradients(inputs, targets[rows].to(device), weights, biases)
            for values, speed, gradient in zip((weights, biases), speeds, gradients, strict=True):
                speed.mul_(self.momentum).add_(gradient)
                values.sub_(rates * factor * speed)
        return weights, biases

    def _schedule(self, count: int, generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
        """Row numbers of each batch, and what to multiply the base learning rates with there."""
        batch_size = min(self.batch_size, count)
        per_epoch = math.ceil(count / batch_size)
        for epoch in range(self.epochs):
            for place, rows in enumerate(torch.randperm(count, generator=generator).split(batch_size)):
                progress = (epoch * per_epoch + place) / (self.epochs * per_epoch)
                yield rows, batch_size / 256 * 0.5 * (1 + math.cos(math.pi * progress))

    def _choose(self, weights: Tensor, biases: Tensor, classes: np.ndarray, split: TuningSplit) -> None:
        blocks = split.validation_features.split(_BLOCK_ROWS)
        logits = (_logits(self._inputs(block, weights.device), weights, biases) for block in blocks)
        predictions = classes[torch.cat([block.argmax(2).cpu() for block in logits]).numpy()]
        scores = [accuracy(column, split.validation_labels) for column in predictions.T]
        best = int(np.argmax(scores))
        self.validation_accuracies = dict(zip(self.learning_rates, scores, strict=True))
        self.learning_rate, self.validation_accuracy = self.learning_rates[best], scores[best]
        self.classes, self.weight, self.bias = classes, weights[:, best].clone(), biases[best].clone()

    def _inputs(self, features: Tensor, device: torch.device) -> Tensor:
        return self._standardizer.apply(features).to(device, torch.float32)

    def predict_proba(self, features: Array) -> np.ndarray:
        """Class probabilities of the chosen head, float32 (n, C), columns in the order of `classes`."""
        if not hasattr(self, "classes"):
            raise RuntimeError("the LinearProbe has not been fitted: call fit(features, labels) first")
        blocks = feature_matrix(features, width=len(self.weight)).split(_BLOCK_ROWS)
        logits = (self._inputs(block, self.weight.device) @ self.weight + self.bias for block in blocks)
        return torch.cat([block.softmax(1).cpu() for block in logits]).numpy()

    def predict(self, features: Array) -> np.ndarray:
        """Most probable label of each row, int64 (n,)."""
        probabilities = self.predict_proba(features)
        return self.classes[probabilities.argmax(1)]


def _logits(inputs: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    """(B, D) through every head, weights (D, R, C) as one matrix: (B, R, C)."""
    return (inputs @ weights.flatten(1)).view(len(inputs), *biases.shape) + biases


def _gradients(inputs: Tensor, targets: Tensor, weights: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
    """Of the mean cross-entropy of each head, with respect to its weights and biases."""
    errors = _logits(inputs, weights, biases).softmax(2)  # d loss / d logits = softmax - one-hot
    errors[torch.arange(len(inputs), device=inputs.device), :, targets] -= 1
    errors /= len(inputs)
    return (inputs.T @ errors.flatten(1)).view_as(weights), errors.sum(0)
