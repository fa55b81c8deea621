"""An index of a million vectors, built and searched: `python -m benchmarks.index_speed --memory-limit 4 --out FOLDER`.

Vectors are synthetic: in clusters, and of far fewer dimensions than numbers, as features of images are. They are made
block by block and never all in memory. Each index is built in a process of its own and searched in another, so that the
peak memory of each is its own. Recall is against exact search, done block by block. The result has the peak and the
peak that was predicted before building.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from benchmarks.options import RunOptions, check_own
from benchmarks.result import NO_AXES, Result
from benchmarks.run import Measurement, Task, run_as_command
from probes import neighbour_recall
from probes.index import (
    Blocks,
    VectorIndex,
    available_memory,
    build_index,
    choose_settings,
    predict_memory,
    process_memory,
)
from randar_features.options.types import Count, Natural, Positive, Seed

GIGABYTE = 10**9
QUERIES, CENTRES = 1 << 40, 1 << 41  # seeds beside those of the blocks, which are their first rows
SPREAD, NOISE = 0.7, 0.1  # standard deviations around a centre, and of each number
MADE_AT_ONCE = 16384


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions):
    """Time and memory to build and search indexes of random vectors.

    Attributes:
        count: number of vectors.
        dim: width of a vector.
        centres: number of random centres around which the vectors lie.
        intrinsic: dimensions in which centres and vectors vary, apart from a little noise.
        queries: number of queries in one search; they lie around the same centres as the vectors.
        one_by_one: number of queries that are searched one by one, for the time of a single query.
        k: neighbours to find for each query.
        kind: kinds of index, one or several of flat, hnsw, ivfpq.
        probes: for ivfpq, number of lists to search, one or several numbers; 0: the index's own default.
        memory_limit: gigabytes that building may take; an index that needs more is not built, and the result says so.
        threads: number of threads; with more than one, an hnsw index differs from run to run.
        construction: for hnsw, candidates for each new vector.
        seed: seed of vectors, queries and indexes.
    """

    count: Count = 1_000_000
    dim: Count = 256
    centres: Count = 2000
    intrinsic: Count = 32
    queries: Count = 1000
    one_by_one: Count = 100
    k: Count = 10
    kind: tuple[Literal["flat", "hnsw", "ivfpq"], ...] = ("ivfpq", "flat")
    probes: tuple[Natural, ...] = (0,)
    memory_limit: Positive = 4.0
    threads: Count = 2
    construction: Count = 64
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_own(self, {"probes": ["ivfpq"], "construction": ["hnsw"]}, self.kind, "kind")


class Source:
    """Where vectors come from: centres (c, d) in a few dimensions, and a matrix (d, D) that spreads them out."""

    def __init__(self, config: Config) -> None:
        generator = np.random.default_rng([config.seed, CENTRES])
        self.seed = config.seed
        self.centres = generator.standard_normal((config.centres, config.intrinsic), dtype=np.float32)
        self.spread_out = generator.standard_normal((config.intrinsic, config.dim), dtype=np.float32)

    def vectors(self, count: int, part: int) -> np.ndarray:
        """(count, D) float32, always the same for a part."""
        generator = np.random.default_rng([self.seed, part])
        inner = self.centres[generator.integers(len(self.centres), size=count)]
        inner += SPREAD * generator.standard_normal(inner.shape, dtype=np.float32)
        rows = generator.standard_normal((count, self.spread_out.shape[1]), dtype=np.float32)
        rows *= NOISE * np.sqrt(self.spread_out.shape[0]).astype(np.float32)
        rows += inner @ self.spread_out
        return rows


def blocks(config: Config) -> Blocks:
    """The vectors, the same whatever the size of a block."""
    source = Source(config)

    def made(size: int) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, config.count, MADE_AT_ONCE):
            block = source.vectors(min(MADE_AT_ONCE, config.count - start), start)
            for first in range(0, len(block), size):
                yield start + first, block[first : first + size]

    return made


def queries(config: Config) -> np.ndarray:
    """(queries, D)."""
    return Source(config).vectors(config.queries, QUERIES)


def exact_neighbours(config: Config) -> np.ndarray:
    """The k nearest of each query by cosine (Q, k), of one block of vectors after another."""
    queried = torch.nn.functional.normalize(torch.from_numpy(queries(config)))
    values = torch.full((len(queried), config.k), -2.0, device="cpu")
    ids = torch.zeros(values.shape, dtype=torch.int64, device="cpu")
    for start, block in blocks(config)(MADE_AT_ONCE):
        products = queried @ torch.nn.functional.normalize(torch.from_numpy(block)).T
        best, columns = products.topk(min(config.k, products.shape[1]), dim=1)
        values, order = torch.cat([values, best], 1).topk(config.k, dim=1)
        ids = torch.cat([ids, columns + start], 1).gather(1, order)
    return ids.numpy()


def build(config: Config, kind: str, folder: Path) -> dict[str, Any]:
    """Build an index in this process; time, and memory at its peak beside the prediction."""
    settings = choose_settings(
        config.count, config.dim, kind=kind, seed=config.seed, efConstruction=config.construction
    )
    made, held = blocks(config), process_memory()
    predicted = held + sum(predict_memory(settings, config.count).values())
    limit = int(config.memory_limit * GIGABYTE)
    start = time.perf_counter()
    options: dict[str, Any] = {"memory_limit": limit, "threads": config.threads, "progress": False}
    # A checkpoint would be written ten times: here none but the last.
    build_index(made, config.count, folder, settings=settings, features={}, checkpoint_rows=config.count, **options)
    return {
        "settings": asdict(settings),
        "build_seconds": time.perf_counter() - start,
        "build_peak_bytes": process_memory(peak=True),
        "predicted_peak_bytes": predicted,
    }


def search(config: Config, folder: Path, probes: int) -> dict[str, Any]:
    """Search an index in this process."""
    torch.set_num_threads(config.threads)
    with threadpool_limits(config.threads):
        start = time.perf_counter()
        index = VectorIndex(folder)
        opened = time.perf_counter() - start
        queried = queries(config)
        index.search(queried[:10], config.k, nprobe=probes or None)
        start = time.perf_counter()
        ids = index.search(queried, config.k, nprobe=probes or None).ids
        together = time.perf_counter() - start
        start = time.perf_counter()
        for row in range(min(config.one_by_one, len(queried))):
            index.search(queried[row : row + 1], config.k, nprobe=probes or None)
        alone = (time.perf_counter() - start) / min(config.one_by_one, len(queried))
    return {
        "probes": probes or None,
        "ids": ids,
        "open_seconds": opened,
        "queries_per_second": len(queried) / together,
        "seconds_per_single_query": alone,
        "search_peak_bytes": process_memory(peak=True),
        "bytes_per_vector": index.bytes_per_vector["memory"],
        "bytes_per_vector_on_disk": index.bytes_per_vector["disk"],
    }


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` gives in a new process, whose memory is its own; where it can, all share what was imported."""
    several = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if several else "spawn")
    if several:
        context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


def measure_kind(config: Config, kind: str, exact: np.ndarray, folder: Path) -> list[dict[str, Any]]:
    """One row for each number of probes, or one that says why the index was refused."""
    row: dict[str, Any] = {"kind": kind, "vectors": config.count, "dim": config.dim}
    try:
        row |= apart(build, config, kind, folder)
    except MemoryError as error:
        return [row | {"refused": str(error)}]
    rows = []
    for probes in config.probes if kind == "ivfpq" else (0,):
        found = apart(search, config, folder, probes)
        recall = neighbour_recall(found.pop("ids"), exact)
        rows.append(row | {f"recall_at_{config.k}": recall} | found)
    return rows


def measure(config: Config, out: Path) -> Measurement:
    """A result each index and number of probes."""
    exact = apart(exact_neighbours, config)
    rows = []
    for kind in config.kind:
        with tempfile.TemporaryDirectory(prefix=f"index-{kind}-") as folder:
            rows += measure_kind(config, kind, exact, Path(folder))
        tqdm.write(f"{kind}: {rows[-1].get('refused', 'done')}")
    return Measurement(
        protocol="building and searching an index of made-up vectors, beside exact search",
        axes=NO_AXES,
        results=[Result.of(row) for row in rows],
        details={"available_bytes": available_memory()},
    )


run = Task("index_speed", Config, measure)

if __name__ == "__main__":
    run_as_command("index_speed")
