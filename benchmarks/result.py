"""The card that every result carries, and the one format of result files.

A number can only be compared with another when everything that changes it is written beside it: the
protocol, every axis on which it varies, the options, the data, the weights, the machine, the commit and the command.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.machine import describe
from randar_features.store.files import read_json, write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RESULT_FILE = "result.json"
HASHED_FILES = 1000
MIB = 1 << 20

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
    "selection": "the rows on which options of the head were chosen",
}
"""Every axis on which results of this project vary. An axis that does not apply is stated as None."""

CARD_ENTRIES = {"protocol", "axes", "data", "weights", "machine", "warnings"}

Card = dict[str, Any]
Result = dict[str, Any]


def card(
    protocol: str,
    *,
    axes: Mapping[str, Any],
    data: Mapping[str, str],
    weights: Mapping[str, str],
    config: DataclassInstance | None = None,
    warnings: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> Card:
    """Everything that all rows of a result share.

    Args:
        protocol: its name and settings in words, for example "kNN, k = 20, cosine, temperature 0.07".
        axes: values of the `AXES` that all rows share; rows state the others.
        data: a hash, by `data_hash`, for each part it plays: "train", "evaluation", "index" …
        weights: a hash each encoder; "none" for one without weights, "random (seed 0)" for untrained ones.
        config: every option of the benchmark, as it was resolved.
        warnings: what a reader must know before using the numbers.
        device: what ran the encoder.

    Raises:
        ValueError: an axis that is not one of `AXES`.
    """
    _check_axes(axes)
    return {
        "protocol": protocol,
        "axes": dict(axes),
        "config": {} if config is None else plain(asdict(config)),
        "data": dict(data),
        "weights": dict(weights),
        "warnings": [*warnings, *_warnings_of(weights)],
        "machine": describe(device),
        "command": command_line(),
    }


def command_line() -> str:
    """How this process was started, as a reader would type it."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def data_hash(data: str | Path) -> str:
    """16 hexadecimal digits of the data's files: their paths below the folder, their sizes, and what some of them hold.

    Of at most `HASHED_FILES` files, spread evenly, the first and last MiB are read. A name that is no file or folder
    (data built into the package) stands for itself.
    """
    path = Path(data)
    if not path.exists():
        return f"built-in {data}"
    digest = hashlib.sha256()
    files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    read = set(files[:: -(-len(files) // HASHED_FILES) or 1])
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path) if path.is_dir() else file.name} {size}".encode())
        if file in read:
            with file.open("rb") as opened:
                digest.update(opened.read(MIB))
                opened.seek(max(0, size - MIB))
                digest.update(opened.read())
    return digest.hexdigest()[:16]


def write_result(
    folder: Path, card: Card, results: Sequence[Result], *, artifacts: Mapping[str, str] | None = None
) -> Path:
    """Write `folder/result.json`, whole or not at all.

    Args:
        folder: where it goes; `artifacts` lie in it.
        card: from `card`.
        results: one row a variant: its own axes, settings in words (such as the probe), and metrics by their names;
            the first one is the main one, which "interval", [low, high], belongs to. Shares are in [0, 1].
        artifacts: files in `folder` by what they are. PNG files are shown by a report. "predictions" is an .npz
            with labels (n,), predictions (rows, n) in the order of `results`, and label_names.

    Raises:
        ValueError: a row and the card together leave an axis of `AXES` unstated, or state it twice.
    """
    for row in results:
        _check_row(row, card["axes"])
    path = folder / RESULT_FILE
    write_json(path, plain({"card": card, "results": list(results), "artifacts": dict(artifacts or {})}))
    return path


def read_result(path: Path) -> dict[str, Any]:
    """A result file, or the one in a folder; ValueError if it is none."""
    path = path / RESULT_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no result at {path}: expected a result file, or a folder with {RESULT_FILE} in it")
    result = read_json(path)
    if not isinstance(result, dict) or not {"card", "results"} <= result.keys():
        raise ValueError(f"{path} is no result file: expected an object with card and results, as write_result writes")
    about, rows = result["card"], result["results"]
    missing = CARD_ENTRIES - about.keys() if isinstance(about, dict) else CARD_ENTRIES
    if missing or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        problem = f"its card lacks {', '.join(sorted(missing))}" if missing else "its results are no list of rows"
        raise ValueError(f"{path} is no result file, as write_result writes: {problem}")
    return result


def full_axes(card: Card, row: Result) -> dict[str, Any]:
    """The value of every axis of one row."""
    return {name: row.get(name, card["axes"].get(name)) for name in AXES}


def metrics(row: Result) -> dict[str, float]:
    """The numbers of a row that are no axes."""
    numbers = {name: value for name, value in row.items() if name not in AXES}
    return {n: v for n, v in numbers.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def plain(value: Any) -> Any:
    """NumPy's and PyTorch's numbers and arrays, paths and tuples, as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | torch.Tensor | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _warnings_of(weights: Mapping[str, str]) -> list[str]:
    random = sorted(name for name, value in weights.items() if value.startswith("random"))
    return [f"weights are random, not trained: {', '.join(random)}"] if random else []


def _check_axes(axes: Mapping[str, Any]) -> None:
    if unknown := sorted(set(axes) - set(AXES)):
        raise ValueError(f"unknown axes {', '.join(unknown)}: a card knows {', '.join(AXES)}")


def _check_row(row: Result, shared: Mapping[str, Any]) -> None:
    if twice := sorted(set(row) & set(shared)):
        raise ValueError(f"{', '.join(twice)} stated by the card and by the row {row}: state an axis once")
    if missing := [name for name in AXES if name not in row and name not in shared]:
        raise ValueError(
            f"the axes {', '.join(missing)} are stated neither by the card nor by the row {row}: "
            "give them, as None where they do not apply"
        )
