"""One process at a time writes to a folder; a second one gets an error at once that names the first."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from randar_features.store.files import make_folder, read_json, remove_leftovers, write_json

LOCK = ".lock"
_MOMENT = 0.2  # seconds that another process may need to look whether the lock is held


class FolderLockedError(OSError):
    """Another process writes to the folder."""


@contextmanager
def locked(folder: Path, *, rank: int | None = None, patience: float = 0) -> Iterator[None]:
    """Hold the lock of a folder; it is free again when the block or the process ends, however that ends.

    Args:
        folder: made if it is not there. Its lock is the empty file `.lock`, which stays; readers need no lock.
        rank: of this process in a job of several. Each rank has its own lock, so that two jobs exclude each other.
            None: a single process, which excludes all ranks.
        patience: seconds to wait for another process to end.

    Raises:
        FolderLockedError: another process holds it; the message names the folder, and that process as far as known.
        OSError: the folder cannot be written to.
    """
    make_folder(folder)
    path = _path(folder, rank or 0)
    owner = _owner(path)
    lock = filelock.FileLock(path, timeout=max(patience, _MOMENT), thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise _refusal(folder, path) from error
    try:
        if rank is None and (held := next(filter(_is_held, _paths_of_ranks(folder)), None)) is not None:
            raise _refusal(folder, held)
        remove_leftovers(folder, f"{owner.name}.*")  # of a process that was killed while it wrote its name
        write_json(owner, {"process": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv)[:200]})
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def is_locked(folder: Path, ranks: int) -> bool:
    """Whether one of the first `ranks` processes of a job holds its lock now."""
    return any(_is_held(_path(folder, rank)) for rank in range(ranks))


def turn(folder: Path) -> filelock.BaseFileLock:
    """A lock that the processes of one job hold in turn."""
    return filelock.FileLock(folder / f"{LOCK}-turn")


def _path(folder: Path, rank: int) -> Path:
    return folder / (LOCK if rank == 0 else f"{LOCK}-{rank}")


def _paths_of_ranks(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{LOCK}-*") if path.name.removeprefix(f"{LOCK}-").isdecimal()]


def _owner(path: Path) -> Path:
    return path.with_name(f"{path.name}-owner")


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with filelock.FileLock(path, timeout=0):
            return False
    except filelock.Timeout:
        return True


def _refusal(folder: Path, path: Path) -> FolderLockedError:
    return FolderLockedError(
        f"{folder} is being written by {_name(_owner(path))}: wait until it ends, or give another folder"
    )


def _name(owner: Path) -> str:
    try:
        about = read_json(owner)
        return f"process {about['process']} on {about['host']} ({about['command']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or just ended
        return "another process"
