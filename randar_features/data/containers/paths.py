"""Paths that users give and files hold: what lies there, what may be read, and the words of a failure."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from randar_features.data.decode.formats import GIT_LFS, HEAD_BYTES
from randar_features.store.records import printable

URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
MAX_REASON = 300  # characters of a foreign exception's text that a message quotes


def one_line(error: BaseException) -> str:
    """The text of an exception in one short line, with its type if the text alone says little."""
    text = " ".join(str(error).split())
    text = text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"
    if isinstance(error, (OSError, RuntimeError, ValueError)) and not isinstance(error, (UnicodeError, RecursionError)):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Whatever fails in the block becomes one line that names the file.

    Raises:
        OSError: as it came, where it names the file.
        ValueError: anything else: `path` is damaged, or is no file of this kind.
    """
    try:
        yield
    except Exception as error:  # readers of damaged files raise nearly anything
        told = isinstance(error, (OSError, ValueError)) and str(path) in str(error)
        if told and type(error).__module__ == "builtins":
            raise
        raise ValueError(f"{printable(path)} cannot be read as {kind}: {one_line(error)}") from error


def head_of(path: Path) -> bytes:
    """The first bytes of a file; OSError if it cannot be opened."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def check_file(path: Path) -> None:
    """See that `path` is a regular file that is there itself.

    Raises:
        ValueError: it is a pipe, a socket or a device, which may never end, or a pointer of Git LFS.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"{printable(path)} is {kind_of_mode(mode)}, expected a file")
    if head_of(path).startswith(GIT_LFS):
        raise ValueError(f"{printable(path)} is a Git LFS pointer, not the file itself: fetch that with `git lfs pull`")


def kind_of_mode(mode: int) -> str:
    """What a file that is no regular one is, in words."""
    kinds = {
        stat.S_IFIFO: "a pipe (FIFO)",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFDIR: "a folder",
    }
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def is_url(text: str) -> bool:
    """Whether it is an address on the network."""
    return URL.match(text) is not None


def confined(text: str, folder: Path) -> Path:
    """The file that an entry of a list or table in `folder` names, which must lie in that folder, links followed.

    In the Hugging Face Hub's cache, where the files are links to blobs, the folder is the data set's whole cache.

    Raises:
        ValueError: it is a URL, or leads out of the folder.
    """
    if is_url(text):
        raise ValueError(f"{printable(text)} is a URL: download it, and name the file")
    if "\0" in text or not text:
        raise ValueError(f"{printable(text)!r} is no name of a file")
    path = Path(os.path.normpath(folder.absolute() / text))
    if not path.is_relative_to(os.path.normpath(folder.absolute())):
        raise ValueError(
            f"'{printable(text)}' leads out of {printable(folder)}: a list or table names files of its own folder. "
            "Move it beside the images, or pass a list of paths in Python"
        )
    found, root = folder / path.relative_to(os.path.normpath(folder.absolute())), folder.resolve()
    if "snapshots" in root.parts and root.parts[root.parts.index("snapshots") - 1].startswith("datasets--"):
        root = Path(*root.parts[: root.parts.index("snapshots")])
    try:
        target = found.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise ValueError(f"'{printable(text)}' cannot be followed: {one_line(error)}") from error
    if not target.is_relative_to(root):
        raise ValueError(
            f"'{printable(text)}' is a link that leads out of {printable(folder)}: a list or table names files of "
            "its own folder. Copy them there, or pass a list of paths in Python"
        )
    return found
