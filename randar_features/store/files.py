"""Files that are either whole or not there: written aside, synced, renamed."""

import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

ASIDE = ".writing"


def path_to_write(path: str | os.PathLike[str]) -> Path:
    """A file or folder to write as a path.

    ValueError for an empty one, which would be the working directory, and for a home folder as shells name it, which
    would be a folder `~`.
    """
    if not os.fspath(path):
        raise ValueError("an empty path: give the file or folder to write ('.' is the working directory)")
    if (home := os.path.expanduser(path)) != os.fspath(path):
        raise ValueError(f"{os.fspath(path)}: `~` is expanded by shells alone; give {home}")
    return Path(path)


def file_to_write(path: str | os.PathLike[str]) -> Path:
    """A file to write as a path; errors as of `path_to_write`, and IsADirectoryError if it is a folder."""
    file = path_to_write(path)
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder, expected a file to write")
    return file


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

    If the block ends early, even by a kill or a full disk, `path` stays as it was. The temporary file lies beside it,
    is named after this thread (`NAME.ID.writing`), and never follows a link. What is no file to replace, such as a
    pipe or `/dev/stdout`, is written as it is.

    Raises:
        OSError: it cannot be written; the message says how many bytes are free, or which folder is a file.
    """
    if _is_stream(path):
        with path.open("ab") as file:
            yield file
        return
    make_folder(path.parent)
    aside = _aside(path)
    try:
        aside.unlink(missing_ok=True)  # what an earlier thread of the same id left there, a link among it
        with aside.open("xb") as file:
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


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends; FileExistsError if something is there already."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path} is there already: remove it, or give another name")
    make_folder(path.parent)
    aside = _aside(path)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        yield aside
        aside.rename(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _is_stream(path: Path) -> bool:
    """Whether it is a pipe, a device, or a process's open file, as `/dev/stdout` is, wherever that leads."""
    if str(path.parent.resolve()).startswith("/proc/"):
        return True
    if path.is_symlink() and os.readlink(path).startswith("/proc/"):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def _aside(path: Path) -> Path:
    """Where `path` is written first: the id of a thread is that of no other one on the machine."""
    return path.with_name(f"{path.name}.{threading.get_native_id()}{ASIDE}")


def remove_leftovers(folder: Path, pattern: str = "*") -> None:
    """Remove what killed processes left over in `folder`: temporary files named `pattern`.

    Hold the folder's lock: the temporary file of a process that writes now looks the same.
    """
    for path in folder.glob(f"{pattern}{ASIDE}"):
        if path.is_symlink() or path.is_file():
            with suppress(FileNotFoundError):
                path.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all; names that are not UTF-8 are escaped."""
    write_bytes(path, encode_json(content))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file, whole or not at all; errors as of `written_whole`."""
    with written_whole(path) as file:
        file.write(content)


def encode_json(content: Any) -> bytes:
    """Indented JSON in UTF-8. All but ASCII is escaped where a string holds what UTF-8 cannot, such as a file name."""
    try:
        return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(content, indent=2).encode() + b"\n"


def read_object(path: Path, *names: str) -> dict[str, Any]:
    """A JSON file that holds an object with these entries, and maybe others; ValueError that names the file if not."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object with named entries")
    if missing := [name for name in names if name not in content]:
        raise ValueError(f"{path} is damaged or another file: it lacks {', '.join(missing)}")
    return content


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no regular file (a pipe may never end), not JSON, or nested too deeply to be read; the message
            names the file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is no regular file, expected JSON")
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
