"""The folder of an index: versioned files, and a manifest that names them, written last.

`manifest.json` describes a finished index, `building.json` an unfinished one. Both name the files that hold their state
and, under "pending", those that are being written: a kill at any moment leaves one whole state, and the next building
removes the rest. Files that neither names are the user's, and are neither removed nor overwritten. The process that
builds holds a lock on `.lock`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout
from pyarrow import parquet

from probes.index.settings import KINDS, NORMALIZATIONS, IndexSettings

MANIFEST, BUILDING, LOCK = "manifest.json", "building.json", ".lock"
FORMAT = 2
ASIDE = ".writing"
_CHUNK = 1 << 18  # fits the processor's cache
_KNOWN = ("index", "normalization", "vectors", "columns")


class IndexFilesError(ValueError):
    """A file of an index is missing, torn or changed, or the folder holds none."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the folder; IndexFilesError at once if another process builds there."""
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise IndexFilesError(f"{folder} is being built by another process: wait for it, or end it") from None


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, which then replaces `path`: whole or not at all.

    Raises:
        OSError: it cannot be written; the message names it.
    """
    aside = path.with_name(path.name + ASIDE)
    aside.unlink(missing_ok=True)  # left by a killed run, or a link, which would be followed
    try:
        write(aside)
        _sync(aside)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OSError(f"could not write {path} ({error})") from error
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_state(folder: Path, name: str, state: dict[str, Any]) -> None:
    """Write MANIFEST or BUILDING, then remove the files that no state names any more."""
    before = own_files(folder)
    text = json.dumps(state | {"checksum": checksum(state)}, indent=2, ensure_ascii=False) + "\n"
    replace_file(folder / name, lambda path: path.write_text(text, encoding="utf-8", errors="surrogateescape"))
    if name == MANIFEST:
        (folder / BUILDING).unlink(missing_ok=True)
    for own in before - own_files(folder):
        (folder / own).unlink(missing_ok=True)


def own_files(folder: Path) -> set[str]:
    """Names of the files that the states of the folder name, also of those that are being written."""
    states = [found for kind in (MANIFEST, BUILDING) if (found := read_state(folder, kind)) is not None]
    pending = {name for state in states for name in state.get("pending", [])}
    return (
        {file["name"] for state in states for file in state["files"].values()} | pending | {n + ASIDE for n in pending}
    )


def read_state(folder: Path, name: str) -> dict[str, Any] | None:
    """A checked state of the folder; None if it is not there. IndexFilesError if the file holds something else."""
    path = folder / name
    if not path.exists():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise IndexFilesError(f"{path} is not valid JSON ({error}): remove the folder and build it again") from error
    except OSError as error:
        raise IndexFilesError(f"{path} cannot be read ({error})") from error
    if wrong := _fault(state):
        raise IndexFilesError(f"{path} is no manifest of an index of format {FORMAT} ({wrong}): build it again")
    if state.pop("checksum", None) != checksum(state):
        raise IndexFilesError(f"{path} was altered or is damaged: remove the folder and build the index again")
    return state


def checksum(state: Mapping[str, Any]) -> str:
    """A hash of what a state says."""
    content = {name: value for name, value in state.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _fault(state: Any) -> str | None:
    """What is wrong with a state, in words; None if nothing is."""
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        return "it has another format, or none"
    shapes: dict[str, type] = {"settings": dict, "features": dict, "rows": int, "left_out": list, "files": dict}
    for name, kind in shapes.items():
        if not isinstance(state.get(name), kind):
            return f"{name} is missing or no {kind.__name__}"
    rows, left_out = state["rows"], state["left_out"]
    if (
        rows < 0
        or any(type(row) is not int or not 0 <= row < rows for row in left_out)
        or left_out != sorted(set(left_out))
    ):
        return "rows or left_out are out of range"
    pending = state.get("pending", [])
    if not isinstance(pending, list) or not all(map(_is_plain, pending)):
        return "pending names files that are not of the folder"
    return _settings_fault(state["settings"]) or _files_fault(state["files"])


def _settings_fault(settings: dict[str, Any]) -> str | None:
    texts = {"kind": KINDS, "normalization": NORMALIZATIONS}
    names = {field.name for field in fields(IndexSettings)}
    if set(settings) != names:
        return f"settings must be {', '.join(sorted(names))}"
    for name, value in settings.items():
        largest = 1 << (63 if name == "seed" else 48)
        right = value in texts[name] if name in texts else type(value) is int and 0 <= value < largest
        if not right:
            return f"settings: {name} is {value!r}"
    whitened = settings["normalization"] == "whitened"
    if settings["dim"] < 1 or settings["components"] > settings["dim"] or whitened != (settings["components"] > 0):
        return "settings: dim or components"
    return None


def _files_fault(records: dict[str, Any]) -> str | None:
    for kind, record in records.items():
        if kind not in _KNOWN or not isinstance(record, dict):
            return f"files: {kind}"
        name, size, digest = (record.get(part) for part in ("name", "bytes", "sha256"))
        if not _is_plain(name) or type(size) is not int or size < 0 or not isinstance(digest, str):
            return f"files: {kind} must have the name of a file in the folder, bytes and sha256, got {record}"
    return None


def _is_plain(name: Any) -> bool:
    """Whether this is the name of a file beside the manifest, and neither a path nor a state."""
    return (
        isinstance(name, str) and name not in ("", ".", "..", MANIFEST, BUILDING, LOCK) and not set(name) & set("/\\\0")
    )


def file_record(path: Path, size: int | None = None) -> dict[str, Any]:
    """Name, bytes and checksum of the first `size` bytes of a file (None: of all), for the manifest."""
    size = path.stat().st_size if size is None else size
    return {"name": path.name, "bytes": size, "sha256": _sha256(path, size)}


def check_files(folder: Path, state: dict[str, Any], *, content: bool = True) -> None:
    """IndexFilesError that names the first file that is missing, a link, too short, or not what was written.

    content: compare checksums too.
    """
    for record in state["files"].values():
        path = folder / record["name"]
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise IndexFilesError(f"{path} is no file of the folder itself: build the index again")
        size = path.stat().st_size if path.exists() else None
        if size is None or size < record["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes of {record['bytes']}"
            raise IndexFilesError(f"{path} {found}: build the index again")
        if content and _sha256(path, record["bytes"]) != record["sha256"]:
            raise IndexFilesError(
                f"{path} has changed since it was written (its SHA-256 is not {record['sha256'][:12]}…): "
                "remove the folder and build the index again, or copy it again from where it is whole"
            )


def columns_table(columns: Mapping[str, Sequence[Any]], count: int) -> pa.Table:
    """A table of `count` numbered rows. A column of file names that are not all UTF-8 holds bytes."""
    arrays = {name: _array(list(values)) for name, values in columns.items()}
    return pa.table({"row": pa.array(range(count), pa.int64()), **arrays})


def _array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except UnicodeEncodeError:
        return pa.array([None if value is None else os.fsencode(value) for value in values], pa.binary())


def write_columns(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet."""
    with path.open("wb") as file:  # Arrow itself takes only names in UTF-8
        parquet.write_table(table, file)


def read_columns(path: Path, count: int) -> pa.Table:
    """What `columns_table` gave; IndexFilesError if the file is torn or has not `count` rows."""
    try:
        with path.open("rb") as file:
            table = parquet.read_table(file)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IndexFilesError(f"{path} is torn ({first}): build the index again") from error
    if table.num_rows != count or "row" not in table.column_names:
        raise IndexFilesError(f"{path} has {table.num_rows} rows, expected {count}: build the index again")
    return table


def _sha256(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(_CHUNK, size))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest()
