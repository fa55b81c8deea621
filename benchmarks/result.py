"""The card of every result, and the format of result files.

Two numbers can be compared only if everything that changes them is recorded with them: the
protocol, every axis on which they vary, the options, the data, the weights, the machine, the commit and the command.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from randar_features.data.containers.lists import spreadsheet_safe
from randar_features.data.containers.paths import confined, reading
from randar_features.data.containers.shards import expand, is_pattern
from randar_features.data.containers.tables import NAMED
from randar_features.precision import fastest_dtype, name_of
from randar_features.store.files import read_json, write_json
from randar_features.store.identity import hash_files
from randar_features.store.records import printable

RESULT_FILE = "result.json"

AXES = {
    "encoder": "name of the model, as `benchmarks.encoders.load_encoder` takes it",
    "output": "which of the encoder's outputs",
    "layer": "block counted from 0, or several, concatenated",
    "context": "how often and in which order the image was shown",
    "read": "the kind of token that the features were taken from",
    "orders": "how many orders were averaged, or the one order",
    "pooling": "how a map became one vector; None: it was not pooled",
    "normalization": "what was done to the vectors before the head or the distance",
    "resolution": "pixels a side that the encoder was given",
    "threshold_basis": "what a distance is measured against (point matching)",
    "selection": "the images on which options of the head were chosen",
}
"""Every axis on which results of this project vary. An axis that does not apply is stated as None."""

WORDS = {*AXES, "probe", "settings", "part", "stage"} - {"layer", "orders", "resolution"}
"""The axes and settings that are text, or None."""

NO_AXES: dict[str, Any] = dict.fromkeys(AXES)
"""All axes as they stand where none applies, as for a measurement of speed."""

CARD_ENTRIES = {"protocol", "command", "axes", "data", "weights", "machine", "warnings"}

Card = dict[str, Any]
"""What all results of a run share, as JSON has it, see `benchmarks.run.card`."""

LARGEST = 2**63
"""The largest whole number that a row may hold."""

RESERVED = ("interval", "chosen", "warnings")
TUNED = ("tuning", "validation")
LESS_IS_BETTER = re.compile(r"FID|^FD|KID|^KD|distance|nats|loss|seconds|rank")


@dataclass(frozen=True)
class Result:
    """What was measured of one variant.

    Attributes:
        axes: the values of `AXES` that this result does not share with all others of its run.
        metrics: numbers by their names; the first is the main one. Shares are in [0, 1].
        interval: (low, high) of the main metric, or None, as where a single image tells none.
        settings: in words, such as the probe.
        chosen: options that tuning images chose, such as C.
        details: what is no single number, such as scores by category.
        warnings: what a reader must know of this result alone, such as a head at the end of its grid.
    """

    axes: Mapping[str, Any]
    metrics: Mapping[str, float]
    interval: tuple[float, float] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, entries: Mapping[str, Any]) -> Result:
        """A result from entries as the file has them: axes by their names, numbers are metrics, words settings."""
        found = {name: value for name, value in plain(entries).items() if name not in RESERVED}
        numbers = {n: v for n, v in found.items() if n not in AXES and _is_number(v)}
        words = {n: v for n, v in found.items() if n not in AXES and isinstance(v, str)}
        return cls(
            axes={name: value for name, value in found.items() if name in AXES},
            metrics=numbers,
            interval=known_bounds(entries.get("interval")),
            settings=words,
            chosen=plain(entries.get("chosen") or {}),
            details={n: v for n, v in found.items() if n not in AXES and n not in numbers and n not in words},
            warnings=tuple(entries.get("warnings") or ()),
        )

    @property
    def metric(self) -> str | None:
        """Name of the main metric."""
        return next(iter(self.metrics), None)

    @property
    def tuning(self) -> float | None:
        """The score on images that are not evaluated, by which variants are chosen; None where there is none."""
        return next((self.metrics[name] for name in TUNED if name in self.metrics), None)

    def to_json(self) -> dict[str, Any]:
        """One flat mapping, as the result file has it."""
        found: dict[str, Any] = {**self.axes, **self.settings, **self.metrics, **self.details}
        found |= {"interval": list(bounds)} if (bounds := known_bounds(self.interval)) else {}
        found |= {"chosen": dict(self.chosen)} if self.chosen else {}
        return found | ({"warnings": list(self.warnings)} if self.warnings else {})

    def get(self, name: str, default: Any = None) -> Any:
        """An axis, setting, metric or detail by its name."""
        for part in (self.axes, self.metrics, self.settings, self.details):
            if name in part:
                return part[name]
        reserved = {"interval": self.interval, "chosen": self.chosen, "warnings": self.warnings}
        return reserved.get(name, default)

    def __getitem__(self, name: str) -> Any:
        missing = object()
        value = self.get(name, missing)
        if value is missing:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None


def known_bounds(interval: Any) -> tuple[float, float] | None:
    """Both bounds of an interval; None where there is none, or they are not known: NaN, which JSON has as null."""
    bounds = plain(interval)
    known = isinstance(bounds, list) and len(bounds) == 2 and all(map(_is_number, bounds))
    return (float(bounds[0]), float(bounds[1])) if known else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def resolved_dtype(dtype: str | None, device: torch.device) -> str:
    """The number format in words: "auto" is the fastest of the device, None is float32."""
    if dtype == "auto":
        return name_of(fastest_dtype(device))
    return dtype or "float32"


def command_line() -> str:
    """How this process was started, as a reader would type it."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def data_hash(data: str | Path) -> str:
    """16 hexadecimal digits of the data's files: their paths below the folder, and what each holds.

    Hashes of files are kept between runs, see `randar_features.store.identity`. A name that is no file or folder (data
    built into the package) stands for itself.
    """
    path = Path(data)
    if is_pattern(str(data)):
        files = expand(str(data))
    elif not path.exists():
        return str(data) if str(data).startswith(NAMED) else f"built-in {data}"
    else:
        files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    names = [str(file.relative_to(path)) if path.is_dir() else file.name for file in files]
    digest = hashlib.sha256()
    for name, content in zip(names, hash_files([str(file) for file in files]), strict=True):
        digest.update(f"{name} {content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def write_result(
    folder: Path,
    card: Card,
    results: Sequence[Result | Mapping[str, Any]],
    *,
    artifacts: Mapping[str, str] | None = None,
) -> Path:
    """Write `folder/result.json`, whole or not at all.

    Args:
        folder: where it goes; `artifacts` lie in it.
        card: from `benchmarks.run.card`.
        results: one a variant.
        artifacts: files in `folder` by what they are. PNG files are shown by a report. "predictions" is an .npz
            with labels (n,), predictions (rows, n) in the order of `results`, and label_names.

    Raises:
        ValueError: a row and the card together leave an axis of `AXES` unstated, or state it twice.
    """
    rows = [(result if isinstance(result, Result) else Result.of(result)).to_json() for result in results]
    for row in rows:
        _check_row(row, card["axes"])
    path = folder / RESULT_FILE
    write_json(path, plain({"card": card, "results": rows, "artifacts": dict(artifacts or {})}))
    return path


def read_result(path: Path) -> dict[str, Any]:
    """A result file, or the one in a folder; ValueError if it is none."""
    path = path / RESULT_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no result at {path}: expected a result file, or a folder with {RESULT_FILE} in it")
    result = read_json(path)
    if not isinstance(result, dict) or not {"card", "results"} <= result.keys():
        raise ValueError(f"{path} is no result file: expected an object with card and results, as write_result writes")
    if problem := _card_fault(result["card"]) or _rows_fault(result["results"]):
        raise ValueError(f"{path} is no result file, as write_result writes: {problem}")
    artifacts = result.setdefault("artifacts", {})
    if not isinstance(artifacts, dict):
        raise ValueError(f"{path} is no result file, as write_result writes: its artifacts are no names of files")
    for name, file in artifacts.items():
        with reading(path, f"a result with the artifact {name!r}"):
            confined(file, path.parent)
    return result


def _card_fault(about: Any) -> str | None:
    """What is wrong with a card, in words; None if nothing is."""
    missing = CARD_ENTRIES - about.keys() if isinstance(about, dict) else CARD_ENTRIES
    if missing:
        return f"its card lacks {', '.join(sorted(missing))}"
    kinds = {"protocol": str, "command": str, "axes": dict, "data": dict, "weights": dict, "machine": dict}
    kinds |= {"warnings": list, "encoding": dict, "config": dict, "interval": str, "task": str}
    for name, kind in kinds.items():
        optional = kind | None if name in ("interval", "task") else kind
        if not isinstance(about.get(name, kind()), optional):
            return f"{name} of its card is {about[name]!r}, expected a {kind.__name__}"
    texts = [*about["warnings"], *about["weights"].values(), *about["data"].values()]
    texts += [about["machine"].get(name) for name in ("commit", "processor")]
    if wrong := [text for text in texts if not isinstance(text, str)]:
        return f"its card holds {wrong[0]!r}, expected text"
    return _words_fault(about["axes"])


def _rows_fault(rows: Any) -> str | None:
    """What is wrong with the rows of a result file, in words; None if nothing is."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return "its results are no list of rows"
    for row in rows:
        interval, chosen, warned = row.get("interval"), row.get("chosen") or {}, row.get("warnings") or []
        pair = isinstance(interval, list) and len(interval) == 2 and all(map(_is_number, interval))
        if not (interval is None or pair) or not isinstance(chosen, dict):
            return f"a row has the interval {interval!r} and chosen {chosen!r}, expected two numbers, and options"
        if not isinstance(warned, list) or not all(isinstance(warning, str) for warning in warned):
            return f"a row has the warnings {warned!r}, expected a list of texts"
        if any(isinstance(value, int) and abs(value) > LARGEST for value in [*row.values(), *(interval or ())]):
            return f"a row holds a number above {LARGEST}"
        if problem := _words_fault(row):
            return problem
    return None


def _words_fault(about: Mapping[str, Any]) -> str | None:
    """What is wrong with the axes and settings that are stated in words."""
    kinds: dict[str, Any] = {"settings": str | dict | None}  # an index names each of its settings
    wrong = [name for name in WORDS if not isinstance(about.get(name), kinds.get(name, str | None))]
    return f"{wrong[0]} is {about[wrong[0]]!r}, expected text" if wrong else None


@dataclass(frozen=True)
class Run:
    """One result file, read.

    Attributes:
        name: path of its folder below the folder that was given.
        folder: where it lies.
        card: what all its results share.
        results: a result each variant.
        artifacts: names of files in the folder, by what they are.
    """

    name: str
    folder: Path
    card: Card
    results: list[Result]
    artifacts: dict[str, str]

    @property
    def metric(self) -> str | None:
        """Name of the main metric, which intervals belong to; None without results."""
        return next((row.metric for row in self.results if row.metric), None)

    def axes(self, row: Result) -> dict[str, Any]:
        """The value of every axis of one of the results."""
        return {name: row.get(name, self.card["axes"].get(name)) for name in AXES}

    def artifact(self, name: str) -> Path | None:
        """A file that lies beside the result; None if there is none, or not any more, as of images not to be shared."""
        path = self.folder / self.artifacts.get(name, "")
        return path if path.is_file() else None

    def best(self, rows: Sequence[Result] | None = None) -> Result:
        """The row with the best score on tuning images, or, without these, of the main metric; `rows` None: all.

        Of distances, losses and times the lowest is best.
        """
        rows = self.results if rows is None else rows
        if all(row.tuning is not None for row in rows):
            return max(rows, key=lambda row: row.tuning or 0.0)
        metric = self.metric or ""
        sign = -1 if LESS_IS_BETTER.search(metric) else 1

        def score(row: Result) -> float:
            value = sign * row.metrics.get(metric, np.nan)
            return -np.inf if np.isnan(value) else value

        return max(rows, key=score)

    def best_by_encoder(self, *settings: str) -> list[Result]:
        """The best result of each encoder, for each value of these settings, in words, such as the probe."""
        groups: dict[tuple[str, ...], list[Result]] = {}
        for row in self.results:
            key = (str(self.axes(row)["encoder"]), *(row.settings.get(name, "") for name in settings))
            groups.setdefault(key, []).append(row)
        return [self.best(rows) for rows in groups.values()]

    def frame(self) -> pd.DataFrame:
        """The results as a table, see `load_results`. Text that a spreadsheet would run as a formula is quoted."""
        about, machine = self.card, self.card["machine"]
        shared = {"protocol": about["protocol"], "interval_method": about.get("interval"), "commit": machine["commit"]}
        shared |= {"device": machine.get("gpu", machine["processor"]), "dtype": about.get("encoding", {}).get("dtype")}
        shared |= {"data": "; ".join(f"{part}: {content}" for part, content in about["data"].items())}
        shared |= {"warnings": "; ".join(about["warnings"])}
        best, lines = [id(row) for row in self.best_by_encoder("probe", "settings")], []
        for row in self.results:
            low, high = row.interval or (np.nan, np.nan)
            value = row.metrics.get(row.metric or "")
            line: dict[str, Any] = {"run": self.name, "task": about.get("task"), **self.axes(row), **row.settings}
            line |= {"metric": row.metric, "value": value, "low": low, "high": high, **row.metrics}
            line |= {"best_of_encoder": id(row) in best}
            line |= {f"chosen_{name}": value for name, value in row.chosen.items()} | shared
            lines.append(line)
        return frame_of(lines)


def frame_of(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A table whose text is UTF-8, with escapes for other characters, and no formula of a spreadsheet."""

    def safe(value: Any) -> Any:
        return spreadsheet_safe(printable(value) if isinstance(value, str) else value)

    return pd.DataFrame([{printable(name): safe(value) for name, value in line.items()} for line in lines])


def open_run(path: Path, name: str | None = None) -> Run:
    """A result file, or the one in a folder, called `name`; errors as of `read_result`."""
    content, folder = read_result(path), path if path.is_dir() else path.parent
    results = [Result.of(row) for row in content["results"]]
    return Run(folder.name if name is None else name, folder, content["card"], results, content["artifacts"])


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Every result file below the folders, or given as a file, sorted by path.

    FileNotFoundError if one of them has none.
    """
    runs: list[Run] = []
    for folder in folders:
        if folder.is_file():
            runs.append(open_run(folder))
            continue
        files = sorted(folder.rglob(RESULT_FILE))
        if not files:
            raise FileNotFoundError(f"no {RESULT_FILE} below {folder}: run a benchmark with --out first")
        for file in files:
            name = str(file.parent.relative_to(folder))
            runs.append(open_run(file, file.parent.name if name == "." else name))
    return runs


def load_results(folders: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Every result below a folder, or several, as one table: a line each result.

    Columns: run (its folder below the one given; of several, with that one's name before it), task, the `AXES`,
    settings, metric (name of the main one), value, low, high, all metrics by their names, best_of_encoder (whether the
    variant is the one that tuning images choose, of its encoder in this run with this probe), chosen_NAME, and of the
    card: protocol, interval_method, data, device, dtype, commit, warnings. `benchmarks.paper_table` makes it the table
    of a paper.

    Raises:
        FileNotFoundError: there is no result below a folder.
    """
    if isinstance(folders, str | Path):
        return pd.concat([run.frame() for run in find_runs([Path(folders)])], ignore_index=True)
    frames = [load_results(folder).assign(run=lambda f, n=Path(folder).name: n + "/" + f["run"]) for folder in folders]
    return pd.concat(frames, ignore_index=True)


def plain(value: Any) -> Any:
    """NumPy's and PyTorch's numbers and arrays, paths and tuples, as JSON has them; NaN as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | torch.Tensor | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _check_row(row: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
    if twice := sorted(set(row) & set(shared)):
        raise ValueError(f"{', '.join(twice)} stated by the card and by the row {row}: state an axis once")
    if missing := [name for name in AXES if name not in row and name not in shared]:
        raise ValueError(
            f"the axes {', '.join(missing)} are stated neither by the card nor by the row {row}: "
            "give them, as None where they do not apply"
        )
