"""Speed of generation compared with the published loop: `python -m benchmarks.generation_speed`.

Both draw the same number of tokens in the same steps from the same random weights (default: RandAR-L, one
image, 88 steps, guidance on): the published loop as `published_loop` restates it, in float32, and
`rf.generate`, as it is and with packed weights, in bfloat16 where the device multiplies in it. Each has its
floor: the time to read the weights and the cache at the measured memory bandwidth, or the time of the operations at
the measured peak, whichever is longer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from benchmarks.options import RunOptions
from benchmarks.reference.published_loop import published_generate
from benchmarks.result import NO_AXES, Result
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.speed.throughput import random_model
from randar_features import generate, pack_weights
from randar_features.generation import compile_steps, new_cache
from randar_features.generation.schedule import decoding_schedule
from randar_features.layers.kv_cache import KVCache
from randar_features.models import RandAR
from randar_features.options.parse import option
from randar_features.options.types import Count
from randar_features.precision import fastest_dtype, name_of
from randar_features.timing import matrix_peak, seconds

GUIDANCE = (1.0, 4.0)
SINGLE = -1  # one token a step


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of generating: called with a number of steps."""

    name: str
    run: Callable[[int], Tensor]
    bytes_per_weight: int
    dtype: torch.dtype = torch.float32  # of the arithmetic and the cache


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions):
    """Seconds to draw a batch of images, compared with the published loop.

    Attributes:
        layers: number of blocks of the model, which has random weights.
        heads: number of attention heads.
        dim: width of the model.
        vocab_size: number of codes.
        tokens: number of tokens of an image, a square number.
        steps: number of decoding steps.
        batch_size: images at once.
        repeats: number of runs after one to warm up; the fastest counts.
        threads: number of threads; none: PyTorch's default.
        device: cpu, cuda, cuda:1.
    """

    layers: Count = 24
    heads: Count = 16
    dim: Count = 1024
    vocab_size: Count = 16384
    tokens: Count = 256
    steps: Count = 88
    batch_size: Count = option("--batch", default=1)
    repeats: Count = 2
    threads: Count | None = None
    device: str = "cpu"


def measure(config: Config, out: Path) -> Measurement:
    """A result each way and number of steps."""
    if config.threads:
        torch.set_num_threads(config.threads)
    sizes = {"num_layers": config.layers, "num_heads": config.heads, "dim": config.dim}
    sizes |= {"vocab_size": config.vocab_size, "num_tokens": config.tokens}
    model, batch = random_model(sizes, config.device), config.batch_size
    machine: dict[str, Any] = {"memory_bytes_per_second": memory_bandwidth(config.device), "peak_flops": {}}
    rows: list[dict[str, Any]] = []
    every = ways(model, batch, config.device)
    for dtype in {way.dtype for way in every}:
        machine["peak_flops"][str(dtype)] = matrix_peak(dtype=dtype, device=config.device)
    for steps in (config.steps, SINGLE):
        for way in every:
            taken = seconds(partial(way.run, steps), config.repeats, config.device)
            rows.append(result(way, steps, taken, model, batch, machine))
            tqdm.write(f"{way.name}, {rows[-1]['steps']} steps: {taken:.2f} s")
    return Measurement(
        protocol=f"seconds to draw a batch of images with guidance {GUIDANCE}, the shortest of {config.repeats}",
        axes=NO_AXES,
        results=[Result.of(row) for row in rows],
        details={**machine, "gain_over_single_steps": parallel_gains(rows)},
    )


def ways(model: RandAR, batch: int, device: str) -> list[Way]:
    """The published loop, and this package in every number format that the device is fast in.

    On CUDA the fastest is also recorded, as it is and with compiled parts. What a way needs is made at its first call.
    """
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(model.config.num_classes, (batch,), generator=generator, device="cpu").to(device)
    noise = torch.rand(batch, model.config.num_tokens, generator=generator, device="cpu")
    order = noise.argsort(dim=1).to(device)

    def published(steps: int, transformer: RandAR = model) -> Tensor:
        return published_generate(transformer, classes, order, steps=steps, guidance=GUIDANCE)

    def ours(name: str, dtype: torch.dtype | None, record: bool = False, compiled: bool = False) -> Way:
        @cache
        def prepared() -> tuple[RandAR, KVCache]:
            transformer = model if dtype is None else pack_weights(model, dtype)
            if compiled:
                compile_steps(transformer)
            return transformer, new_cache(transformer, 2 * batch, record=record)

        def run(steps: int) -> Tensor:
            transformer, held = prepared()
            return generate(transformer, classes, steps=steps, guidance=GUIDANCE, order=order, generator=0, cache=held)

        half, products = dtype in (torch.float16, torch.bfloat16), dtype == torch.bfloat16
        arithmetic = torch.bfloat16 if products else torch.float32
        return Way(name=name, run=run, bytes_per_weight=2 if half else 4, dtype=arithmetic)

    found = [Way(name="published loop", run=published, bytes_per_weight=4), ours("float32", None)]
    if device == "cpu":
        found += [ours("packed float32", torch.float32), ours("packed float16 weights", torch.float16)]
    fastest = fastest_dtype(torch.device(device))
    if fastest == torch.bfloat16:
        found.append(ours("packed bfloat16", fastest))
    if device != "cpu":
        found.append(ours(f"packed {name_of(fastest)}, recorded", fastest, record=True))
        found.append(ours(f"packed {name_of(fastest)}, compiled, recorded", fastest, record=True, compiled=True))
    return found


def memory_bandwidth(device: str) -> float:
    """Bytes a second that a matrix-vector product reads from a matrix of 256 MiB, measured."""
    matrix, vector = torch.ones(1 << 14, 1 << 12, device=device), torch.ones(1 << 12, device=device)
    return matrix.nbytes / seconds(lambda: F.linear(vector, matrix), 5, device)


def result(way: Way, steps: int, taken: float, model: RandAR, batch: int, machine: dict[str, Any]) -> dict[str, Any]:
    """One row: time, and the floor of a step of average size."""
    schedule = decoding_schedule(model.config.num_tokens, steps)
    weights, operations = work(model, batch, schedule)
    read = weights * way.bytes_per_weight + cache_bytes(model, batch, schedule, way.dtype.itemsize)
    by_memory = read / machine["memory_bytes_per_second"]
    by_operations = operations / machine["peak_flops"][str(way.dtype)]
    return {
        "way": way.name,
        "steps": len(schedule),
        "seconds": taken,
        "images_per_second": batch / taken,
        "seconds_per_step": taken / len(schedule),
        "floor_per_step": max(by_memory, by_operations),
        "floor_by_memory": by_memory,
        "floor_by_operations": by_operations,
    }


def fed(schedule: list[int]) -> list[int]:
    """Tokens fed a step: the class and P1, then [x1, P2, x2, …, Pm, xm] and the next instructions."""
    return [1 + schedule[0]] + [2 * m - 1 + following for m, following in pairwise(schedule)]


def work(model: RandAR, batch: int, schedule: list[int]) -> tuple[float, float]:
    """Weights read and operations done in a step of average size, with guidance (two branches)."""
    blocks = sum(p.numel() for p in model.layers.parameters() if p.dim() == 2)
    tokens = 2 * batch * sum(fed(schedule)) / len(schedule)
    read_out = 2 * batch * sum(schedule) / len(schedule)
    seen = sum(n * length for n, length in zip(fed(schedule), seen_lengths(schedule), strict=True)) / len(schedule)
    attention = 4 * model.config.dim * model.config.num_layers * 2 * batch * seen
    output = model.output.weight.numel()
    return blocks + output, 2 * (tokens * blocks + read_out * output) + attention


def seen_lengths(schedule: list[int]) -> list[int]:
    """Entries of the cache that a step sees, its own included."""
    done = [sum(schedule[:step]) for step in range(len(schedule))]
    return [1 + 2 * before + count for before, count in zip(done, schedule, strict=True)]


def cache_bytes(model: RandAR, batch: int, schedule: list[int], bytes_per_value: int = 4) -> float:
    """Bytes of keys and values read in a step of average size."""
    config = model.config
    width = (config.num_kv_heads or config.num_heads) * config.head_dim
    lengths = seen_lengths(schedule)
    return 2 * config.num_layers * 2 * batch * width * bytes_per_value * sum(lengths) / len(lengths)


def parallel_gains(rows: list[dict[str, Any]]) -> dict[str, float]:
    """For each way, its time with one token a step over that of the parallel steps."""
    first = {row["way"]: row["seconds"] for row in reversed(rows)}
    last = {row["way"]: row["seconds"] for row in rows}
    return {way: last[way] / first[way] for way in last}


run = Task("generation_speed", Config, measure)

if __name__ == "__main__":
    run_as_command("generation_speed")
