"""Files that are either whole or not there: written aside, synced, renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

ASIDE = ".writing"


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, unless they are there; OSError that says so if one of them is a file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        raise type(error)(f"{file} is a file, expected a folder: give another name, or move it") from error


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends.

    Whatever ends the block early, a kill or a full disk among it, leaves at `path` what was there before.

    Raises:
        OSError: it cannot be written; the message says how many bytes are free, or which folder is a file.
    """
    make_folder(path.parent)
    aside = path.with_name(path.name + ASIDE)
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        # PyTorch's zip writer turns a write that failed into a RuntimeError, and keeps the cause as context.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        free = shutil.disk_usage(path.parent).free
        raise OSError(f"could not write {path} ({cause}); {free} bytes are free there") from error


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with written_whole(path) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Content of a JSON file; FileNotFoundError, or ValueError that names the file if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
