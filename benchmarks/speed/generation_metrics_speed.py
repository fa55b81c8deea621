"""Generation measures of many features, timed: `python -m benchmarks generation_metrics_speed --out FOLDER`.

Features are synthetic, in float32 and mapped from disk, as a feature store's. Each measure runs in a process of its
own, so that the peak memory is its own. Pages of the mapped files count if they are in memory.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.options import RunOptions
from benchmarks.result import NO_AXES, Result
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.speed.index_speed import GIGABYTE, apart
from probes.generation import Moments, frechet_distance, kernel_distance, manifold_scores
from probes.index import in_words, process_memory
from probes.rows import DiskRows
from randar_features.options.types import Count, Positive, Seed

MADE_AT_ONCE = 4096
Sets = tuple[DiskRows, DiskRows]


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions):
    """Time and memory of the measures of generated images, on random features.

    Attributes:
        count: number of features in each of the two sets.
        dim: width of a feature.
        intrinsic: dimensions in which features vary, apart from a little noise.
        measure: one or several of statistics, distance (of statistics that are computed before), precision-recall
            (with density and coverage, in one pass), kernel.
        memory_limit: gigabytes that a measure should stay below.
        threads: number of threads.
        seed: seed of the features.
    """

    count: Count = 50_000
    dim: Count = 2048
    intrinsic: Count = 64
    measure: tuple[Literal["statistics", "distance", "precision-recall", "kernel"], ...] = (
        "statistics",
        "distance",
        "precision-recall",
    )
    memory_limit: Positive = 3.0
    threads: Count = 2
    seed: Seed = 0


def make_features(config: Config, path: Path, part: int) -> None:
    """Write (count, D) float32, block by block: non-negative and correlated, as pooled activations are."""
    shared, own = np.random.default_rng([config.seed, 0]), np.random.default_rng([config.seed, 1 + part])
    spread_out = shared.standard_normal((config.intrinsic, config.dim), dtype=np.float32) / config.intrinsic**0.5
    features = np.lib.format.open_memmap(path, "w+", np.float32, (config.count, config.dim))
    for start in range(0, config.count, MADE_AT_ONCE):
        block = features[start : start + MADE_AT_ONCE]
        inner = own.standard_normal((len(block), config.intrinsic), dtype=np.float32) + np.float32(0.1 * part)
        noise = own.standard_normal(block.shape, dtype=np.float32)
        block[:] = np.maximum(inner @ spread_out + 0.1 * noise, 0)
    features.flush()


def _distance(sets: Sets) -> Callable[[], float]:
    moments = [Moments.of(one) for one in sets]
    return lambda: frechet_distance(moments[0], moments[1])


MEASURES: dict[str, Callable[[Sets], Callable[[], Any]]] = {
    "statistics": lambda sets: lambda: np.trace(Moments.of(sets[0]).covariance),
    "distance": _distance,
    "precision-recall": lambda sets: lambda: manifold_scores(*sets)[0],
    "kernel": lambda sets: lambda: kernel_distance(*sets),
}
"""What has to be there before the clock starts, and then what is timed."""


def timed(config: Config, name: str, folder: Path) -> dict[str, Any]:
    """One measure in this process: seconds of the clock and of the processors, and memory at its peak."""
    torch.set_num_threads(config.threads)
    with threadpool_limits(config.threads):
        sets = tuple(DiskRows(np.load(folder / f"{part}.npy", mmap_mode="r")) for part in range(2))
        work = MEASURES[name]((sets[0], sets[1]))
        start = time.perf_counter(), time.process_time()
        value = work()
        seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    found = {"measure": name, "seconds": seconds[0], "cpu_seconds": seconds[1]}
    return found | {"peak_bytes": process_memory(peak=True), "value": float(value)}


def measure(config: Config, out: Path) -> Measurement:
    """A result each measure."""
    rows = []
    with tempfile.TemporaryDirectory(dir=out) as folder:
        for part in range(2):
            make_features(config, Path(folder) / f"{part}.npy", part)
        for name in config.measure:
            row = apart(timed, config, name, Path(folder))
            row["within_limit"] = row["peak_bytes"] <= config.memory_limit * GIGABYTE
            rows.append(row)
            print(f"{name:16s} {row['seconds']:7.1f} s, {in_words(row['peak_bytes'])} at its peak", flush=True)
    protocol = f"two sets of {config.count} made-up features of width {config.dim}, float32, mapped from disk, "
    protocol += f"{config.threads} threads; statistics of one set, everything else of both"
    return Measurement(protocol=protocol, axes=NO_AXES, results=[Result.of(row) for row in rows])


run = Task("generation_metrics_speed", Config, measure)

if __name__ == "__main__":
    run_as_command("generation_metrics_speed")
