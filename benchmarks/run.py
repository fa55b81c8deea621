"""The runner of all tasks: `randar bench TASK …` and `python -m benchmarks.TASK …`.

A task is a typed dataclass of options and a function that measures. The runner reads the options, which refuses bad
ones before any work, calls the function, times it, and writes what every result has: the card (machine, device, number
format, options, data, weights, command), `result.json`, `results.csv` and `result.md`. In a suite, a result with the
same options, weights and data is not measured again, see `benchmarks.jobs`.
"""

import importlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.comparisons import run_markdown
from benchmarks.machine import describe
from benchmarks.result import (
    AXES,
    RESULT_FILE,
    Card,
    Result,
    command_line,
    open_run,
    plain,
    resolved_dtype,
    write_result,
)
from randar_features.hub import choose_device
from randar_features.options.command import run as run_command
from randar_features.store.files import make_folder, write_bytes, write_json

logger = logging.getLogger(__name__)

TABLE_FILE, CSV_FILE, DIFFERENCES_FILE = "result.md", "results.csv", "differences.json"

TASKS = {
    "classification": ("tasks.whole_images", "logistic, linear, kNN, few-shot and attentive probes"),
    "generative_classification": ("tasks.whole_images", "the class with the highest likelihood, compared with a probe"),
    "readouts": ("tasks.whole_images", "ways to read one layer of a generator, compared"),
    "retrieval": ("tasks.whole_images", "mAP and Recall@K, by exact search and by indexes"),
    "near_duplicates": ("tasks.duplicates", "pictures that are in the data twice"),
    "duplicate_recall": ("tasks.duplicates", "how many near-duplicates are found"),
    "segmentation": ("tasks.dense", "mIoU of heads on feature maps"),
    "correspondence": ("tasks.dense", "PCK of matched points"),
    "maps": ("tasks.dense", "feature maps as colours"),
    "samples": ("tasks.generators", "pictures that a model draws"),
    "generation": ("tasks.generators", "FID and similar measures of samples; search for guidance, steps and order"),
    "reconstruction": ("tasks.generators", "what a tokenizer loses, by the same measures as samples"),
    "quality": ("tasks.generators", "reconstruction and likelihood"),
    "decoding_orders": ("tasks.generators", "likelihood by order and number of steps"),
    "architectures": ("tasks.generators", "RandAR, LlamaGen, PAR and ARPG in one table"),
    "throughput": ("speed", "images per second of feature extraction"),
    "generation_speed": ("speed", "seconds to draw images"),
    "training_speed": ("speed", "seconds of a training step"),
    "training_plan": ("speed", "estimated time and memory of a training run"),
    "probe_speed": ("speed", "seconds to fit probes"),
    "index_speed": ("speed", "building and searching indexes"),
    "paired_speed": ("speed", "processor time compared with another checkout"),
    "hashing_speed": ("speed", "seconds to identify files by their content"),
    "extraction_speed": ("speed", "images per second from JPEG files to a store"),
    "growth": ("speed", "time and memory against images, tokens and layers"),
    "gpu_report": ("speed", "tests and speed on a GPU, one page"),
    "generation_metrics_speed": ("speed", "seconds of distances, precision and recall"),
}
"""Every task: the package of its module, which calls its `Task` "run", and what it measures."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a task found; the runner adds machine, options and time.

    Attributes:
        protocol: its name and settings in words, for example "kNN, k = 20, cosine, temperature 0.07".
        results: a result each variant.
        axes: values of the `AXES` that all results share; results state the others.
        data: a hash, by `benchmarks.result.data_hash`, for each part that data play; with the split.
        weights: a hash each encoder or model; "none" for one without, "random (seed 0)" for untrained ones.
        interval: how intervals were made, in words; None where there are none.
        warnings: what a reader must know before using the numbers.
        artifacts: files that were written to the folder, by what they are.
        differences: paired differences, see `benchmarks.comparisons`; None: the task makes none.
        details: further facts that all results share, such as the machine's peak.
    """

    protocol: str
    results: Sequence[Result]
    axes: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    interval: str | None = None
    warnings: Sequence[str] = ()
    artifacts: Mapping[str, str] = field(default_factory=dict)
    differences: Sequence[dict[str, Any]] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A benchmark: calling it with options and a folder measures, and writes the result there.

    Attributes:
        name: as the command line has it.
        options: the dataclass, a `benchmarks.options.RunOptions`.
        measure: options and the folder, for pictures → what was found.
    """

    name: str
    options: type
    measure: Callable[[Any, Path], Measurement]

    def __call__(self, options: Any, out: Path) -> Path:
        """Measure, and write `out`/result.json, whose path it gives, with the card and the tables beside it."""
        out = Path(out)
        is_new = not out.exists()
        make_folder(out)
        if (out / RESULT_FILE).exists():
            logger.info("the result in %s will be replaced", out)
        start = time.perf_counter()
        try:
            found = self.measure(options, out)
        except BaseException:
            if is_new:
                with suppress(OSError):  # it holds something
                    out.rmdir()
            raise
        return self.write(options, out, found, time.perf_counter() - start)

    def write(self, options: Any, out: Path, found: Measurement, seconds: float) -> Path:
        """Write what was found in that time, with its card and tables; a long task does so after each of its parts."""
        made = card(found, options, self.name, round(seconds, 1))
        if found.differences is not None:
            write_json(out / DIFFERENCES_FILE, plain(list(found.differences)))
        artifacts = {} if found.differences is None else {"differences": DIFFERENCES_FILE}
        path = write_result(out, made, found.results, artifacts={**artifacts, **found.artifacts})
        run = open_run(out)
        for name, text in ((CSV_FILE, run.frame().to_csv(index=False)), (TABLE_FILE, run_markdown(run) + "\n")):
            write_bytes(out / name, text.encode(errors="backslashreplace"))
        return path

    def command(self, options: Any) -> None:
        """What the command line does: measure, print the table and the paths."""
        out = options.folder(self.name)
        if int(os.environ.get("RANK", 0)):  # of several processes the first one writes
            self.measure(options, out)
            return
        path = self(options, out)
        print((out / TABLE_FILE).read_text(encoding="utf-8"))
        print(path)


def card(found: Measurement, options: Any = None, task: str | None = None, seconds: float | None = None) -> Card:
    """Everything that all results of a run share: what was found, the options as they were resolved, the machine.

    ValueError for an axis that is not one of `AXES`.
    """
    if unknown := sorted(set(found.axes) - set(AXES)):
        raise ValueError(f"unknown axes {', '.join(unknown)}: a card knows {', '.join(AXES)}")
    random = sorted(name for name, value in found.weights.items() if value.startswith("random"))
    untrained = [f"weights are random, not trained: {', '.join(random)}"] if random else []
    config = {} if options is None else plain(asdict(options))
    config.pop("out", None)
    device = choose_device(config.get("device"))
    return {
        "protocol": found.protocol,
        "task": task,
        "axes": dict(found.axes),
        "config": config,
        "encoding": {
            "device": device.type,
            "dtype": resolved_dtype(config.get("dtype"), device),
            "store_dtype": config.get("store_dtype"),
            "batch_size": config.get("batch_size"),
        },
        "interval": found.interval,
        **({"details": plain(dict(found.details))} if found.details else {}),
        "seconds": seconds,
        "data": dict(found.data),
        "weights": dict(found.weights),
        "warnings": [
            *dict.fromkeys([*found.warnings, *warnings_of(found.results), *unmeasured(options, found)]),
            *untrained,
        ],
        "machine": describe(device),
        "command": command_line(),
    }


def warnings_of(results: Sequence[Result]) -> list[str]:
    """The warnings that results carry, each once, with how many carry it."""
    found = Counter(warning for result in results for warning in result.warnings)
    return [f"{warning} ({count} of {len(results)} results)" for warning, count in found.items()]


def unmeasured(options: Any, found: Measurement) -> list[str]:
    """A warning of outputs that the options name and no result is of, as if they were misspelt."""
    measured = {result.get("output") for result in found.results}
    named = [*(getattr(options, "outputs", None) or ()), *(getattr(options, "attentive_outputs", None) or ())]
    missing = [name for name in named if name not in measured]
    return [f"no encoder has the output {', '.join(missing)}"] if missing and measured else []


def find_task(name: str) -> Task:
    """A task by its name; its module is imported now."""
    module = importlib.import_module(f"benchmarks.{TASKS[name][0]}.{name}")
    task: Task = module.run
    return task


def main(name: str, arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Read the options of a task, run it, and return the exit status."""
    task = find_task(name)
    program = program or f"python -m benchmarks.{name}"
    return run_command(task.command, task.options, arguments, program=program)


def run_as_command(name: str) -> None:
    """The end of a task's module that was started with `python -m`."""
    sys.exit(main(name))
