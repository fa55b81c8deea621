"""The files of a store: Arrow IPC files of consecutive rows, checked when they are first read, then memory-mapped.

    rows-000000000-0001024-1a2b3c4d5e6f7788.arrow      1024 rows from row 0 on, and the hash of that file
    part-000001024-0000096-….arrow                     the rows of a shard that is not full yet

Each file is one record batch: the columns "path", "label", "status" and "hash", and the values, each a fixed-size list
whose field says its shape. The Arrow libraries open it as it is: pandas, polars, DuckDB, `datasets`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from randar_features.store.files import written_whole
from randar_features.store.records import Block, Record, escape, unescape

if TYPE_CHECKING:  # pyarrow is slow to import, and not every use of the package has a store
    import pyarrow as pa

SHARD, PIECE = "rows", "part"
_NAME = re.compile(r"(rows|part)-(\d{9})-(\d{7})-([0-9a-f]{16})\.arrow")
_MAGIC = b"ARROW1"
_FIXED = {"path": "string", "label": "int64", "status": "string", "hash": "string"}  # and their types
AGAIN = "Run the command that made it again: it makes this shard anew and keeps the others"


class Shard:
    """A file of consecutive rows; its name says which, and the hash (xxh3) of its bytes.

    Attributes:
        path: the file.
        rows: the rows of the store that it holds.
    """

    def __init__(self, path: Path) -> None:
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path} is not named as a shard is")
        first, count = int(match[2]), int(match[3])
        self.path, self.rows, self.checksum = path, range(first, first + count), match[4]

    def verify(self) -> None:
        """Read the whole file once; ValueError that names it if a byte differs from what was written."""
        try:
            with self._open() as file:
                found = hashlib.file_digest(file, xxhash.xxh3_64).hexdigest()
        except OSError as error:
            raise ValueError(f"{self.path} cannot be read ({error}). {AGAIN}") from error
        if found != self.checksum:
            raise ValueError(f"{self.path} is damaged: its checksum is {found}, expected {self.checksum}. {AGAIN}")

    def check_ends(self) -> None:
        """ValueError that names the file if it does not begin and end as a whole one does."""
        try:
            with self._open() as file:
                begin = file.read(len(_MAGIC))
                file.seek(-len(_MAGIC), 2)
                if begin == file.read() == _MAGIC:
                    return
                reason = "its beginning or its end is missing"
        except OSError as error:
            reason = str(error)
        raise ValueError(f"{self.path} is torn ({reason}). {AGAIN}")

    def _open(self) -> BufferedReader:
        try:
            return self.path.open("rb")
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.path} is gone: open the store again, if another process has brought it up to date; else run "
                "the command that made it again"
            ) from error

    @cached_property
    def batch(self) -> pa.RecordBatch:
        """Everything in the file, mapped into memory, after `verify`."""
        return self._content[0]

    @cached_property
    def _content(self) -> tuple[pa.RecordBatch, dict[str, np.ndarray]]:
        """The batch, and its values by name; ValueError that names the file for what is no shard's."""
        import pyarrow as pa

        self.verify()
        try:
            batch = pa.ipc.open_file(pa.memory_map(os.fsencode(self.path))).get_batch(0)
            batch.validate(full=True)  # what points outside of the file would crash
            kinds = {name: str(batch.schema.field(name).type) for name in _FIXED}
            if (batch.num_rows, kinds) != (len(self.rows), _FIXED):
                raise ValueError(f"it has {batch.num_rows} rows of {kinds}, expected {len(self.rows)} of {_FIXED}")
            return batch, {name: _as_numpy(batch, name) for name in batch.schema.names if name not in _FIXED}
        except Exception as error:  # though its checksum is right
            text = " ".join(str(error).split())
            raise ValueError(f"{self.path} is no shard ({type(error).__name__}: {text}). {AGAIN}") from error

    @property
    def names(self) -> list[str]:
        """Of the values."""
        return list(self._content[1])

    def column(self, name: str) -> np.ndarray:
        """Values (rows, …), mapped into memory."""
        if name not in self._content[1]:
            raise ValueError(f"{self.path} holds no {name!r}, as other shards do. {AGAIN}")
        return self._content[1][name]

    @cached_property
    def labels(self) -> np.ndarray:
        """(rows,) int64."""
        return self.batch.column("label").to_numpy()

    @cached_property
    def paths(self) -> list[str | None]:
        """As they were given, relative to the root of their data."""
        return [None if path is None else unescape(path) for path in self.batch.column("path").to_pylist()]

    @cached_property
    def status(self) -> list[str]:
        """Of each image: "ok", or why it could not be read."""
        return self.batch.column("status").to_pylist()

    @property
    def records(self) -> list[Record]:
        """Path, label and hash of each image."""
        hashes = self.batch.column("hash").to_pylist()
        return [Record(*each) for each in zip(self.paths, self.labels.tolist(), hashes, strict=True)]


def _as_numpy(batch: pa.RecordBatch, name: str) -> np.ndarray:
    column, shape = batch.column(name), json.loads(batch.schema.field(name).metadata[b"shape"])
    return column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), *shape)


def write_shard(
    folder: Path,
    first: int,
    columns: Mapping[str, np.ndarray],
    records: Sequence[Record],
    status: Sequence[str],
    kind: str = SHARD,
) -> Shard:
    """Write rows `first` and following: values (n, …) by name, and what is known of each image."""
    import pyarrow as pa

    batch = to_arrow(Block(columns, list(records), list(status)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content = sink.getvalue()
    name = f"{kind}-{first:09d}-{len(records):07d}-{xxhash.xxh3_64_hexdigest(content)}.arrow"
    with written_whole(folder / name) as file:
        file.write(content)
    return Shard(folder / name)


def to_arrow(block: Block) -> pa.RecordBatch:
    """The columns of a shard: "path", "label", "status", "hash", and the values; `from_arrow` reads them."""
    import pyarrow as pa

    paths = [None if record.path is None else escape(record.path) for record in block.records]
    known = {
        "path": paths,
        "label": [record.label for record in block.records],
        "status": [text.encode("utf-8", "backslashreplace").decode() for text in block.status],
        "hash": [record.hash for record in block.records],
    }
    arrays: dict[str, Any] = {name: pa.array(known[name], kind) for name, kind in _FIXED.items()}
    fields = [pa.field(name, array.type) for name, array in arrays.items()]
    for name, values in block.columns.items():
        if name in _FIXED:
            raise ValueError(f"values cannot be called {name!r}: a store has a column of that name")
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        arrays[name] = pa.FixedSizeListArray.from_arrays(flat, math.prod(values.shape[1:]))
        fields.append(pa.field(name, arrays[name].type, metadata={"shape": json.dumps(values.shape[1:])}))
    return pa.record_batch(list(arrays.values()), schema=pa.schema(fields))


def from_arrow(batch: pa.RecordBatch) -> Block:
    """What `to_arrow` was given."""
    path, label, status, known = (batch.column(name).to_pylist() for name in _FIXED)
    paths = [None if text is None else unescape(text) for text in path]
    records = [Record(*each) for each in zip(paths, label, known, strict=True)]
    names = [name for name in batch.schema.names if name not in _FIXED]
    return Block({name: _as_numpy(batch, name) for name in names}, records, status)


def find_shards(folder: Path, kind: str = SHARD) -> list[Shard]:
    """The shards (or parts of shards) in a folder, by their first row; of two files of a shard the newer one."""
    return find_newest(folder, kind)[0]


def find_newest(folder: Path, kind: str = SHARD) -> tuple[list[Shard], list[Path]]:
    """The shards in a folder by their first row, and the old files of shards that a killed run had made again.

    The folder is read once, so that a shard that another process writes meanwhile is not taken for an old file.
    """
    paths = [path for path in folder.glob(f"{kind}-*.arrow") if _NAME.fullmatch(path.name)]
    by_row = {shard.rows.start: shard for shard in map(Shard, sorted(paths, key=_age))}
    current = {shard.path for shard in by_row.values()}
    return [by_row[row] for row in sorted(by_row)], [path for path in paths if path not in current]


def _age(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_mtime_ns, path.name
    except FileNotFoundError:
        return 0, path.name
