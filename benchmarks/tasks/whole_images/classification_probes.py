"""Each probe of `benchmarks.classification`: trained on candidates, evaluated once, scored."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from benchmarks.result import Result
from benchmarks.tasks.whole_images.labelled import Candidate, in_memory
from probes import (
    AttentiveProbe,
    JointLinearProbe,
    KNNProbe,
    LogisticProbe,
    bootstrap_interval,
    few_shot,
    mean_per_class_accuracy,
    stratified_holdout,
    top_k_accuracy,
)
from probes.few_shots import SHOTS
from probes.transforms import AUTO
from randar_features.options.shared import Normalization
from randar_features.options.types import Count

Entries = dict[str, Any]
"""What is known of a result so far, see `Result.of`."""
NEIGHBOURS = (10, 20, 100, 200)
HEADLINE_K = 20
TOP = 5
RESAMPLES = 1000
TUNING = 0.1
OF_PROBES: dict[str, tuple[str, ...]] = {
    "normalization": ("logistic", "linear", "few-shot"),
    "knn_normalization": ("knn",),
    **dict.fromkeys(("epochs", "head_batch_size", "buffer_rows"), ("linear", "attentive")),
    **dict.fromkeys(("shots", "draws"), ("few-shot",)),
    **dict.fromkeys(("attentive_queries", "attentive_outputs"), ("attentive",)),
}
"""The probes that an option has an effect on."""


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """How the probes are trained.

    Attributes:
        normalization: what is done to vectors before logistic, few-shot and linear; batch is for linear alone.
        knn_normalization: what is done to vectors before the cosines of knn: unit (only length 1), standardized,
            whitened (all axes), auto (tuning images choose one of these, and the number of axes); several give one
            result each.
        epochs: epochs of the linear and the attentive probe.
        head_batch_size: images in a training step of these two probes.
        buffer_rows: with --on-disk, vectors that the linear and the attentive probe hold in memory at a time.
        shots: labelled images per class for the few-shot probe.
        draws: number of random draws of the images of the few-shot probe.
        attentive_queries: number of queries of the attentive probe; 1: AIM's query of several heads; more: efficient
            probing; several numbers give one result each.
    """

    normalization: Literal["standardize", "none", "batch"] = "standardize"
    knn_normalization: tuple[Normalization, ...] = ("unit",)
    epochs: Count = 30
    head_batch_size: Count = 256
    buffer_rows: Count = 65536
    shots: tuple[Count, ...] = SHOTS
    draws: Count = 5
    attentive_queries: tuple[Count, ...] = (1,)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the probes are trained with: labels (n,) and (m,) of the training and the evaluation images, and options."""

    train_labels: np.ndarray
    labels: np.ndarray
    options: ProbeOptions
    seed: int
    on_disk: bool = False

    @property
    def standardize(self) -> bool:
        """Whether the logistic and the few-shot probe standardise, the one normalization that they have."""
        return self.options.normalization == "standardize"

    @property
    def optimization(self) -> dict[str, Any]:
        """Arguments of the linear and the attentive probe."""
        return {
            "epochs": self.options.epochs,
            "batch_size": self.options.head_batch_size,
            "buffer_rows": self.options.buffer_rows if self.on_disk else None,
            "validation_fraction": TUNING,
            "seed": self.seed,
        }


class Scored(NamedTuple):
    """A row of the result, and what the probe said of each evaluation row."""

    row: Result
    predictions: np.ndarray
    """int64 (m,); of few-shot probes, the first draw's."""
    hits: np.ndarray
    """(m,), 1 where it was right, 0 where not; of few-shot probes the mean over draws."""


def score(probe: str, candidates: Sequence[Candidate], training: Training) -> Iterator[Scored]:
    """Train `probe`, linear, logistic, knn, few-shot or attentive, on each candidate, and evaluate it."""
    if probe == "linear":
        yield from _linear(candidates, training)
        return
    one = {"logistic": _logistic, "knn": _knn, "few-shot": _few_shot, "attentive": _attentive}[probe]
    for candidate in tqdm(candidates, desc=probe, unit="output", leave=False):
        yield from one(candidate, training)


def _logistic(candidate: Candidate, training: Training) -> Iterator[Scored]:
    start = time.perf_counter()
    probe = LogisticProbe(standardize=training.standardize, validation_fraction=TUNING, seed=training.seed)
    probe.fit(candidate.train, training.train_labels)
    table = probe.predict_proba(candidate.evaluation)
    about: Entries = {"probe": "logistic", "settings": "L-BFGS, refitted with the tuning images"}
    about |= {"normalization": training.options.normalization, "chosen": {"C": probe.C}}
    about |= {"tuning": probe.validation_accuracy}
    about |= {"warnings": probe.warnings, "converged": probe.converged[probe.C]}
    yield _scored(candidate, table, probe.classes, training, about, start)


def _linear(candidates: Sequence[Candidate], training: Training) -> Iterator[Scored]:
    """All candidates at once."""
    start = time.perf_counter()
    probe = JointLinearProbe(normalization=training.options.normalization, **training.optimization)
    named = {str(place): candidate for place, candidate in enumerate(candidates)}
    probe.fit({name: candidate.train for name, candidate in named.items()}, training.train_labels)
    seconds = (time.perf_counter() - start) / len(candidates)
    for name, candidate in named.items():
        head, begun = probe.heads[name], time.perf_counter() - seconds
        table = probe.predict_proba({name: candidate.evaluation})[name]
        about: Entries = {
            "probe": "linear",
            "settings": f"SGD, {training.options.epochs} epochs, batches of {training.options.head_batch_size}",
        }
        about |= {"normalization": training.options.normalization, "tuning": head.validation_accuracy}
        about |= {"chosen": {"learning_rate": head.learning_rate}, "warnings": head.warnings}
        yield _scored(candidate, table, probe.classes, training, about, begun)


def _knn(candidate: Candidate, training: Training) -> Iterator[Scored]:
    for normalization in training.options.knn_normalization:
        yield _neighbours(candidate, training, normalization)


def _neighbours(candidate: Candidate, training: Training, normalization: str) -> Scored:
    """kNN with one normalization before cosines, chosen by the tuning images where it is "auto"."""
    start = time.perf_counter()
    vectors, labels = in_memory(candidate.train), training.train_labels
    kept, held = stratified_holdout(labels, TUNING, training.seed)
    several = tuple(k for k in NEIGHBOURS if k <= len(kept)) or (len(kept),)
    k = HEADLINE_K if HEADLINE_K in several else several[-1]
    options: dict[str, Any] = {"normalization": normalization, "validation_fraction": TUNING, "seed": training.seed}
    probe = KNNProbe(k=several, **options).fit(vectors, labels)
    about: Entries = {"probe": "knn", "settings": f"k = {k}, temperature 0.07", "normalization": normalization}
    if normalization == AUTO:
        about |= {"normalization": "chosen by tuning images", "warnings": probe.warnings}
        chosen = {"normalization": probe.chosen_normalization, "components": probe.chosen_components}
        tuning = max(probe.validation_accuracies.values())
    else:
        chosen = {}
        predicted = KNNProbe(k=k, normalization=normalization).fit(vectors[kept], labels[kept]).predict(vectors[held])
        tuning = float((predicted[k] == labels[held]).mean())
    tables = probe.predict_proba(in_memory(candidate.evaluation))
    by_k = {k: float((probe.classes[table.argmax(1)] == training.labels).mean()) for k, table in tables.items()}
    about |= {"chosen": {name: value for name, value in chosen.items() if value is not None}}
    return _scored(candidate, tables[k], probe.classes, training, about | {"by_k": by_k, "tuning": tuning}, start)


def _few_shot(candidate: Candidate, training: Training) -> Iterator[Scored]:
    start, options = time.perf_counter(), training.options
    how: dict[str, Any] = {"shots": options.shots, "seeds": options.draws, "tuning_fraction": TUNING}
    how |= {"standardize": training.standardize}
    sets = candidate.train, training.train_labels, candidate.evaluation, training.labels
    for found in few_shot(*sets, **how, seed=training.seed):
        hits = (found.predictions == training.labels).mean(0)
        about: Entries = {"probe": "few-shot", "settings": f"{found.shots} a class, {options.draws} draws, logistic"}
        about |= {"normalization": options.normalization, "accuracy": found.mean}
        about |= {"deviation": found.deviation} if options.draws > 1 else {}
        about |= {"interval": interval_over_draws(found.predictions == training.labels, training.seed)}
        by_class = [mean_per_class_accuracy(row, training.labels) for row in found.predictions]
        about |= {"mean_per_class": float(np.mean(by_class)), "shots": found.shots}
        about |= {"chosen": {"C": list(found.strengths)}, "tuning": float(found.tuning_accuracies.mean())}
        row = candidate.axes | about | _costs(candidate, start)
        yield Scored(Result.of(row), found.predictions[0], hits)
        start = time.perf_counter()


def interval_over_draws(hits: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of the mean of hits (draws, m): draws and evaluation images are both resampled; NaN if m is 1."""
    if hits.shape[1] < 2:
        return math.nan, math.nan
    generator, (draws, count) = np.random.default_rng(seed), hits.shape
    chosen = generator.multinomial(draws, np.full(draws, 1 / draws), size=RESAMPLES) / draws
    means = chosen @ hits.astype(np.float64)
    images = generator.integers(count, size=(RESAMPLES, count))
    low, high = np.quantile(np.take_along_axis(means, images, 1).mean(1), [0.025, 0.975])
    return float(low), float(high)


def _attentive(candidate: Candidate, training: Training) -> Iterator[Scored]:
    heads = math.gcd(12, candidate.width)
    for queries in training.options.attentive_queries:
        start = time.perf_counter()
        probe = AttentiveProbe(
            num_heads=heads,
            num_queries=None if queries == 1 else queries,
            **training.optimization,
        ).fit(candidate.train, training.train_labels)
        table = probe.predict_proba(candidate.evaluation)
        words = f"one query, {heads} heads" if queries == 1 else f"{queries} queries"
        words += f", AdamW, {training.options.epochs} epochs, batches of {training.options.head_batch_size}"
        about: Entries = {"probe": "attentive", "settings": words, "normalization": "batch"}
        about |= {"tuning": probe.validation_accuracy, "chosen": {"learning_rate": probe.learning_rate}}
        yield _scored(candidate, table, probe.classes, training, about | {"warnings": probe.warnings}, start)


def _scored(
    candidate: Candidate, table: np.ndarray, classes: np.ndarray, training: Training, about: Entries, start: float
) -> Scored:
    """Metrics of a table of scores (m, C); the main one, accuracy, is the first number of the row."""
    predictions, labels = classes[table.argmax(1)], training.labels
    hits = (predictions == labels).astype(np.float64)
    words = {name: about.pop(name) for name in ("probe", "settings", "normalization")}
    metrics: Entries = {"accuracy": float(hits.mean()), "interval": bootstrap_interval(hits, seed=training.seed)}
    if len(classes) > TOP:
        metrics[f"top_{TOP}"] = top_hits(table, classes, labels, TOP)
    metrics["mean_per_class"] = mean_per_class_accuracy(predictions, labels)
    row = candidate.axes | words | metrics | about | _costs(candidate, start)
    return Scored(Result.of(row), predictions, hits)


def top_hits(table: np.ndarray, classes: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Top-k accuracy of scores (m, C) for `classes` (C,); a label that is none of them is a miss."""
    known = np.isin(labels, classes)
    if not known.any():
        return 0.0
    return top_k_accuracy(table[known], np.searchsorted(classes, labels[known]), k) * float(known.mean())


def _costs(candidate: Candidate, start: float) -> dict[str, Any]:
    return {"dimensions": candidate.width, "seconds": round(time.perf_counter() - start, 1)}
