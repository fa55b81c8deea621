"""A shard that is being filled; from time to time what it has so far goes to disk as a part."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from randar_features.store.records import OK, Block, Record
from randar_features.store.shards import PIECE, SHARD, Shard, write_shard
from randar_features.store.store import Store

FLUSH_SECONDS = 5.0  # of work that a kill can cost
_EMPTY = Record(None, -1, "")


class OpenShard:
    """Values and records of consecutive rows as they come.

    Args:
        folder: of the store.
        rows: of the shard.

    Attributes:
        wanted: the rows whose images are still to be read, in order.
    """

    def __init__(self, folder: Path, rows: range) -> None:
        self.folder, self.rows = folder, rows
        self.wanted = list(rows)
        self._columns: dict[str, np.ndarray] = {}
        self._records = [_EMPTY] * len(rows)
        self._status = [OK] * len(rows)
        self._pieces: list[Shard] = []
        self._on_disk, self._last = 0, time.monotonic()

    @property
    def done(self) -> int:
        """Number of rows from the first on that are there without a gap."""
        return self.wanted[0] - self.rows.start if self.wanted else len(self.rows)

    @property
    def full(self) -> bool:
        """Whether no image is to be read any more."""
        return not self.wanted

    def add(self, block: Block) -> None:
        """The images of the next wanted rows."""
        rows, self.wanted = self.wanted[: len(block.records)], self.wanted[len(block.records) :]
        self._put(rows, block.columns, block.records, block.status)

    def take(self, shard: Shard, rows: Sequence[int], places: Sequence[int] | None = None) -> None:
        """Rows of another file; `places`: which rows they become here, None: the same."""
        if not rows:
            return
        numbers = [row - shard.rows.start for row in rows]
        columns = {name: shard.column(name)[numbers] for name in shard.names}
        records = shard.records
        here = list(rows if places is None else places)
        self._put(here, columns, [records[number] for number in numbers], [shard.status[number] for number in numbers])
        taken = set(here)
        self.wanted = [row for row in self.wanted if row not in taken]

    def rename(self, records: Mapping[int, Record]) -> None:
        """Give rows another path and label."""
        for row, record in records.items():
            if row in self.rows:
                place = row - self.rows.start
                self._records[place] = record._replace(hash=self._records[place].hash)

    def resume(self, pieces: Sequence[Shard]) -> None:
        """Take over the parts that an earlier run wrote, one after the other from the first row on."""
        for piece in pieces:
            if piece.rows.start == self.rows.start + self._on_disk and piece.rows.stop <= self.rows.stop:
                self.take(piece, piece.rows)
                self._on_disk = piece.rows.stop - self.rows.start
                self._pieces.append(piece)

    def flush(self) -> None:
        """Write what is not on disk yet, if that is some seconds of work."""
        if self.done > self._on_disk and time.monotonic() - self._last >= FLUSH_SECONDS:
            self._pieces.append(self._write(PIECE, self._on_disk, self.done))
            self._on_disk, self._last = self.done, time.monotonic()

    def write(self) -> Shard:
        """Write the shard, of fewer rows where the images ended, and remove its parts."""
        shard = self._write(SHARD, 0, self.done)
        for piece in self._pieces:
            piece.path.unlink(missing_ok=True)
        return shard

    def _put(
        self, rows: Sequence[int], columns: Mapping[str, np.ndarray], records: Sequence[Record], status: Sequence[str]
    ) -> None:
        places = [row - self.rows.start for row in rows]
        for name, values in columns.items():
            if name not in self._columns:
                self._columns[name] = np.zeros((len(self.rows), *values.shape[1:]), dtype=values.dtype)
            self._columns[name][places] = values
        for place, record, text in zip(places, records, status, strict=True):
            self._records[place], self._status[place] = record, text

    def _write(self, kind: str, start: int, stop: int) -> Shard:
        columns = {name: values[start:stop] for name, values in self._columns.items()}
        first = self.rows.start + start
        return write_shard(self.folder, first, columns, self._records[start:stop], self._status[start:stop], kind)


class Reuse:
    """Values of images that other stores of the same content have."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self._places: dict[str, tuple[Shard, int]] = {}
        for store in stores:
            for shard in store.shards:
                for row, record, status in zip(shard.rows, shard.records, shard.status, strict=True):
                    if status == OK:
                        self._places[record.hash] = (shard, row)

    def fill(self, shard: OpenShard, records: Mapping[int, Record]) -> None:
        """Put the values of known images among `records`, by row, into the shard."""
        found: dict[Path, tuple[Shard, list[int], list[int]]] = {}
        for row, record in records.items():
            if (place := self._places.get(record.hash)) is not None:
                _, theirs, ours = found.setdefault(place[0].path, (place[0], [], []))
                theirs.append(place[1])
                ours.append(row)
        for other, theirs, ours in found.values():
            shard.take(other, theirs, ours)
        shard.rename({row: records[row] for _, _, ours in found.values() for row in ours})
