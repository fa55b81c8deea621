"""The identity of an image is a hash of its content: a renamed file keeps it, an overwritten file gets another.

Hashes of files are kept between runs by size, times and inode, as git keeps them, in `cache_file()`.
"""

import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from PIL import Image

from randar_features.store.files import make_folder

UNREADABLE = ""  # the hash of what cannot be read
# A file that changed within this time before it was hashed is not remembered: it may change again and keep its time.
RACY_NS = 2_000_000_000
_SQLITE_LARGEST = (1 << 63) - 1


class State(NamedTuple):
    """What tells whether a file is as it was when it was hashed."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int


def hash_bytes(*content: bytes | bytearray | memoryview) -> str:
    """32 hexadecimal digits (xxh3, 128 bit) of the bytes, one after the other."""
    digest = xxhash.xxh3_128()
    for part in content:
        digest.update(part)
    return digest.hexdigest()


def hash_file(path: str | os.PathLike[str]) -> str:
    """Hash of a file's bytes; OSError if it cannot be read or is no ordinary file, such as a pipe."""
    # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{os.fspath(path)} is no ordinary file")
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def hash_image(image: Any) -> str:
    """Hash of an image in any form: a path, encoded bytes, a Pillow image, an array or a tensor.

    In memory, all bytes, dtype and shape count. `UNREADABLE` for a file that cannot be read, and for what is no image.
    """
    if isinstance(image, str | os.PathLike):
        try:
            return hash_file(image)
        except (OSError, ValueError):  # ValueError: a null byte in the name
            return UNREADABLE
    if isinstance(image, bytes | bytearray | memoryview):
        return hash_bytes(image)
    if isinstance(image, Image.Image):
        return _hash_picture(image)
    return _hash_array(image)


def _hash_picture(image: Image.Image) -> str:
    try:
        palette = image.getpalette("RGBA") if image.mode in ("P", "PA") else None
        # Orientation and transparency decide the pixels too, and are not among the bytes.
        about = f"{image.mode} {image.size} {palette} {image.info.get('transparency')} {_metadata(image)}"
        return hash_bytes(about.encode("utf-8", "backslashreplace"), image.tobytes())
    except (OSError, ValueError, SyntaxError, EOFError):
        return UNREADABLE


def _metadata(image: Image.Image) -> Any:
    try:
        return dict(image.getexif())
    except Exception:  # damaged, which does not spoil the pixels
        return image.info.get("exif")


def _hash_array(image: Any) -> str:
    try:
        array = image.detach().cpu() if hasattr(image, "detach") else image
        dtype = str(getattr(array, "dtype", ""))
        # NumPy has no bfloat16; float32 holds its values exactly.
        values = np.ascontiguousarray(np.asarray(array.float() if dtype == "torch.bfloat16" else array))
    except (TypeError, ValueError, RuntimeError):
        return UNREADABLE
    if values.dtype.kind not in "biuf":
        return UNREADABLE
    about = f"{dtype if dtype == 'torch.bfloat16' else values.dtype.str} {values.shape}"
    return hash_bytes(about.encode(), values.reshape(-1).view(np.uint8).data)


# Hashes of files, kept between runs


def cache_file() -> Path:
    """Where hashes of files are kept: `hashes.sqlite` in RANDAR_CACHE, else in ~/.cache/randar_features.

    XDG_CACHE_HOME takes the place of ~/.cache. The file may be removed at any time.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("RANDAR_CACHE") or Path(home) / "randar_features") / "hashes.sqlite"


def hash_files(paths: Sequence[str]) -> list[str]:
    """Hash of each file, from the cache where neither its size nor its times nor its inode have changed.

    `UNREADABLE` for those that cannot be read. Without a usable cache all files are read.
    """
    kept, began = read_cache(paths), time.time_ns()
    hashes: dict[str, str] = {}
    fresh: dict[str, str] = {}
    for path in paths:
        state, known = file_state(path), kept.get(path)
        if state is None:
            hashes[path] = UNREADABLE
        elif known is not None and known[0] == state:
            hashes[path] = known[1]
        else:
            hashes[path] = fresh[path] = hash_image(path)
    remember_files(fresh, began)
    return [hashes[path] for path in paths]


def file_state(path: str) -> State | None:
    """Size, times and inode of an ordinary file; None of anything else."""
    try:
        about = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(about.st_mode):
        return None
    return State(about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino & _SQLITE_LARGEST)


def remember_files(hashes: Mapping[str, str], since_ns: int) -> None:
    """Remember hashes that were computed after `since_ns`, of the files that have not changed since then."""
    fresh = {}
    for path, found in hashes.items():
        state = file_state(path)
        if state is None or found == UNREADABLE:
            continue
        if max(state.modified_ns, state.changed_ns) < since_ns - RACY_NS:
            fresh[path] = (state, found)
    write_cache(fresh)


_COLUMNS = "size, modified, changed, inode, hash"


def read_cache(paths: Iterable[str]) -> dict[str, tuple[State, str]]:
    """State and hash of the files that the cache knows."""
    if not cache_file().exists():
        return {}
    found = {}
    try:
        with _database() as database:
            keys = {os.fsencode(path): path for path in paths}
            names = list(keys)
            for start in range(0, len(names), 500):
                part = names[start : start + 500]
                query = f"SELECT path, {_COLUMNS} FROM files WHERE path IN ({','.join('?' * len(part))})"
                for key, *state, digest in database.execute(query, part):
                    found[keys[key]] = (State(*state), str(digest))
    except (sqlite3.Error, OSError, TypeError):
        return {}
    return found


def write_cache(fresh: Mapping[str, tuple[State, str]]) -> None:
    """Add these to the cache, or do without it where it cannot be written; a damaged one is removed."""
    if not fresh:
        return
    try:
        with _database() as database, database:
            values = ((os.fsencode(path), *state, digest) for path, (state, digest) in fresh.items())
            database.executemany(f"INSERT OR REPLACE INTO files (path, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", values)
    except sqlite3.OperationalError:  # locked by another process, or a disk that is full or read-only
        return
    except sqlite3.DatabaseError:
        cache_file().unlink(missing_ok=True)
    except OSError:
        return


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    path = cache_file()
    make_folder(path.parent)
    with closing(sqlite3.connect(path, timeout=5)) as database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER, modified INTEGER, "
            "changed INTEGER, inode INTEGER, hash TEXT) WITHOUT ROWID"
        )
        yield database
