"""How time and memory grow: `python -m benchmarks growth`, with a plot of both and the fitted exponents.

Against the number of images, of synthetic vectors: writing a store, building an index, exact kNN, fitting a probe.
Against tokens and layers: features of a RandAR with random weights. Each size runs in a process of its own; times are
processor seconds of one thread, which other programs on the machine disturb little; memory is the peak without what the
process had before.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.options import RunOptions
from benchmarks.report.charts import growth_chart
from benchmarks.result import NO_AXES, Result
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.speed import index_speed, probe_speed
from benchmarks.speed.index_speed import apart
from probes.index import in_words, process_memory
from randar_features import encode_tokens
from randar_features.features.store import FeatureStore
from randar_features.models import RandAR, RandARConfig
from randar_features.options.types import Count
from randar_features.store.files import write_bytes
from randar_features.store.records import OK, Block, Record
from randar_features.store.writer import StoreWriter

BLOCK = 1024  # images that are written at once
FITTED = 3  # the largest sizes, which the exponent is fitted to: at small ones all time is the start


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions):
    """Time and memory against images, tokens and layers.

    Attributes:
        images: numbers of images, for work that is linear in them.
        probe_images: numbers of images, for the logistic probe and for HNSW and IVF-PQ indexes.
        dim: width of a vector.
        queries: number of queries of the kNN search.
        tokens: numbers of tokens of an image, square numbers.
        layers: numbers of blocks.
        width: width of the model; features are taken at its last layer.
        repeats: number of runs for features; the fastest counts.
    """

    images: tuple[Count, ...] = (1000, 10_000, 100_000, 1_000_000)
    probe_images: tuple[Count, ...] = (1000, 3000, 10_000, 30_000)
    dim: Count = 64
    queries: Count = 200
    tokens: tuple[Count, ...] = (64, 144, 256, 576, 1024)
    layers: tuple[Count, ...] = (2, 4, 8, 16, 24)
    width: Count = 256
    repeats: Count = 3


def used(work: Callable[[], object], repeats: int = 1) -> dict[str, float]:
    """Processor seconds of the fastest run in this process, and bytes that its peak had more than before."""
    torch.set_num_threads(1)
    before, spent = process_memory(), []
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is used now (Linux)
    for _ in range(repeats):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return {"seconds": min(spent), "bytes": max(process_memory(peak=True) - before, 0)}


class MadeUp:
    """Images of a store as `store.records.Source`, whose values are random numbers."""

    streamed, label_names, root = False, None, None

    def __init__(self, length: int, dim: int) -> None:
        self.length, self.values = length, np.random.default_rng(0).random((BLOCK, dim)).astype(np.float16)

    def records(self) -> list[Record]:
        """A path and a hash each."""
        return [self._record(number) for number in range(self.length)]

    def read(self, runs: Iterator[Sequence[int]]) -> Iterator[Block]:
        """Blocks of a thousand."""
        for run in runs:
            for start in range(0, len(run), BLOCK):
                part = run[start : start + BLOCK]
                yield Block({"values": self.values[: len(part)]}, [*map(self._record, part)], [OK] * len(part))

    @staticmethod
    def _record(number: int) -> Record:
        return Record(f"folder/{number:09d}.jpg", number % 10, f"{number:016x}")


def write_images(count: int, config: Config, folder: Path) -> dict[str, float]:
    """Into a new store."""
    writer = StoreWriter(folder=folder, kind=FeatureStore, content={"outputs": {"values": {}}}, shard_rows=8192)
    return used(lambda: writer.fill(MadeUp(count, config.dim)))


def build_index(count: int, config: Config, folder: Path, kind: str) -> dict[str, float]:
    """What building an index takes, of vectors that are made on the way."""
    own = index_speed.Config(count=count, dim=config.dim, intrinsic=16, threads=1)
    return used(lambda: index_speed.build(own, kind, folder))


def fit_probe(count: int, config: Config, folder: Path, probe: str) -> dict[str, float]:
    """Some queries by a probe: "knn", their nearest vectors; "logistic", regression with the choice of C."""
    own = probe_speed.Config(count=count, dim=config.dim, intrinsic=16, classes=10)
    rows, labels = probe_speed.labelled_rows(own, count, 0)
    queries, _ = probe_speed.labelled_rows(own, config.queries, 1)
    return used(lambda: probe_speed.FITTED[probe](own, rows, labels)(queries))


def features(count: int, config: Config, folder: Path, axis: str) -> dict[str, float]:
    """What the features of one image take, shown twice, in the last layer."""
    sizes: dict[str, Any] = {"num_tokens": 256, "num_layers": 8} | {axis: count}
    model = RandAR(RandARConfig(num_heads=4, dim=config.width, vocab_size=1024, num_classes=10, **sizes)).eval()
    tokens = torch.zeros(1, sizes["num_tokens"], dtype=torch.long, device="cpu")
    with torch.inference_mode():
        return used(lambda: encode_tokens(model, tokens, layers=-1, context="reverse"), config.repeats)


def curves(config: Config) -> dict[str, tuple[str, Sequence[int], Callable[..., dict[str, float]]]]:
    """What grows with what, over which sizes."""
    return {
        "writing a store": ("images", config.images, write_images),
        "flat index": ("images", config.images, partial(build_index, kind="flat")),
        "exact kNN": ("images", config.images, partial(fit_probe, probe="knn")),
        "HNSW index": ("images", config.probe_images, partial(build_index, kind="hnsw")),
        "logistic probe": ("images", config.probe_images, partial(fit_probe, probe="logistic")),
        "features": ("tokens", config.tokens, partial(features, axis="num_tokens")),
        "features by layers": ("layers", config.layers, partial(features, axis="num_layers")),
    }


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """p of c·size^p through the largest sizes, by least squares of the logarithms."""
    logarithms = np.log(np.maximum(values[-FITTED:], 1e-9))
    return float(np.polyfit(np.log(sizes[-FITTED:]), logarithms, 1)[0])


def measure(config: Config, out: Path) -> Measurement:
    """A result each curve and size, the exponents, and the plot."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, (axis, sizes, work) in curves(config).items():
        for size in sizes:
            with tempfile.TemporaryDirectory(prefix="growth-") as folder:
                entry = {"curve": name, "axis": axis, "size": size, **apart(work, size, config, Path(folder))}
            found.setdefault(name, []).append(entry)
            print(f"{name}: {size} {axis}, {entry['seconds']:.3g} s, {in_words(entry['bytes'])}", flush=True)
    fitted = {
        name: {of: exponent([e["size"] for e in entries], [e[of] for e in entries]) for of in ("seconds", "bytes")}
        for name, entries in found.items()
    }
    write_bytes(out / "growth.png", growth_chart(found, fitted))
    return Measurement(
        protocol="processor seconds of one thread, and bytes of memory at the peak beyond those before; exponents are "
        f"fitted to the {FITTED} largest sizes",
        axes=NO_AXES,
        results=[Result.of(entry) for entries in found.values() for entry in entries],
        artifacts={"growth": "growth.png"},
        details={"exponents": fitted},
    )


run = Task("growth", Config, measure)

if __name__ == "__main__":
    run_as_command("growth")
