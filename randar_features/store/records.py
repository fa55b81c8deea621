"""What a store knows of each image: where it came from, its class, and the hash of its content."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, Self
from urllib.parse import quote, unquote_to_bytes

import numpy as np

OK = "ok"
NO_LABEL = -1  # as `datasets` writes it
_ESCAPED = "bytes:"


class Record(NamedTuple):
    """An image of a store or of a source.

    Attributes:
        path: its file, relative to the root of its data where there is one; None: it came without a name.
        label: its class, −1 where it has none.
        hash: of its content, see `store.identity`.
    """

    path: str | None
    label: int
    hash: str


@dataclass(frozen=True)
class Block:
    """Some images as they are put into a store.

    Attributes:
        columns: values by name, (b, …) each.
        records: of each image.
        status: "ok" of each image, or why it could not be read.
    """

    columns: Mapping[str, np.ndarray]
    records: list[Record]
    status: list[str]


class Source(Protocol):
    """Images that a store can be made of."""

    @property
    def length(self) -> int | None:
        """Number of images; None of a stream that cannot tell."""

    @property
    def streamed(self) -> bool:
        """Whether the images can only be read one after the other."""

    @property
    def label_names(self) -> list[str] | None:
        """Name of each class, or None."""

    @property
    def root(self) -> Path | None:
        """The folder, resolved, that relative paths of records begin at."""

    def records(self) -> list[Record]:
        """Of all images, in order; a stream has none."""

    def read(self, runs: Iterator[Sequence[int]]) -> Iterator[Block]:
        """The images of those numbers, in order; no block reaches from one run into the next."""


class Stream(Source, Protocol):
    """A source whose `streamed` is true."""

    def picked(self, wanted: Callable[[Record], bool]) -> Self:
        """Only the wanted images, numbered anew; `wanted` is called for each in order, before it is decoded."""


def absolute(path: str | None, root: Path | None) -> str | None:
    """The path of a record, from its root."""
    return path if path is None or root is None else os.path.join(root, path)


def within(path: str, root: Path | None) -> str:
    """The path from the root on, if it lies there."""
    return path.removeprefix(os.path.join(root, "")) if root is not None else path


def escape(text: str) -> str:
    """A path as UTF-8 can hold it: itself, or, where it is not UTF-8, "bytes:" and its bytes, percent-encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _ESCAPED + quote(os.fsencode(text))
    return _ESCAPED + quote(text) if text.startswith(_ESCAPED) else text


def unescape(text: str) -> str:
    """What `escape` was given."""
    return os.fsdecode(unquote_to_bytes(text.removeprefix(_ESCAPED))) if text.startswith(_ESCAPED) else text


def printable(text: str | bytes | os.PathLike[str]) -> str:
    """Text for a message: control characters and bytes that are not UTF-8 are shown as escapes."""
    text = os.fsdecode(text)
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "|<>[]`"})


def markdown_text(text: str) -> str:
    """A name of any kind, such as a file's, that Markdown shows as it is and takes for no cell, HTML or link."""
    return printable(text).translate(_MARKDOWN)
