"""The one runner: `randar bench TASK …` and `python -m benchmarks.TASK …`.

A task is a typed dataclass of options and a function that measures. The runner reads the options, which refuses bad
ones before any work, calls the function, times it, and writes what every result has: the card (machine, device, number
format, options, data, weights, command), `result.json`, `results.csv` and `result.md`. In a suite, a result with the
same options, weights and data is not measured again, see `benchmarks.jobs`.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.comparisons import difference_table
from benchmarks.report.tables import Table, markdown, markdown_text
from benchmarks.result import Card, Result, card, result_frame, write_result
from randar_features.cli import parse
from randar_features.hub import choose_device
from randar_features.store.files import write_json

TABLE_FILE, CSV_FILE, DIFFERENCES_FILE = "result.md", "results.csv", "differences.json"

TASKS = {
    "classification": "tasks",
    "generative_classification": "tasks",
    "retrieval": "tasks",
    "near_duplicates": "tasks",
    "duplicate_recall": "tasks",
    "segmentation": "tasks",
    "correspondence": "tasks",
    "maps": "tasks",
    "samples": "tasks",
    "generation": "tasks",
    "reconstruction": "tasks",
    "quality": "tasks",
    "decoding_orders": "tasks",
    "architectures": "tasks",
    "throughput": "speed",
    "generation_speed": "speed",
    "training_speed": "speed",
    "training_plan": "speed",
    "probe_speed": "speed",
    "index_speed": "speed",
    "extraction_speed": "speed",
    "growth": "speed",
    "gpu_report": "speed",
    "generation_metrics_speed": "speed",
}
"""Every task, and the folder of its module, which calls its `Task` "run"."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a task found; the runner adds machine, options and time.

    Attributes:
        protocol: its name and settings in words.
        results: a result each variant.
        axes: values of the axes that all results share.
        data: a hash, by `benchmarks.result.data_hash`, for each part that data play; with the split.
        weights: a hash each encoder or model, see `benchmarks.result.card`.
        interval: how intervals were made, in words; None where there are none.
        warnings: what a reader must know before using the numbers.
        artifacts: files that were written to the folder, by what they are.
        tables: the results as a person reads them; none: one of all metrics.
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
    tables: Sequence[Table] = ()
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
        out.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        found = self.measure(options, out)
        return self.write(options, out, found, time.perf_counter() - start)

    def write(self, options: Any, out: Path, found: Measurement, seconds: float) -> Path:
        """Write what was found in that time, with its card and tables; a long task does so after each of its parts."""
        made = card(
            found.protocol,
            axes=found.axes,
            data=found.data,
            weights=found.weights,
            config=options,
            warnings=[*dict.fromkeys([*found.warnings, *warnings_of(found.results)])],
            device=choose_device(getattr(options, "device", None)),
            dtype=getattr(options, "dtype", None),
            interval=found.interval,
            details=found.details,
            task=self.name,
            seconds=round(seconds, 1),
        )
        artifacts = {**_write_tables(out, found, made), **found.artifacts}
        path = write_result(out, made, found.results, artifacts=artifacts)
        result_frame(path).to_csv(out / CSV_FILE, index=False, errors="backslashreplace")
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


def warnings_of(results: Sequence[Result]) -> list[str]:
    """The warnings that results carry, each once, with how many carry it."""
    found: dict[str, int] = {}
    for result in results:
        for warning in result.warnings:
            found[warning] = found.get(warning, 0) + 1
    return [f"{warning} ({count} of {len(results)} results)" for warning, count in found.items()]


def _write_tables(out: Path, found: Measurement, about: Card) -> dict[str, str]:
    """The table and the differences as Markdown, with protocol, warnings and command; the differences as JSON too."""
    tables = [*(found.tables or ([plain_table(found.results)] if found.results else []))]
    if found.differences is not None:
        tables += [difference_table(found.differences)] if found.differences else []
        write_json(out / DIFFERENCES_FILE, list(found.differences))
    texts = [*map(markdown, tables), markdown_text(about["protocol"])]
    texts += [f"Warning: {markdown_text(warning)}." for warning in about["warnings"]]
    texts.append(f"`{about['command']}`, commit {about['machine']['commit']}")
    (out / TABLE_FILE).write_text("\n\n".join(texts) + "\n", encoding="utf-8", errors="backslashreplace")
    return {} if found.differences is None else {"differences": DIFFERENCES_FILE}


def plain_table(results: Sequence[Result]) -> Table:
    """All axes that results state, settings and metrics, a line each result."""
    parts = [name for result in results for name in (*result.axes, *result.settings, *result.metrics)]
    names = [name for name in dict.fromkeys(parts) if any(result.get(name) is not None for result in results)]
    return Table(names, [[_cell(result.get(name)) for name in names] for result in results])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def find_task(name: str) -> Task:
    """A task by its name; its module is imported now."""
    module = importlib.import_module(f"benchmarks.{TASKS[name]}.{name}")
    task: Task = module.run
    return task


def main(name: str, arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Read the options of a task, run it, and return the exit status."""
    task = find_task(name)
    program = program or f"python -m benchmarks.{name}"
    return parse.run(task.command, task.options, arguments, program=program)


def run_as_command(name: str) -> None:
    """The end of a task's module that was started with `python -m`."""
    sys.exit(main(name))
