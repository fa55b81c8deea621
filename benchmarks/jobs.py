"""Benchmarks of a suite: a result with the same options, weights and data is not measured again."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from benchmarks.result import RESULT_FILE, data_hash, plain
from randar_features.store.files import read_json, write_json

CONFIG_FILE = "config.json"
UNRELATED = ("out", "cache", "num_workers")
"""Options that change no number."""


@dataclass(frozen=True)
class Job:
    """One benchmark on one data set: `run(config, folder)` writes a result there."""

    name: str
    config: Any
    run: Callable[[Any, Path], object]


def finished(job: Job, folder: Path, weights: Mapping[str, str]) -> bool:
    """Whether the result in `folder` is of the same options, weights and data."""
    path = folder / CONFIG_FILE
    if not (folder / RESULT_FILE).exists() or not path.exists():
        return False
    try:
        kept, wanted = dict(read_json(path)), description(job, weights)
        options = dict(kept["config"])
    except (ValueError, KeyError, TypeError):  # it is damaged
        return False
    defaults = {
        field.name: plain(field.default) for field in fields(job.config) if field.name not in UNRELATED
    }  # of options that are newer
    return {**kept, "config": defaults | options} == wanted


def description(job: Job, weights: Mapping[str, str]) -> dict[str, Any]:
    """What decides whether a result has to be made again: options, weights, and what the data hold."""
    options = {name: value for name, value in asdict(job.config).items() if name not in UNRELATED}
    named = str(options.get("labels")).endswith(".json")  # a file of the names of the classes
    files = ("data", "tokens", "labels") if named else ("data", "tokens")
    data = {name: data_hash(options[name]) for name in files if name in options}
    return plain({"config": options, "weights": weights, "data": data})


def run_once(job: Job, folder: Path, weights: Mapping[str, str]) -> None:
    """Run it, unless its result is in `folder`; says which, and how long it took."""
    if finished(job, folder, weights):
        tqdm.write(f"{job.name}: done before")
        return
    start = time.perf_counter()
    (folder / CONFIG_FILE).unlink(missing_ok=True)  # a kill must not leave other options beside a new result
    job.run(job.config, folder)
    write_json(folder / CONFIG_FILE, description(job, weights))
    tqdm.write(f"{job.name}: {time.perf_counter() - start:.0f} s")
