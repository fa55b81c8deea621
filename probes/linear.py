"""Linear heads on many outputs of an encoder, at many learning rates each, trained together in one go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn
from torch.nn import functional as F

from probes.classifier import TunedProbe, require_fitted
from probes.grids import RATE_LIMITS, end_warnings, settle
from probes.inputs import Labels, check_counts, class_indices, own_modes, sorted_grid
from probes.metrics import accuracy
from probes.rows import Features, Rows, as_rows
from probes.splits import TuningSplit, tuning_split
from probes.transforms import Standardizer

LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
"""DINOv2's base learning rates, for a batch of 256."""

NORMALIZATIONS = ("standardize", "batch", "none")
CHUNK_ROWS = 256


class LinearOptions(BaseEstimator):
    """The options of `JointLinearProbe` and of `LinearProbe`."""

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
        """Args that say where and how:

        buffer_rows: how many rows are in memory at a time, read in runs of 256 and shuffled there, for features on
            disk; None shuffles all rows and reads batch by batch, for features in memory.
        device: where the heads are; default where the features are.
        """
        check_counts(epochs=epochs, batch_size=batch_size)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
        if buffer_rows is not None and (buffer_rows < batch_size or buffer_rows % batch_size):
            raise ValueError(f"buffer_rows must be a multiple of batch_size {batch_size}, got {buffer_rows}")
        sorted_grid(learning_rates, "learning_rates")  # refuses bad ones
        self.learning_rates, self.epochs, self.batch_size = learning_rates, epochs, batch_size
        self.momentum, self.normalization, self.buffer_rows = momentum, normalization, buffer_rows
        self.validation_fraction, self.seed, self.device = validation_fraction, seed, device


class JointLinearProbe(LinearOptions):
    """Softmax regression by SGD after DINOv2's `eval/linear.py`: a head for each output and base learning rate.

    `features` is a mapping: a name to the rows of one output (a layer, a pooling), all of the same images. A
    batch is read once for all heads, and all learning rates of an output are one matrix, so that every layer and
    pooling costs one training run, and its accuracies are the curve over depth. Each head becomes what it would
    be if trained alone.

    SGD with momentum 0.9 and no weight decay; learning rate = base · batch / 256, by a cosine to 0 over all
    iterations; weights from N(0, 0.01²), the same for every learning rate, biases 0. DINOv2 trains 12 500
    iterations of 1024 rows; here `epochs` and `batch_size` say. `normalization` of the vectors: "standardize" by
    the training rows' mean and deviation; "batch", MAE's `BatchNorm1d(affine=False, eps=1e-6)`, which trains on
    each batch's own statistics and predicts by running ones; "none", DINOv2's. For each output the head of the
    best validation accuracy (of equals that of the lowest learning rate) is kept, and nothing is trained after
    that choice. Without a validation set, a stratified, seeded `validation_fraction` of the training rows chooses.
    Where the lowest or the highest learning rate is best, heads of rates beyond it are trained on the same batches.
    Heads and their momenta take 8 bytes for each learning rate, class and feature of all outputs.

    After `fit`: `heads` by output; `best`, the output of the best validation accuracy (the first of equals);
    `classes` (the labels seen, sorted).
    """

    heads: dict[str, Heads]
    best: str
    classes: np.ndarray

    def fit(
        self,
        features: Mapping[str, Features],
        labels: Labels,
        validation_features: Mapping[str, Features] | None = None,
        validation_labels: Labels | None = None,
    ) -> JointLinearProbe:
        """Fit on `features` of (n, D) each and integer `labels` (n,) ≥ 0; returns self.

        Raises on wrong shapes, NaN or infinity, labels that are no class, or a single class.
        """
        held = validation_features or {}
        for each in (features, held):
            if not isinstance(each, Mapping):
                raise TypeError(f"features must be a mapping of names to (n, D) arrays, got {type(each).__name__}")
        if not features or (held and set(held) != set(features)):
            raise ValueError(f"features are of the outputs {list(features)}, validation_features of {list(held)}")
        options: dict[str, Any] = {"fraction": self.validation_fraction, "seed": self.seed}
        splits = {}
        for name, of_train in features.items():
            train = as_rows(of_train, name, "(n, D)", 2)
            of_held = as_rows(held[name], name, f"(n, {train.shape[1]})", 2, train.shape[1]) if held else None
            splits[name] = tuning_split(train, labels, of_held, validation_labels, **options)
        return self.fit_splits(splits)

    @own_modes()
    def fit_splits(self, splits: Mapping[str, TuningSplit]) -> JointLinearProbe:
        """`fit` on splits that share their rows and labels."""
        split = next(iter(splits.values()))
        self.classes, targets = class_indices(split.labels)
        sources = {name: part.features for name, part in splits.items()}
        self.heads = {name: self._new_heads(rows) for name, rows in sources.items()}
        self._train(sources, torch.from_numpy(targets))
        for name, part in splits.items():
            self.heads[name].choose(part.validation_features, part.validation_labels, self.classes)
            self._settle(name, part, torch.from_numpy(targets))
        self.best = max(self.heads, key=lambda name: self.heads[name].validation_accuracy)
        return self

    @own_modes()
    def predict_proba(self, features: Mapping[str, Features]) -> dict[str, np.ndarray]:
        """Class probabilities by the chosen head of each output given, float32 (n, C) in the order of `classes`."""
        require_fitted(self)
        found = {}
        for name, values in features.items():
            head = self.heads[name]
            rows = as_rows(values, name, f"(n, {len(head.weight)})", 2, len(head.weight))
            found[name] = torch.cat([head.predict(block).softmax(1).cpu() for _, block in rows.blocks()]).numpy()
        return found

    def predict(self, features: Mapping[str, Features]) -> dict[str, np.ndarray]:
        """Most probable label of each row by output, int64 (n,)."""
        return {name: self.classes[table.argmax(1)] for name, table in self.predict_proba(features).items()}

    def _settle(self, name: str, split: TuningSplit, targets: Tensor) -> None:
        """Train heads of learning rates beyond the grid, while its end is the best one."""
        scores = self.heads[name].validation_accuracies

        def score(rates: list[float]) -> dict[float, float]:
            chosen = self.heads[name]
            more = self.heads[name] = self._new_heads(split.features, sorted(rates))
            self._train({name: split.features}, targets)
            more.choose(split.validation_features, split.validation_labels, self.classes)
            if more.validation_accuracy <= chosen.validation_accuracy:
                self.heads[name] = chosen
            return more.validation_accuracies

        settle(scores, score, RATE_LIMITS)
        head = self.heads[name]
        head.validation_accuracies = dict(sorted(scores.items()))
        head.warnings = end_warnings("learning rate", scores, head.learning_rate)

    def _new_heads(self, rows: Rows, learning_rates: Sequence[float] | None = None) -> Heads:
        sample = rows.read(np.arange(1))
        start = torch.empty(rows.shape[1], 1, len(self.classes), dtype=torch.float32, device="cpu")
        start.normal_(0, 0.01, generator=torch.Generator().manual_seed(self.seed))
        device = torch.device(self.device or sample.device)
        rates = learning_rates or sorted_grid(self.learning_rates, "learning_rates")
        return Heads(start.to(device), rates, self.momentum, new_normalizer(self.normalization, rows))

    def _train(self, sources: Mapping[str, Rows], targets: Tensor) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        count = len(targets)
        batch_size = min(self.batch_size, count)
        iterations, done = self.epochs * math.ceil(count / batch_size), 0
        for _ in range(self.epochs):
            for rows, batches in shuffled_batches(sources, batch_size, self.buffer_rows, generator):
                factor = batch_size / 256 * 0.5 * (1 + math.cos(math.pi * done / iterations))
                for name, inputs in batches.items():
                    self.heads[name].step(inputs, targets[rows], factor)
                done += 1


def shuffled_batches(
    sources: Mapping[str, Rows], batch_size: int, buffer_rows: int | None, generator: torch.Generator
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """An epoch: row numbers (b,) of each batch, and the rows of every source.

    With `buffer_rows`, runs of `CHUNK_ROWS` rows in random order are read until there are that many, and
    shuffled in memory; without, rows are shuffled as a whole and read batch by batch. The order depends neither
    on the sources nor on where they lie.
    """
    count = len(next(iter(sources.values())))
    if buffer_rows is None:
        for rows in torch.randperm(count, generator=generator, device="cpu").split(batch_size):
            yield rows, {name: source.read(rows.numpy()) for name, source in sources.items()}
        return
    chunks = torch.arange(count, device="cpu").split(CHUNK_ROWS)
    order = torch.cat([chunks[int(place)] for place in torch.randperm(len(chunks), generator=generator, device="cpu")])
    for held in order.split(buffer_rows):
        buffers = {name: source.read(held.numpy()) for name, source in sources.items()}
        for places in torch.randperm(len(held), generator=generator, device="cpu").split(batch_size):
            yield held[places], {name: rows[places.to(rows.device)] for name, rows in buffers.items()}


class Normalizer(nn.Module):
    """ "standardize" and "none" of `NORMALIZATIONS` as a layer: (x - mean) / scale, to float32."""

    def __init__(self, standardizer: Standardizer | None) -> None:
        super().__init__()
        self.standardizer = standardizer

    def forward(self, rows: Tensor) -> Tensor:
        """(b, D) → (b, D) float32."""
        return (rows if self.standardizer is None else self.standardizer.apply(rows)).float()


class BatchNormalizer(nn.BatchNorm1d):
    """ "batch" of `NORMALIZATIONS`: MAE's. A batch of one row, the rest of an epoch, takes the running statistics."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6, affine=False, dtype=torch.float32, device="cpu")

    def forward(self, rows: Tensor) -> Tensor:
        """(b, D) → (b, D)."""
        if len(rows) > 1:
            return super().forward(rows)
        return F.batch_norm(rows, self.running_mean, self.running_var, eps=self.eps)


def new_normalizer(normalization: str, rows: Rows) -> nn.Module:
    """The layer for one of `NORMALIZATIONS`, for vectors such as `rows` (n, D)."""
    if normalization == "batch":
        return BatchNormalizer(rows.shape[-1])
    return Normalizer(Standardizer().fit(rows) if normalization == "standardize" else None)


class Heads:
    """One output's heads, all learning rates as one matrix; after `choose` the chosen one.

    After `choose`: `learning_rate` (base), `validation_accuracy`, `validation_accuracies` by base learning rate,
    `weight` (D, C) and `bias` (C,), for normalised features; `warnings`, such as an end of the grid that was chosen.
    """

    warnings: list[str]

    def __init__(self, start: Tensor, learning_rates: Sequence[float], momentum: float, normalizer: nn.Module) -> None:
        """`start`: (D, 1, C), the weights of every head before the first step."""
        self.learning_rates, self.momentum = learning_rates, momentum
        self.normalizer = normalizer.to(start.device)
        self.rates = torch.tensor(learning_rates, dtype=torch.float32, device=start.device)[:, None]
        self.weights = start.repeat(1, len(learning_rates), 1)
        self.biases = torch.zeros(self.weights.shape[1:], dtype=torch.float32, device=start.device)
        self.speeds = torch.zeros_like(self.weights), torch.zeros_like(self.biases)

    def step(self, features: Tensor, targets: Tensor, factor: float) -> None:
        """One step of SGD on a batch (b, D), places of the classes (b,), learning rates multiplied by `factor`."""
        inputs, targets = self._inputs(features), targets.to(self.rates.device)
        errors = self._logits(inputs).softmax(2)  # d loss / d logits = softmax - one-hot
        errors[torch.arange(len(inputs), device=inputs.device), :, targets] -= 1
        errors /= len(inputs)
        gradients = (inputs.T @ errors.flatten(1)).view_as(self.weights), errors.sum(0)
        for values, speed, gradient in zip((self.weights, self.biases), self.speeds, gradients, strict=True):
            speed.mul_(self.momentum).add_(gradient)
            values.addcmul_(speed, self.rates, value=-factor)

    def choose(self, rows: Rows, labels: np.ndarray, classes: np.ndarray) -> None:
        """Keep the head that is right most often on validation rows, and drop the others."""
        self.normalizer.eval()
        places = [self._logits(self._inputs(block)).argmax(2).cpu() for _, block in rows.blocks()]
        predictions = classes[torch.cat(places).numpy()]
        scores = [accuracy(column, labels) for column in predictions.T]
        best = int(np.argmax(scores))
        self.validation_accuracies = dict(zip(self.learning_rates, scores, strict=True))
        self.learning_rate, self.validation_accuracy = self.learning_rates[best], scores[best]
        self.weight, self.bias = self.weights[:, best].clone(), self.biases[best].clone()
        del self.weights, self.biases, self.speeds

    def predict(self, features: Tensor) -> Tensor:
        """(b, C) logits of the chosen head."""
        return self._inputs(features) @ self.weight + self.bias

    def _inputs(self, features: Tensor) -> Tensor:
        return self.normalizer(features.to(self.rates.device).float())

    def _logits(self, inputs: Tensor) -> Tensor:
        """(b, D) through every head: (b, R, C)."""
        return (inputs @ self.weights.flatten(1)).view(len(inputs), *self.biases.shape) + self.biases


_ONLY = "features"


class LinearProbe(LinearOptions, TunedProbe):
    """`JointLinearProbe` on a single output; its protocol and its options.

    After `fit`: `learning_rate` (base) and `validation_accuracy` (in [0, 1]) of the chosen head;
    `validation_accuracies` by base learning rate; `classes` (the labels seen, sorted); `weight` (D, C) and
    `bias` (C,) for normalised features, on `device`.
    """

    learning_rate: float
    validation_accuracies: dict[float, float]
    weight: Tensor
    bias: Tensor

    def _fit(self, split: TuningSplit) -> None:
        self._joint = JointLinearProbe(**self.get_params())
        head = self._joint.fit_splits({_ONLY: split}).heads[_ONLY]
        self.classes, self.weight, self.bias = self._joint.classes, head.weight, head.bias
        self.learning_rate, self.validation_accuracy = head.learning_rate, head.validation_accuracy
        self.validation_accuracies, self.warnings = head.validation_accuracies, head.warnings

    def _logits(self, features: Tensor) -> Tensor:
        return self._joint.heads[_ONLY].predict(features)
