"""photo-digits under every representation: digit classes and nearest neighbours.

A representation's variant (layer) and C are chosen on the validation split, the probe is then refitted on both
splits, and the test split touched once, by the chosen one. Intervals are bootstrapped over the test split's scans,
whose samples stay together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.encoders import Encoder, load_encoder
from benchmarks.encoders.generators import TokenizerEncoder
from benchmarks.encoders.plain import PixelsEncoder
from probes import LogisticProbe, accuracy, bootstrap_interval, recall_at_k, search
from probes.pooling import pool
from randar_features import Model
from randar_features.data import PhotoDigits

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MAX_ITERATIONS = 200
BATCH_SIZE = 16  # a CPU's allocator hands small batches the memory of the last ones, and large ones fresh pages


@dataclass(frozen=True, eq=False)
class Variant:
    """Vectors (n, D) float32 of all images, and which output of an encoder they are."""

    name: str
    vectors: Tensor
    details: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Digits:
    """The splits of photo-digits in one stack, the rows of each, and how many samples in a row share a scan.

    `pixels` are uint8 (n, 3, S, S), `targets` the digits (n,).
    """

    pixels: Tensor
    targets: Tensor
    rows: dict[str, slice]
    placements: dict[str, int]

    def of(self, split: str, values: Tensor) -> Tensor:
        """The rows of a split out of values (n, …) for the whole stack."""
        return values[self.rows[split]]

    def labels(self, split: str) -> np.ndarray:
        """Digits of a split, int64 (n,)."""
        return self.of(split, self.targets).numpy()

    def by_scan(self, split: str, values: np.ndarray) -> np.ndarray:
        """Means of values (n,) of a split's samples over the samples of each scan."""
        return values.reshape(-1, self.placements[split]).mean(axis=1)


def load_digits(size: int, *, placements: int, held_out: int, scans: int | None, seed: int) -> Digits:
    """Compose the splits, of each scan `placements` samples to train on, `held_out` to validate and to test on.

    size: S, pixels a side. scans: only the first so many of each split.
    """
    each = {"train": placements, "validation": held_out, "test": held_out}
    pixels: list[Tensor] = []
    labels: list[int] = []
    rows: dict[str, slice] = {}
    for split, samples in each.items():
        data = PhotoDigits(split, size, samples, seed)
        count = min(len(data), (scans or len(data.scans)) * samples)
        rows[split] = slice(len(labels), len(labels) + count)
        for index in tqdm(range(count), desc=f"compose {split}", unit="image", leave=False):
            sample = data[index]
            pixels.append(torch.from_numpy(sample.image).permute(2, 0, 1))
            labels.append(sample.label)
    return Digits(torch.stack(pixels), torch.tensor(labels), rows, each)


@dataclass(frozen=True)
class Classified:
    """A representation's variants, the validation accuracy of each, and what the chosen one does on the test split."""

    name: str
    variants: list[Variant]
    validation: list[float]
    chosen: int
    C: float
    predictions: np.ndarray

    @property
    def best(self) -> Variant:
        """The chosen variant."""
        return self.variants[self.chosen]


def representations(digits: Digits, model: Model, contexts: Sequence[str]) -> dict[str, list[Variant]]:
    """Vectors of every sample: pixels, the tokenizer's codes, and mean-pooled features of each layer by context."""
    found = {
        "pixels": variants(PixelsEncoder(model.image_size), ["32x32"], digits, "flat"),
        "codes": variants(TokenizerEncoder("codes", model), None, digits, "flat"),
    }
    features = variants(load_encoder(model, contexts=contexts, reads=("image",)), None, digits, "mean")
    return found | {context: [each for each in features if each.details["context"] == context] for context in contexts}


def variants(encoder: Encoder, outputs: Sequence[str] | None, digits: Digits, pooling: str) -> list[Variant]:
    """The pooled features of all samples, one variant an output of the encoder; None: all outputs."""
    parts: dict[str, list[Tensor]] = {}
    for batch in tqdm(digits.pixels.split(BATCH_SIZE), desc=encoder.name, unit="batch", leave=False):
        for name, maps in encoder.encode(batch.float() / 255, outputs).items():
            parts.setdefault(name, []).append(pool(maps, pooling).cpu())
    return [Variant(name, torch.cat(vectors), encoder.outputs[name]) for name, vectors in parts.items()]


def classify(name: str, candidates: list[Variant], digits: Digits, seed: int) -> Classified:
    """Logistic regression on each variant; variant and C of the best validation accuracy, the first of equals."""
    probes = []
    for variant in tqdm(candidates, desc=f"probe {name}", unit="probe", leave=False):
        probes.append(fit_probe(variant, digits, C_grid=C_GRID, refit=False, seed=seed))
    scores = [probe.validation_accuracy for probe in probes]
    chosen = int(np.argmax(scores))
    best = fit_probe(candidates[chosen], digits, C_grid=(probes[chosen].C,), refit=True, seed=seed)
    predictions = best.predict(digits.of("test", candidates[chosen].vectors))
    return Classified(name, candidates, scores, chosen, best.C, predictions)


def fit_probe(variant: Variant, digits: Digits, *, C_grid: Sequence[float], refit: bool, seed: int) -> LogisticProbe:
    """Fit on the training split, choose C on the validation split, and perhaps refit on both."""
    train, validation = (digits.of(split, variant.vectors) for split in ("train", "validation"))
    probe = LogisticProbe(C_grid=C_grid, refit=refit, max_iterations=MAX_ITERATIONS, seed=seed)
    return probe.fit(train, digits.labels("train"), validation, digits.labels("validation"))


def summarize(result: Classified, digits: Digits, against: Classified, seed: int) -> dict[str, Any]:
    """Numbers of a representation: test accuracy with its interval, and its difference from that of `against`."""
    labels = digits.labels("test")
    hits, other = ((of.predictions == labels).astype(np.float64) for of in (result, against))
    names = [variant.name for variant in result.variants]
    return {
        "representation": result.name,
        "chosen": result.best.name,
        **result.best.details,
        "C": result.C,
        "dimensions": result.best.vectors.shape[1],
        "validation": dict(zip(names, result.validation, strict=True)),
        "accuracy": accuracy(result.predictions, labels),
        "interval": bootstrap_interval(digits.by_scan("test", hits), seed=seed),
        "difference": float(hits.mean() - other.mean()),
        "difference_interval": bootstrap_interval(digits.by_scan("test", hits - other), seed=seed),
    }


def nearest(variant: Variant, digits: Digits, k: int) -> np.ndarray:
    """The k training samples with the largest cosine to each test sample, int64 (queries, k), best first."""
    return search(digits.of("test", variant.vectors), digits.of("train", variant.vectors), k).ids


def recalls(ids: np.ndarray, digits: Digits) -> dict[str, float]:
    """Recall of the digit's class among the first neighbour, and among all k of `ids` (queries, k)."""
    labels = digits.labels("test"), digits.labels("train")
    return {f"recall_at_{k}": recall_at_k(ids, *labels, k) for k in (1, ids.shape[1])}


def chance_recalls(digits: Digits, k: int) -> dict[str, float]:
    """What `recalls` gives for neighbours drawn at random without replacement, in expectation."""
    gallery = digits.labels("train")
    others = len(gallery) - np.bincount(gallery)[digits.labels("test")]
    missed = {k: [comb(int(n), k) / comb(len(gallery), k) for n in others] for k in (1, k)}
    return {f"recall_at_{k}": 1 - float(np.mean(shares)) for k, shares in missed.items()}
