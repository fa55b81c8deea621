"""A store that is finished: values of images by name, read through memory maps."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from randar_features.store.identity import hash_bytes
from randar_features.store.manifest import expected_rows, missing_rows, read_manifest
from randar_features.store.records import OK, absolute
from randar_features.store.shards import find_shards

Rows = Sequence[int] | NDArray[Any] | slice | None


class Store:
    """Values of a collection of images, and what is known of each image.

    Args:
        folder: of the store.

    Attributes:
        folder: as given.
        manifest: what the values are, "label_names", and "parts": the data that were put in, with their first row.
        shards: the files. Their ends are checked when the store is opened, their checksums when they are first read.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: it is not finished, a shard is missing, torn or (when read) damaged, or the manifest is.
    """

    kind: ClassVar[str] = "values"
    made_by: ClassVar[str] = "the command that fills it"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = read_manifest(self.folder, self.kind, self.made_by)
        rows = expected_rows(self.manifest)
        # Later ones belong to an append that began after the manifest was read.
        self.shards = [shard for shard in find_shards(self.folder) if rows is None or shard.rows.start < rows]
        if missing := missing_rows(self.manifest, self.shards):
            runs = ", ".join(f"{run.start} to {run.stop - 1}" for run in missing[:3])
            raise ValueError(
                f"{self.folder} lacks the rows {runs} of {rows or 'a stream'}: run "
                f"{self.made_by} again, which goes on there"
            )
        for shard in self.shards:
            shard.check_ends()
        self._starts = np.array([shard.rows.start for shard in self.shards])

    def __len__(self) -> int:
        return self.shards[-1].rows.stop

    @property
    def names(self) -> list[str]:
        """Of the values."""
        return self.shards[0].names

    @property
    def content(self) -> str:
        """A hash of all that the store holds: it changes when images are added, changed or moved to other classes."""
        names = [shard.path.name for shard in self.shards]
        return hash_bytes(json.dumps([names, self.label_names]).encode())[:16]

    def rows(self, name: str) -> list[np.ndarray]:
        """The values of that name, one memory-mapped array a shard, in the dtype of the store."""
        self.check_name(name)
        return [shard.column(name) for shard in self.shards]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one image's value."""
        self.check_name(name)
        return self.shards[0].column(name).shape[1:]

    def take(
        self, name: str, rows: Rows = None, *, part: NDArray[np.int64] | None = None, dtype: Any = None
    ) -> np.ndarray:
        """Values (n, …) of all images, or of some in that order.

        Args:
            name: of the values.
            rows: see `row_numbers`.
            part: (n,), for each image the index along the first axis of its value; None: the whole value.
            dtype: of the array; None: that of the store.
        """
        self.check_name(name)
        wanted = row_numbers(rows, len(self))
        first = self.shards[0].column(name)
        shape = first.shape[1 if part is None else 2 :]
        values = np.empty((len(wanted), *shape), dtype=first.dtype if dtype is None else dtype)
        owners = np.searchsorted(self._starts, wanted, side="right") - 1
        found = np.unique(owners)
        for owner in found:
            places = slice(None) if len(found) == 1 else np.flatnonzero(owners == owner)
            shard = self.shards[owner]
            own = wanted[places] - shard.rows.start
            column = shard.column(name)
            if column.shape[1:] != first.shape[1:]:
                shapes = f"{name!r} of {column.shape[1:]} an image, others of {first.shape[1:]}"
                raise ValueError(f"{shard.path} holds {shapes}: make the store anew")
            values[places] = column[own] if part is None else column[own, part[places]]
        return values

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(n,), −1 where an image has none."""
        return np.concatenate([shard.labels for shard in self.shards])

    @cached_property
    def paths(self) -> list[str | None]:
        """The file of each image, or None."""
        found: list[str | None] = [path for shard in self.shards for path in shard.paths]
        for part in self.manifest["parts"]:
            if part["root"] is not None:
                rows = slice(part["first"], part["first"] + part["rows"])
                found[rows] = [absolute(path, Path(part["root"])) for path in found[rows]]
        return found

    @cached_property
    def hashes(self) -> list[str]:
        """Of each image's content; "" where it could not be read."""
        return [record.hash for shard in self.shards for record in shard.records]

    @cached_property
    def status(self) -> list[str]:
        """Of each image: "ok" or why it could not be read."""
        return [status for shard in self.shards for status in shard.status]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(n,): the images that could be read."""
        return np.array([status == OK for status in self.status])

    def readable_rows(self) -> NDArray[np.int64]:
        """Rows of the images that could be read; ValueError if there is none."""
        rows = np.flatnonzero(self.ok)
        if not len(rows):
            raise ValueError(f"none of {len(self)} images could be read; the first: {self.status[0]}")
        return rows

    @property
    def unreadable(self) -> list[dict[str, Any]]:
        """Row, path and reason of each image that could not be read."""
        failed = ((row, status) for row, status in enumerate(self.status) if status != OK)
        return [{"row": row, "path": self.paths[row], "reason": status} for row, status in failed]

    @property
    def label_names(self) -> list[str] | None:
        """Names of the classes, or None."""
        return self.manifest["label_names"]

    def verify(self) -> None:
        """Check every byte of every shard now."""
        for shard in self.shards:
            shard.verify()

    def check_name(self, name: str) -> None:
        """ValueError that names what there is, unless the store has values of that name."""
        if name not in self.names:
            raise ValueError(f"no output {name!r} in {self.folder}: expected one of {', '.join(self.names)}")


def row_numbers(rows: Rows, count: int) -> NDArray[np.int64]:
    """Numbers of the rows meant, of `count`.

    Args:
        rows: None for all, a slice, integers from 0 to count − 1, or a mask of `count` booleans.
        count: of all rows.

    Raises:
        IndexError: a number is negative or too large, or a mask has another length.
        TypeError: they are no integers or booleans, such as fractions, or some of each.
    """
    if rows is None:
        return np.arange(count)
    if isinstance(rows, slice):
        return np.arange(count)[rows]
    found = np.asarray(rows)
    if found.ndim != 1:
        raise TypeError(f"rows must be one list of numbers or a mask, got an array of shape {found.shape}")
    if found.dtype == bool:
        if len(found) != count:
            raise IndexError(f"a mask must have one value a row: got {len(found)}, expected {count}")
        return np.flatnonzero(found)
    if not len(found):
        return np.empty(0, np.int64)
    if isinstance(rows, list | tuple) and any(isinstance(row, bool | np.bool_) for row in rows):
        raise TypeError("rows must be integers or a mask of booleans, got some of each")
    if found.dtype.kind not in "iu":
        raise TypeError(f"rows must be integers or a mask of booleans, got {found.dtype}")
    if not 0 <= found.min() <= found.max() < count:
        raise IndexError(f"rows must be 0 to {count - 1}, got {found.min()} to {found.max()}")
    return found.astype(np.int64)
