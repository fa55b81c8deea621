"""The folder of an index: versioned files, and a manifest that names them, written last.

`manifest.json` is a finished index, `building.json` how far a building has come. Both name the files that
hold their state, so that a kill at any moment leaves one state or the other whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

MANIFEST, BUILDING = "manifest.json", "building.json"
FORMAT = 1
_CHUNK = 1 << 22


class IndexFilesError(ValueError):
    """A file of an index is missing, torn or changed, or the folder holds none."""


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a file aside, which then takes the place of `path`: whole or not at all."""
    aside = path.with_name(path.name + ".writing")
    write(aside)
    _sync(aside)
    aside.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_state(folder: Path, name: str, state: dict[str, Any]) -> None:
    """Write MANIFEST or BUILDING, then remove every file of the folder that neither of them names."""
    text = json.dumps(state, indent=2, ensure_ascii=False) + "\n"
    replace_file(folder / name, lambda path: path.write_text(text, encoding="utf-8"))
    if name == MANIFEST:
        (folder / BUILDING).unlink(missing_ok=True)
    states = [found for kind in (MANIFEST, BUILDING) if (found := read_state(folder, kind)) is not None]
    used = {file["name"] for found in states for file in found["files"].values()}
    for path in folder.iterdir():
        if path.name not in used | {MANIFEST, BUILDING} and path.name.startswith(PREFIXES):
            path.unlink()


PREFIXES = ("index-", "vectors-", "normalization-", "columns-")


def read_state(folder: Path, name: str) -> dict[str, Any] | None:
    """A manifest; None if it is not there. IndexFilesError if it cannot be read."""
    path = folder / name
    if not path.exists():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IndexFilesError(f"{path} is not valid JSON ({error}): remove the folder and build it again") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise IndexFilesError(f"{path} is no manifest of an index of format {FORMAT}: build it again")
    return state


def file_record(path: Path, size: int | None = None) -> dict[str, Any]:
    """Name, bytes and checksum of the first `size` bytes of a file (None: of all), for the manifest."""
    size = path.stat().st_size if size is None else size
    return {"name": path.name, "bytes": size, "sha256": _sha256(path, size)}


def check_files(folder: Path, state: dict[str, Any]) -> None:
    """IndexFilesError that names the first file that is missing, too short, or not what was written."""
    for record in state["files"].values():
        path = folder / record["name"]
        size = path.stat().st_size if path.exists() else None
        if size is None or size < record["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes of {record['bytes']}"
            raise IndexFilesError(f"{path} {found}: build the index again")
        if _sha256(path, record["bytes"]) != record["sha256"]:
            raise IndexFilesError(
                f"{path} has changed since it was written (its SHA-256 is not {record['sha256'][:12]}…): "
                "remove the folder and build the index again, or copy it again from where it is whole"
            )


def _sha256(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(_CHUNK, size))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest()
