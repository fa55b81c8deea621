"""Filling a store: shard by shard, so that a killed run loses some seconds of work, and ends with the same bytes."""

from __future__ import annotations

import math
import operator
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
from tqdm.auto import tqdm

from randar_features.store.files import remove_leftovers
from randar_features.store.lock import is_locked, locked, turn
from randar_features.store.manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    check_content,
    check_foreign,
    check_format,
    missing_rows,
    new_part,
    read_manifest,
    write_manifest,
)
from randar_features.store.plan import make_plan
from randar_features.store.records import OK, Block, Record, Source, Stream
from randar_features.store.shards import PIECE, SHARD, Shard, find_shards, write_shard
from randar_features.store.state import Plan, State, intact_shards, same_image
from randar_features.store.store import Store
from randar_features.store.streams import Comparison

POLL = 0.2
FLUSH_SECONDS = 5.0  # of work that a kill can cost
PATIENCE = 600.0  # seconds without a new shard until a process looks whether another one is at work
_END = "end-"  # and the row after the last one of a stream, as a process has found
_EMPTY = Record(None, -1, "")


def rank_and_ranks() -> tuple[int, int]:
    """The number of this process and the number of all, as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def in_time(deadline: float | None) -> bool:
    """Whether `time.monotonic` has not come to the deadline yet; there is time for ever if that is None."""
    return deadline is None or time.monotonic() < deadline


@dataclass(frozen=True, kw_only=True)
class StoreWriter:
    """Fills the store in a folder, goes on with one that is not finished, or leaves one that is.

    A shard that is damaged is named in a warning and made again. A kill costs some seconds of work.

    Args:
        folder: of the store; its lock is held while it is written.
        kind: the class of what it holds, which says the command that makes it.
        content: what decides the values, as JSON; a store of other content is refused.
        shard_rows: images a file.
        data: name of the images, for the record.
        append: images that the store does not have are added; changed ones are read again, moved ones renamed.
        retry: images that could not be read are read again.
        rank: this process among `world_size` that share the work; each makes its own shards.
        world_size: number of processes.
        deadline: no shard is begun when `time.monotonic` has come there.
        reuse: stores of the same content, whose values are taken for images that they have.
        patience: seconds to wait for another process that writes to the folder.
        progress: name of the progress bar; None: no bar.
    """

    folder: Path
    kind: type[Store]
    content: Mapping[str, Any]
    shard_rows: int
    data: str = ""
    append: bool = False
    retry: bool = False
    rank: int = 0
    world_size: int = 1
    deadline: float | None = None
    reuse: Sequence[Store] = ()
    patience: float = 0
    progress: str | None = None

    def fill(self, source: Source) -> bool:
        """Put the images of `source` into the store. Returns whether all shards are there, also of other processes.

        Raises:
            ValueError: the folder holds values of other content or of other images, which are named.
            FolderLockedError: another process writes to it.
        """
        if self.shard_rows < 1:
            raise ValueError(f"shard_size={self.shard_rows}, expected at least 1 image")
        if source.root is not None and source.root == self.folder.resolve():
            raise ValueError(f"{self.folder} holds the images themselves: give another folder to write to")
        check_format(self.folder, self.kind.made_by)
        check_foreign(self.folder)
        if self._begun():
            check_content(self.folder, self._manifest(), self._settings)
        with self._locked():
            if self.world_size == 1:
                remove_leftovers(self.folder)
            with self._turn():
                plan = self._plan(source)
                self._redo(plan, source)
            if in_time(self.deadline):
                self._make(plan, source)
            with self._turn():
                whole = self._finish(plan)
        if not self.append or plan.first >= plan.manifest["parts"][-1]["first"] or not in_time(self.deadline):
            return whole
        self.wait(plan.first + (plan.length or 0))  # rows that an earlier part had lost; other images follow
        return self.fill(source)

    def clear(self) -> None:
        """Remove the store's own files, and nothing else.

        FolderLockedError: another process writes to it.
        """
        with self._locked():
            for path in (*self.folder.glob(f"{SHARD}-*.arrow"), *_remains(self.folder)):
                path.unlink(missing_ok=True)
            (self.folder / MANIFEST).unlink(missing_ok=True)

    def wait(self, stop: float = math.inf) -> None:
        """Wait until the other processes have made their shards, of the rows before `stop`.

        TimeoutError: there are rows that none has made, and no process is at work any more.
        """
        before, since = None, time.monotonic()
        while missing := self._missing_before(stop):
            if missing != before:
                before, since = missing, time.monotonic()
            elif time.monotonic() - since >= PATIENCE:
                if not is_locked(self.folder, self.world_size):
                    raise TimeoutError(
                        f"{self.folder} lacks the rows {missing[0].start} to {missing[0].stop - 1}, and none of the "
                        f"{self.world_size} processes is at work: see why one ended or never began, and start all "
                        "again, which goes on there"
                    )
                since = time.monotonic()
            time.sleep(POLL)

    def _missing_before(self, stop: float) -> list[range]:
        return [rows for rows in missing_rows(self._manifest(), find_shards(self.folder)) if rows.start < stop]

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.folder, rank=None if self.world_size == 1 else self.rank, patience=self.patience)

    def _turn(self) -> AbstractContextManager[object]:
        """The lock under which processes that share the work read and change the manifest and the shards."""
        return turn(self.folder) if self.world_size > 1 else nullcontext()

    # What is to be done

    def _manifest(self) -> Manifest:
        return read_manifest(self.folder, self.kind.kind, self.kind.made_by)

    def _begun(self) -> bool:
        """Whether there are values of images; a manifest alone holds nothing that could be lost."""
        return (self.folder / MANIFEST).exists() and any(find_shards(self.folder, kind) for kind in (SHARD, PIECE))

    @property
    def _settings(self) -> dict[str, Any]:
        return {**self.content, "shard_rows": operator.index(self.shard_rows)}

    def _plan(self, source: Source) -> Plan:
        if self._begun():
            manifest = self._manifest()
            check_content(self.folder, manifest, self._settings)
        else:
            manifest = {"format": FORMAT, "kind": self.kind.kind, **self._settings, "label_names": source.label_names}
            manifest["parts"] = [new_part(source, self.data, 0)]
        plan = make_plan(self.folder, manifest, source, self.data, append=self.append, retry=self.retry)
        write_manifest(self.folder, manifest)
        return plan

    def _missing(self, plan: Plan) -> Iterator[range]:
        """The rows of this process's shards that are to be made; of a stream of unknown length, without end."""
        size, have = self.shard_rows, {shard.rows.start: shard for shard in plan.shards}
        if plan.length is not None:
            firsts = [part["first"] for part in plan.manifest["parts"]]
            for rows in plan.missing():
                first = max(first for first in firsts if first <= rows.start)
                if (rows.start - first) // size % self.world_size == self.rank:
                    yield rows
            return
        limit = self._limit()
        for number, start in enumerate(count(plan.first, size)):
            shard = have.get(start)
            if (limit is not None and start >= limit) or (shard is not None and len(shard.rows) < size):
                return
            if shard is None and number % self.world_size == self.rank:
                yield range(start, start + size)

    # Making shards

    def _make(self, plan: Plan, source: Source) -> None:
        """Write a shard for each run of missing rows, until the images or the time end."""
        total = None if plan.length is None else sum(map(len, self._missing(plan)))
        pieces = self._pieces(plan, source)
        comparison = Comparison(self.folder, plan, pieces, total == 0) if source.streamed else None
        if comparison is not None:
            source = cast(Stream, source).picked(comparison.wants)
        elif total == 0:
            return
        pending: deque[OpenShard] = deque()
        runs = iter([range(1)]) if total == 0 else self._runs(plan, source, pieces, pending)
        blocks = source.read(runs)
        with tqdm(total=total, desc=self.progress, unit="image", disable=self.progress is None) as bar:
            for block in blocks:
                self._write_full(pending)  # of images that were all there in parts or in another store
                pending[0].add(block)
                bar.update(len(block.records))
                if not pending[0].full:
                    pending[0].flush()
                    continue
                self._write_full(pending)
                if not in_time(self.deadline):
                    return
        self._write_full(pending)
        if comparison is not None and (pending or total == 0):
            comparison.end()
        if pending:  # the end of a stream
            if pending[0].done:
                pending[0].write()
            (self.folder / f"{_END}{pending[0].rows.start + pending[0].done:09d}").touch()

    def _open(self, plan: Plan, source: Source, rows: range) -> OpenShard:
        return OpenShard(self.folder, rows, partial(plan.placed, given=source.root, row=rows.start))

    @staticmethod
    def _write_full(pending: deque[OpenShard]) -> None:
        while pending and pending[0].full:
            pending.popleft().write()

    def _runs(
        self, plan: Plan, source: Source, pieces: Sequence[Shard], pending: deque[OpenShard]
    ) -> Iterator[Sequence[int]]:
        """For each missing shard, the numbers in the source of the images that are still to be read."""
        reuse = Reuse(self.reuse) if self.reuse and plan.images is not None else None
        for rows in self._missing(plan):
            shard = self._open(plan, source, rows)
            shard.resume(pieces)
            if reuse is not None and plan.images is not None:
                records = source.records()
                reuse.fill(shard, {row: records[plan.images[row - plan.first]] for row in shard.wanted})
            pending.append(shard)
            if not shard.wanted:
                continue
            if plan.images is None:
                yield range(shard.wanted[0] - plan.first, rows.stop - plan.first)
            else:
                yield [plan.images[row - plan.first] for row in shard.wanted]

    def _pieces(self, plan: Plan, source: Source) -> list[Shard]:
        """Parts of shards that a killed run left, of the images given; the others are removed."""
        found = find_shards(self.folder, PIECE)
        if self.world_size > 1:  # another process may be writing the others
            own = list(self._missing(plan)) if found and plan.images is not None else []
            found = [piece for piece in found if any(piece.rows.start in rows for rows in own)]
        records = source.records() if found and plan.images is not None else []
        kept = []
        for piece in found:
            if self._is_of(piece, plan, records):
                kept.append(piece)
            else:
                piece.path.unlink(missing_ok=True)
        return kept

    @staticmethod
    def _is_of(piece: Shard, plan: Plan, records: Sequence[Record]) -> bool:
        try:
            held = piece.records
        except ValueError as error:
            warnings.warn(str(error), stacklevel=6)
            return False
        if plan.images is None:
            return piece.rows.start >= plan.first
        numbers = range(piece.rows.start - plan.first, piece.rows.stop - plan.first)
        if numbers.start < 0 or numbers.stop > len(plan.images):
            return False
        given = (records[plan.images[number]] for number in numbers)
        return all(same_image(a, b) for a, b in zip(held, given, strict=True))

    def _redo(self, plan: Plan, source: Source) -> None:
        """Write the shards again whose images changed or moved, and remove the old files.

        The first of several processes does it; the others then find nothing to change.
        """
        for number, shard in enumerate(plan.shards):
            again = [row for row in shard.rows if row in plan.redo]
            if not again and not any(row in plan.renamed for row in shard.rows):
                continue
            opened = self._open(plan, source, shard.rows)
            opened.take(shard, [row for row in shard.rows if row not in plan.redo])
            if again:
                for block in source.read(iter([[plan.redo[row] for row in again]])):
                    opened.add(block)
            opened.rename(plan.renamed)
            new = opened.write()
            if new.path != shard.path:
                shard.path.unlink(missing_ok=True)
            plan.shards[number] = new

    # The end

    def _limit(self) -> int | None:
        """The row after the last one of a stream, once a process has reached its end; else None."""
        return min((int(path.name.removeprefix(_END)) for path in self.folder.glob(f"{_END}*")), default=None)

    def _finish(self, plan: Plan) -> bool:
        manifest, shards = self._manifest(), find_shards(self.folder)
        part, limit = manifest["parts"][-1], self._limit()
        if part["rows"] is None and limit is not None:
            stop = max((shard.rows.stop for shard in shards), default=0)
            known = [shard for shard in shards if shard.rows.start >= part["first"]]
            whole = sum(len(shard.rows) for shard in known) == stop - part["first"]
            short = bool(known) and len(known[-1].rows) < self.shard_rows
            if whole and (short or stop == limit):
                part["rows"] = stop - part["first"]
                if not stop:
                    raise ValueError("there was no image to read")
                if not part["rows"]:  # a stream without new images
                    manifest["parts"].pop()
                write_manifest(self.folder, manifest)
        if missing_rows(manifest, shards):
            return False
        for path in _remains(self.folder):
            path.unlink(missing_ok=True)
        return True


def _remains(folder: Path) -> list[Path]:
    """Files that a finished store does not have."""
    return [*folder.glob(f"{PIECE}-*.arrow"), *folder.glob(f"{_END}*")]


def abandon_store(folder: str | Path, kind: type[Store]) -> int:
    """Remove what a killed append has added, or all of a store never finished, as `abandon_extraction` says."""
    folder = Path(folder)
    manifest = read_manifest(folder, kind.kind, kind.made_by)
    with locked(folder):
        state, part = State(folder, manifest, intact_shards(folder)), manifest["parts"].pop()
        if state.complete(part):
            raise ValueError(f"{folder} is finished: there is nothing to abandon")
        state.drop([shard for shard in state.shards if shard.rows.start >= part["first"]])
        left = int(part["first"])
        if left:
            write_manifest(folder, manifest)
        for path in _remains(folder):
            path.unlink(missing_ok=True)
        remove_leftovers(folder)
        if not left:
            (folder / MANIFEST).unlink()
    return left


# A shard that is being filled; from time to time what it has so far goes to disk as a part


class OpenShard:
    """Values and records of consecutive rows as they come.

    Args:
        folder: of the store.
        rows: of the shard.
        placed: makes records of the store of those of a source.

    Attributes:
        wanted: the rows whose images are still to be read, in order.
    """

    def __init__(self, folder: Path, rows: range, placed: Callable[[Sequence[Record]], list[Record]]) -> None:
        self.folder, self.rows, self.placed = folder, rows, placed
        self.wanted = list(rows)
        self._columns: dict[str, np.ndarray] = {}
        self._records = [_EMPTY] * len(rows)
        self._status = [OK] * len(rows)
        self._pieces: list[Shard] = []
        self._on_disk, self._last = 0, time.monotonic()

    @property
    def done(self) -> int:
        """Number of rows before the first missing one."""
        return self.wanted[0] - self.rows.start if self.wanted else len(self.rows)

    @property
    def full(self) -> bool:
        """Whether no image is to be read any more."""
        return not self.wanted

    def add(self, block: Block) -> None:
        """The images of the next wanted rows."""
        rows, self.wanted = self.wanted[: len(block.records)], self.wanted[len(block.records) :]
        self._put(rows, block.columns, self.placed(block.records), block.status)

    def take(self, shard: Shard, rows: Sequence[int], places: Sequence[int] | None = None) -> None:
        """Rows of another file; `places`: which rows they become here, None: the same."""
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
        """Put the values of known images among `records` of the source, by row, into the shard."""
        found: dict[Path, tuple[Shard, list[int], list[int]]] = {}
        for row, record in records.items():
            if (place := self._places.get(record.hash)) is not None:
                _, theirs, ours = found.setdefault(place[0].path, (place[0], [], []))
                theirs.append(place[1])
                ours.append(row)
        for other, theirs, ours in found.values():
            shard.take(other, theirs, ours)
        rows = [row for _, _, ours in found.values() for row in ours]
        shard.rename(dict(zip(rows, shard.placed([records[row] for row in rows]), strict=True)))
