"""Tests and speed on a GPU, on one page: `make gpu-report`, or `python -m benchmarks gpu_report`.

The parts, each in a process of its own with a limit of seconds, under 8 minutes together: the tests that need a GPU;
features; generation compared with the published loop; training. What fails or takes too long is reported, and stops no
other part. Every measurement goes to `progress.jsonl` as it is made, and the page is written after each part. Without a
GPU the same runs on the processor; choose small sizes there.
"""

import gc
import json
import multiprocessing
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.machine import processor_name
from benchmarks.options import RunOptions
from benchmarks.result import NO_AXES, Result, plain
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.speed import generation_speed, throughput, training_speed
from randar_features.hub import choose_device
from randar_features.options.types import Count
from randar_features.precision import fastest_dtype, name_of
from randar_features.timing import matrix_peak, seconds
from randar_features.training.flops import data_sheet_peak

ROOT = Path(__file__).parents[2]
PROGRESS = "progress.jsonl"
LIMITS = {"tests": 75, "features": 120, "generation": 120, "training": 150}
"""Seconds that each part may take, its start included."""
PLAIN_IMAGES = 8  # at once in the straightforward way, whose attention matrices are in memory

Part = Literal["tests", "features", "generation", "training"]
Job = tuple[dict[str, Any], Callable[[], dict[str, Any]]]
"""What is measured, and how."""


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions):
    """Tests and speed on a GPU, on one page.

    Attributes:
        out: folder of the page; none: benchmarks/results/gpu/ and the device's name.
        part: parts of the report.
        model: sizes of models, with random weights; generation and training take the first.
        batch_size: batch sizes for features, the most important first.
        generation_batch: batch sizes for generation.
        steps: numbers of decoding steps.
        training_batch: numbers of images in a training step.
        repeats: number of runs after one to warm up; the fastest counts.
    """

    part: tuple[Part, ...] = ("tests", "features", "generation", "training")
    model: tuple[str, ...] = ("randar-l", "randar-xl")
    batch_size: tuple[Count, ...] = (64, 256, 1, 16, 4)
    generation_batch: tuple[Count, ...] = (1, 8, 64)
    steps: tuple[Count, ...] = (88, 32)
    training_batch: tuple[Count, ...] = (64, 256)
    repeats: Count = 3

    def folder(self, task: str) -> Path:
        """Where the page goes."""
        return self.out or ROOT / "benchmarks" / "results" / "gpu" / re.sub(r"[^a-z0-9]+", "-", device_name().lower())


def device_name() -> str:
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()


def driver() -> str | None:
    """Version of NVIDIA's driver; None where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return found[0] if found else None


def run_tests() -> dict[str, Any]:
    """How many tests of the files that have such passed, failed and were skipped; the names of those that failed."""
    files = [str(path) for path in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.cuda" in path.read_text("utf-8")]
    options = ["-m", "cuda", "-q", "-rfE", "--tb=short", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *options, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMITS["tests"] - 10)
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", done.stdout)}
    names = re.findall(r"^(?:FAILED|ERROR) .*$", done.stdout, re.MULTILINE)
    found: dict[str, Any] = {"status": done.returncode, **counts}
    return found | ({"error": "; ".join(names) or done.stdout[-500:] + done.stderr[-500:]} if done.returncode else {})


def feature_jobs(config: Config) -> Iterator[Job]:
    """Each model and batch, and with compiled blocks the first batch."""
    device = choose_device(None)
    dtype = fastest_dtype(device)
    peak = matrix_peak(dtype, device)
    for compiled in (False, True):
        for size in config.model:
            model = throughput.random_model(throughput.SIZES[size], device, compile_blocks=compiled)
            for batch in config.batch_size[: 1 if compiled else None]:
                label = {"model": size, "batch_size": batch, "blocks": "compiled" if compiled else "as they are"}
                yield label, partial(_features, model, batch, config, dtype, peak)


def _features(model: Any, batch: int, config: Config, dtype: torch.dtype, peak: float) -> dict[str, Any]:
    found = throughput.throughput(
        model,
        batch_size=batch,
        context="reverse",
        repeats=config.repeats,
        plain_batch=min(batch, PLAIN_IMAGES),
        dtype=dtype,
        peak=peak,
    )
    names = ("dtype", "images_per_second", "share_of_peak", "speedup", "least_cosine_similarity")
    return {name: found[name] for name in names}


def generation_jobs(config: Config) -> Iterator[Job]:
    """Every way of `generation_speed`, each batch and number of steps; recordings, which may fail for good, at last."""
    device = str(choose_device(None))
    model = throughput.random_model(throughput.SIZES[config.model[0]], device)
    for recorded, batch in product((False, True), config.generation_batch):
        every = [way for way in generation_speed.ways(model, batch, device) if ("recorded" in way.name) == recorded]
        while every:
            way = every.pop(0)  # so that its memory is free when the next is measured
            for steps in config.steps:
                label = {"model": config.model[0], "batch_size": batch, "steps": steps, "way": way.name}
                repeats = 1 if "published" in way.name else config.repeats
                yield label, partial(_drawn, partial(way.run, steps), batch, repeats, device)


def _drawn(run: Callable[[], object], batch: int, repeats: int, device: str) -> dict[str, Any]:
    taken = seconds(run, repeats, device)
    return {"seconds": taken, "images_per_second": batch / taken}


def training_jobs(config: Config) -> Iterator[Job]:
    """This package with compiled blocks and without, and the published step."""
    ways = [("this package", True), ("this package", False), ("published", False)]
    for batch in config.training_batch:
        for way, compiled in ways:
            label = {"model": config.model[0], "batch_size": batch, "way": way + (", compiled" if compiled else "")}
            own = training_speed.Config(
                model=config.model[0], batch_size=batch, repeats=config.repeats, compile=compiled
            ).resolved()
            yield label, partial(_trained, way, own)


def _trained(way: str, config: training_speed.Config) -> dict[str, Any]:
    found = training_speed.measured(way, config)
    return {name: found[name] for name in ("seconds", "images_per_second", "mfu", "memory_bytes", "losses")}


PARTS: dict[str, Callable[[Config], Iterator[Job]]] = {
    "tests": lambda config: iter([({"tests": "cuda"}, run_tests)]),
    "features": feature_jobs,
    "generation": generation_jobs,
    "training": training_jobs,
}


def measure_part(part: str, config: Config, progress: Path) -> None:
    """Do the jobs of a part, and add a line to the file after each, of the failed ones too."""
    jobs = PARTS[part](config)
    while True:
        label: dict[str, Any] = {}
        try:
            label, work = next(jobs)
            found = _with_memory(work)
        except StopIteration:
            return
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        _add(progress, {"part": part, **label, **found})


def _with_memory(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the work gives, on CUDA with the most memory that was in use."""
    if not torch.cuda.is_available():
        return work()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    found = work()
    return {**found, "memory_bytes": torch.cuda.max_memory_allocated()}


def _add(progress: Path, entry: dict[str, Any]) -> None:
    with progress.open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain(entry)) + "\n")


def within_limit(part: str, config: Config, progress: Path, limit: float) -> None:
    """`measure_part` in a process of its own, which is stopped after `limit` seconds; how it ended, if not well."""
    process = multiprocessing.get_context("spawn").Process(target=measure_part, args=(part, config, progress))
    process.start()
    process.join(limit)
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    if late or process.exitcode:
        ended = f"stopped after {limit:g} s" if late else f"the process ended with status {process.exitcode}"
        _add(progress, {"part": part, "error": ended})


def measure(config: Config, out: Path) -> Measurement:
    """A result each measurement, and the page anew after each part."""
    start, progress = time.perf_counter(), out / PROGRESS
    progress.unlink(missing_ok=True)
    for part in config.part:
        print(f"{part}: at most {LIMITS[part]} s", flush=True)
        within_limit(part, config, progress, LIMITS[part])
        found = page(progress, config)
        run.write(config, out, found, time.perf_counter() - start)
    progress.unlink(missing_ok=True)
    return found


def page(progress: Path, config: Config) -> Measurement:
    """What has been measured, a table each part."""
    lines = progress.read_text(encoding="utf-8").splitlines() if progress.exists() else []
    entries = [_beside_published(entry, every) for every in [list(map(json.loads, lines))] for entry in every]
    device = choose_device(None)
    name, dtype = device_name(), fastest_dtype(device)
    errors = [f"{entry['part']}: {entry['error']}" for entry in entries if "error" in entry]
    return Measurement(
        protocol=f"tests and speed on {name}, random weights; times are the shortest of {config.repeats}, of the "
        "published loop the second of two; features: the middle layer of reverse images, share of the measured peak; "
        "MFU: of the data sheet's peak where the device has one",
        axes=NO_AXES,
        results=[Result.of(entry) for entry in entries],
        warnings=errors,
        details={
            "device": name,
            "driver": driver(),
            "cuda": torch.version.cuda,
            "fastest_dtype": name_of(dtype),
            "data_sheet_peak_flops": data_sheet_peak(name),
        },
    )


def _beside_published(entry: dict[str, Any], entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The entry, and how many times faster it is than the fastest published way of as many images and steps."""
    same = [
        other["images_per_second"]
        for other in entries
        if "published" in other.get("way", "")
        and "images_per_second" in other
        and all(other.get(name) == entry.get(name) for name in ("part", "model", "batch_size", "steps"))
    ]
    return entry | {"times_published": entry["images_per_second"] / max(same)} if same and "seconds" in entry else entry


run = Task("gpu_report", Config, measure)

if __name__ == "__main__":
    run_as_command("gpu_report")
