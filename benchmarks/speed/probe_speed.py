"""Probes on many features, timed: `python -m benchmarks.probe_speed --memory-limit 4 --out FOLDER`.

Features are synthetic and in float16, as a feature store's: classes around centres of their own, in far fewer
dimensions than numbers, so that these are correlated as those of images are. Each probe runs in a process of its own,
so that the peak memory is its own.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.options import RunOptions, check_own
from benchmarks.result import NO_AXES, Result
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.speed.index_speed import GIGABYTE, apart
from probes import JointLinearProbe, KNNProbe, LogisticProbe, few_shot
from probes.index import in_words, process_memory
from randar_features.options.types import Count, Positive, Seed

MADE_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions):
    """Time and memory to fit probes on random vectors.

    Attributes:
        count: number of training vectors.
        queries: number of vectors to classify.
        dim: width of a vector.
        intrinsic: dimensions in which vectors vary, apart from a little noise.
        classes: number of classes.
        spread: standard deviation around the centre of a class, relative to that of the centres.
        probe: one or several of knn, logistic, linear, few-shot.
        epochs: epochs of the linear probe.
        memory_limit: gigabytes that a probe should stay below.
        threads: number of threads.
        seed: seed of vectors and probes.
    """

    count: Count = 50_000
    queries: Count = 10_000
    dim: Count = 1024
    intrinsic: Count = 128
    classes: Count = 100
    spread: Positive = 3.0
    probe: tuple[Literal["knn", "logistic", "linear", "few-shot"], ...] = ("knn", "logistic", "linear", "few-shot")
    epochs: Count = 10
    memory_limit: Positive = 4.0
    threads: Count = 2
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_own(self, {"epochs": ["linear"]}, self.probe, "probe")


def labelled_rows(config: Config, count: int, part: int) -> tuple[torch.Tensor, np.ndarray]:
    """(count, D) float16 and (count,) labels, always the same for a part; made block by block."""
    shared, own = np.random.default_rng([config.seed, 0]), np.random.default_rng([config.seed, 1 + part])
    centres = shared.standard_normal((config.classes, config.intrinsic), dtype=np.float32)
    strengths = np.linspace(1, 0.1, config.intrinsic, dtype=np.float32)[:, None]
    spread_out = strengths * shared.standard_normal((config.intrinsic, config.dim), dtype=np.float32)
    labels = own.integers(config.classes, size=count)
    rows = torch.empty(count, config.dim, dtype=torch.float16, device="cpu")
    for start in range(0, count, MADE_AT_ONCE):
        chosen = labels[start : start + MADE_AT_ONCE]
        inner = centres[chosen]
        inner += config.spread * own.standard_normal(inner.shape, dtype=np.float32)
        block = inner @ spread_out + own.standard_normal((len(chosen), config.dim), dtype=np.float32)
        rows[start : start + len(chosen)] = torch.from_numpy(block)
    return rows, labels


def _knn(config: Config, rows: torch.Tensor, labels: np.ndarray) -> Callable[[torch.Tensor], np.ndarray]:
    probe = KNNProbe().fit(rows, labels)
    return lambda queries: probe.predict(queries)[20]


def _logistic(config: Config, rows: torch.Tensor, labels: np.ndarray) -> Callable[[torch.Tensor], np.ndarray]:
    probe = LogisticProbe(seed=config.seed).fit(rows, labels)
    print(f"logistic: {len(probe.iterations)} values of C, {sum(probe.iterations.values())} iterations", flush=True)
    return probe.predict


def _linear(config: Config, rows: torch.Tensor, labels: np.ndarray) -> Callable[[torch.Tensor], np.ndarray]:
    probe = JointLinearProbe(epochs=config.epochs, seed=config.seed).fit({"rows": rows}, labels)
    return lambda queries: probe.predict({"rows": queries})["rows"]


def _few_shot(config: Config, rows: torch.Tensor, labels: np.ndarray) -> Callable[[torch.Tensor], np.ndarray]:
    def predict(queries: torch.Tensor) -> np.ndarray:
        unknown = np.zeros(len(queries), np.int64)  # fitting and predicting are one
        return list(few_shot(rows, labels, queries, unknown, seed=config.seed))[-1].predictions[0]

    return predict


FITTED = {"knn": _knn, "logistic": _logistic, "linear": _linear, "few-shot": _few_shot}


def measure_probe(config: Config, probe: str) -> dict[str, Any]:
    """Fit and predict in this process; seconds, accuracy, and memory at its peak."""
    torch.set_num_threads(config.threads)
    with threadpool_limits(config.threads):
        rows, labels = labelled_rows(config, config.count, 0)
        queries, truth = labelled_rows(config, config.queries, 1)
        start = time.perf_counter()
        predict = FITTED[probe](config, rows, labels)
        fitted = time.perf_counter()
        accuracy = float((predict(queries) == truth).mean())
        done = time.perf_counter()
    return {
        "probe": probe,
        "fit_seconds": fitted - start,
        "predict_seconds": done - fitted,
        "accuracy": accuracy,
        "peak_bytes": process_memory(peak=True),
    }


def measure(config: Config, out: Path) -> Measurement:
    """A result each probe."""
    rows = []
    for probe in config.probe:
        row = apart(measure_probe, config, probe)
        row["within_limit"] = row["peak_bytes"] <= config.memory_limit * GIGABYTE
        rows.append(row)
        print(
            f"{probe:9s} fitted in {row['fit_seconds']:6.1f} s, {config.queries} rows classified in "
            f"{row['predict_seconds']:6.1f} s, {in_words(row['peak_bytes'])} at its peak, "
            f"accuracy {100 * row['accuracy']:.1f} %",
            flush=True,
        )
    protocol = "seconds to fit a probe and to classify, on made-up vectors"
    return Measurement(protocol=protocol, axes=NO_AXES, results=[Result.of(row) for row in rows])


run = Task("probe_speed", Config, measure)

if __name__ == "__main__":
    run_as_command("probe_speed")
