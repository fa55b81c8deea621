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


class FolderLockedError(OSError):
    """Another process writes to the folder."""


@contextmanager
def locked(folder: Path, *, rank: int = 0, patience: float = 0) -> Iterator[None]:
    """Hold the lock of a folder; it is free again when the block or the process ends, however that ends.

    Args:
        folder: made if it is not there. Its lock is the empty file `.lock`, which stays; readers need no lock.
        rank: of this process among those that share one job; each rank has a lock of its own, so that the processes
            of one job go together and those of two jobs do not.
        patience: seconds to wait for another process to end; none: it is refused at once.

    Raises:
        FolderLockedError: another process holds it; the message names the folder, and that process as far as known.
        OSError: the folder cannot be written to.
    """
    make_folder(folder)
    path = folder / (LOCK if rank == 0 else f"{LOCK}-{rank}")
    owner = path.with_name(f"{path.name}-owner")
    lock = filelock.FileLock(path, timeout=patience, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise FolderLockedError(
            f"{folder} is being written by {_name(owner)}: wait until it ends, or give another folder"
        ) from error
    try:
        remove_leftovers(folder, f"{owner.name}.*")  # of a process that was killed while it wrote its name
        write_json(owner, {"process": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv)[:200]})
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _name(owner: Path) -> str:
    try:
        about = read_json(owner)
        return f"process {about['process']} on {about['host']} ({about['command']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or just ended
        return "another process"
