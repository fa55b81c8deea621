"""What a store holds before a run, and what the run adds."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from randar_features.store.identity import UNREADABLE
from randar_features.store.manifest import Manifest, layout, root_of, rows_of
from randar_features.store.records import OK, Record, absolute, printable, within
from randar_features.store.shards import Shard, find_newest

_SHOWN = 3


class OtherImagesError(ValueError):
    """A store is of other images than those given; `difference` says which, without the ways out."""

    def __init__(self, difference: str) -> None:
        super().__init__(f"{difference}. {_WAYS_OUT}")
        self.difference = difference


_WAYS_OUT = "Give another folder, remove that one to make it again, or bring it up to date with append (--append)"


class Present(NamedTuple):
    """A row that the store has."""

    record: Record
    readable: bool


class State:
    """What is there before a run."""

    def __init__(self, folder: Path, manifest: Manifest, shards: list[Shard]) -> None:
        self.folder, self.manifest, self.shards = folder, manifest, shards
        self.present: dict[int, Present] = {}
        for shard in shards:
            for row, record, status in zip(shard.rows, shard.records, shard.status, strict=True):
                self.present[row] = Present(record, status == OK)

    def path(self, row: int) -> str | None:
        """The whole path of a row's image."""
        return absolute(self.present[row].record.path, root_of(self.manifest, row))

    def stop(self, part: Mapping[str, Any]) -> int:
        """The row after the last one of a part that is there."""
        last = part is self.manifest["parts"][-1]
        limit = float("inf") if last or part["rows"] is None else part["first"] + part["rows"]
        return max((row + 1 for row in self.present if part["first"] <= row < limit), default=part["first"])

    def complete(self, part: Mapping[str, Any]) -> bool:
        """Whether all rows of a part are there."""
        return part["rows"] is not None and all(row in self.present for row in rows_of(part))

    def lost(self, part: Mapping[str, Any]) -> ValueError:
        """The error for an earlier part that is not complete, and whose rows the images given do not make."""
        return ValueError(
            f"{self.folder} lacks rows of {part['data']}, which cannot be told among the images given: "
            "run what made it with the images that it was made of, then append"
        )

    def drop(self, shards: Sequence[Shard]) -> None:
        """Remove these shards from the store."""
        for shard in shards:
            shard.path.unlink(missing_ok=True)
            for row in shard.rows:
                self.present.pop(row, None)
        self.shards = [shard for shard in self.shards if shard not in shards]

    def fit(self) -> None:
        """Remove the shards that do not begin and end where the manifest now says; their images are read again."""
        parts, size = self.manifest["parts"], self.manifest["shard_rows"]
        wanted = {rows for part in parts for rows in layout(part, size)}
        open_from = parts[-1]["first"] if parts[-1]["rows"] is None else sys.maxsize
        self.drop([each for each in self.shards if each.rows not in wanted and each.rows.start < open_from])

    def close(self) -> None:
        """End the last part before its first missing row; an empty part is removed."""
        part = self.manifest["parts"][-1]
        stop = part["first"]
        while stop in self.present:
            stop += 1
        self.drop([shard for shard in self.shards if shard.rows.start >= stop])
        part["rows"] = stop - part["first"]
        if part["rows"] == 0:
            self.manifest["parts"].pop()


@dataclass
class Plan:
    """What a run adds to a store.

    Attributes:
        manifest: of the store as it will be.
        shards: the existing ones that are whole.
        first: the row of the first image below.
        images: for each row from `first` on, the number of its image in the source; None: the images are a stream.
        redo: numbers in the source of images that are read again, by row.
        renamed: new path and label of rows whose image has moved, by row.
        known: keys of the images that other parts have; those of a stream are passed over.
    """

    manifest: Manifest
    shards: list[Shard]
    first: int
    images: Sequence[int] | None
    redo: dict[int, int] = field(default_factory=dict)
    renamed: dict[int, Record] = field(default_factory=dict)
    known: set[tuple[str | None, int]] = field(default_factory=set)

    @property
    def length(self) -> int | None:
        """Number of rows from `first` on; None of a stream whose length is not known."""
        return self.part["rows"] if self.images is None else len(self.images)

    def missing(self) -> list[range]:
        """The rows of each shard that is to be made, in order; of a stream whose length is not known, none."""
        have = {shard.rows.start for shard in self.shards}
        wanted = range(self.first, self.first + (self.length or 0))
        return [
            rows
            for part in self.manifest["parts"]
            for rows in layout(part, self.manifest["shard_rows"])
            if rows.start not in have and rows.start in wanted
        ]

    def placed(self, records: Sequence[Record], given: Path | None, row: int) -> list[Record]:
        """Records whose paths begin at `given`; their paths then begin at the root of the part of `row`."""
        root = root_of(self.manifest, row)
        paths = [None if root == given else absolute(record.path, given) for record in records]
        return [
            record if path is None else record._replace(path=within(path, root))
            for record, path in zip(records, paths, strict=True)
        ]

    @property
    def part(self) -> dict[str, Any]:
        """The part of the manifest that begins at `first`."""
        return next(part for part in self.manifest["parts"] if part["first"] == self.first)


def intact_shards(folder: Path) -> list[Shard]:
    """The shards that are whole, each read once; others are named in a warning and removed."""
    intact = []
    shards, old = find_newest(folder)
    for path in old:
        path.unlink(missing_ok=True)
    for shard in shards:
        try:
            _ = shard.batch
            intact.append(shard)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=4)
            shard.path.unlink(missing_ok=True)
    return intact


def same_image(held: Record, given: Record) -> bool:
    """Whether two records are of one image: equal content and label, or, of unreadable images, one path."""
    if held.hash == given.hash == UNREADABLE:
        return held.path == given.path
    return (held.hash, held.label) == (given.hash, given.label)


def matches(held: Present, record: Record, lenient: bool) -> bool:
    """Whether a row holds this image; with `lenient`, a row whose image could not be read takes any."""
    return (lenient and not held.readable) or same_image(held.record, record)


def named(names: Sequence[str]) -> str:
    """The first of these names, and how many more there are."""
    shown = ", ".join(map(printable, names[:_SHOWN]))
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def grouped(groups: Mapping[str, Sequence[str]]) -> str:
    """How many names each group has, and the first of them; groups without names are left out."""
    return "; ".join(f"{len(names)} {what} ({named(names)})" for what, names in groups.items() if names)
