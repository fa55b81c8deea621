"""Features on disk: one row an image, in shards that are read through memory maps and checked when first read.

    FOLDER/manifest.json                                   what the numbers are, and of which images
    FOLDER/rows-000000000-0001024-1a2b3c4d.safetensors     rows 0 to 1023, and the checksum of that file

A shard is written aside and renamed, so it is whole or not there; the manifest says how many rows there
should be. What makes a store is `encoding.store_writer`.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from randar_features.store.files import read_json

MANIFEST = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"rows-(\d{9})-(\d{7})-([0-9a-f]{8})\.safetensors")
FEATURES = "features/"
_READ_BYTES = 1 << 20


class Shard:
    """A file of consecutive rows; its name says which, and its CRC-32.

    Attributes:
        path: the file.
        rows: the rows of the store that it holds.
    """

    def __init__(self, path: Path) -> None:
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path} is not named as a shard is")
        first, count = int(match[1]), int(match[2])
        self.path, self.rows, self.checksum = path, range(first, first + count), match[3]

    def verify(self) -> None:
        """Read the whole file once; ValueError that names it if a byte differs from what was written."""
        checksum = 0
        with self.path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                checksum = zlib.crc32(block, checksum)
        if f"{checksum:08x}" != self.checksum:
            found = f"its checksum is {checksum:08x}, expected {self.checksum}"
            raise ValueError(f"{self.path} is damaged: {found}. {_AGAIN}")

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        """Everything in the file, mapped into memory, after `verify`."""
        self.verify()
        with _opened(self.path) as file:
            return {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118 (no mapping)

    @cached_property
    def about(self) -> dict[str, list[Any]]:
        """`paths` and `status` of each row."""
        return json.loads(self.tensors["rows"].tobytes())

    def features(self, name: str) -> np.ndarray:
        """The rows of one output, mapped into memory, in the dtype of the store."""
        return self.tensors[FEATURES + name]

    def check_size(self) -> None:
        """ValueError that names the file if it is shorter or longer than its header says."""
        with _opened(self.path):
            pass


_AGAIN = "Run the extraction again: it makes this shard anew and keeps the others"


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is torn ({error}). {_AGAIN}") from error


def shard_name(first: int, count: int, checksum: int) -> str:
    """The name of the file of `count` rows from `first` on."""
    return f"rows-{first:09d}-{count:07d}-{checksum:08x}.safetensors"


def find_shards(folder: Path) -> list[Shard]:
    """The shards in a folder, by their first row."""
    paths = sorted((path for path in folder.glob("rows-*") if _NAME.fullmatch(path.name)), reverse=True)
    by_row = {shard.rows.start: shard for shard in map(Shard, paths)}  # of two processes' shards of the same rows, one
    return [by_row[row] for row in sorted(by_row)]


class FeatureStore:
    """Features of a collection of images, and what is known of each image.

    Args:
        folder: what `extract_to_store` wrote.
        names: only these outputs; None: all.

    Attributes:
        folder: as given.
        manifest: "encoder", "weights", "transform", "image_size", "pooling", "dtype", "outputs" (details of each,
            by name), "label_names", and "parts": the data sets that were put in, with their first row.
        names: of the outputs.
        shards: the files.

    The size of each shard is checked when the store is opened, its checksum when it is first read.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: its extraction did not finish, a shard is missing, torn or (when read) damaged, or an output
            is unknown.
    """

    def __init__(self, folder: str | Path, names: Sequence[str] | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        known = list(self.manifest["outputs"])
        if unknown := sorted(set(names or ()) - set(known)):
            raise ValueError(f"{self.folder} holds no {', '.join(unknown)}; its outputs are: {', '.join(known)}")
        self.names = known if names is None else list(names)
        self.shards = find_shards(self.folder)
        if missing := missing_rows(self.manifest, self.shards):
            runs = ", ".join(f"{run.start} to {run.stop - 1}" for run in missing[:3])
            raise ValueError(
                f"{self.folder} lacks the rows {runs} of {expected_rows(self.manifest) or 'a stream'}: run its "
                "extraction again, which goes on there"
            )
        for shard in self.shards:
            shard.check_size()
        self._starts = np.array([shard.rows.start for shard in self.shards])

    def __len__(self) -> int:
        return self.shards[-1].rows.stop

    def __repr__(self) -> str:
        """Encoder, rows and outputs."""
        return (
            f"FeatureStore({str(self.folder)!r}: {len(self)} rows of {len(self.names)} outputs "
            f"of {self.manifest['encoder']}, weights {self.manifest['weights']})"
        )

    def rows(self, name: str) -> list[np.ndarray]:
        """The rows of an output, one memory-mapped array a shard, in the dtype of the store."""
        self._check(name)
        return [shard.features(name) for shard in self.shards]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one row: (D,) if it was pooled, else (G, G, D)."""
        self._check(name)
        return self.shards[0].features(name).shape[1:]

    def array(self, name: str, rows: Sequence[int] | NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """float32 (n, …): all rows, or those asked for, in that order. Unreadable images' are NaN."""
        asked = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        if len(asked) and not 0 <= asked.min() <= asked.max() < len(self):
            raise IndexError(f"rows must be 0 to {len(self) - 1}, got {asked.min()} to {asked.max()}")
        values = np.empty((len(asked), *self.shape(name)), dtype=np.float32)
        owners = np.searchsorted(self._starts, asked, side="right") - 1
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            shard = self.shards[owner]
            values[places] = shard.features(name)[asked[places] - shard.rows.start]
        return values

    def blocks(self, name: str, size: int = 4096) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, float32 (size, …)) one after the other; the last may be shorter."""
        for start in range(0, len(self), size):
            yield start, self.array(name, np.arange(start, min(start + size, len(self))))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(n,), −1 where an image has none."""
        return np.concatenate([shard.tensors["labels"] for shard in self.shards])

    @cached_property
    def paths(self) -> list[str | None]:
        """The file of each image, or None."""
        return [path for shard in self.shards for path in shard.about["paths"]]

    @cached_property
    def status(self) -> list[str]:
        """Of each image: "ok" or why an image could not be read."""
        return [status for shard in self.shards for status in shard.about["status"]]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(n,): the rows whose image could be read."""
        return np.array([status == "ok" for status in self.status])

    @property
    def label_names(self) -> list[str] | None:
        """Names of the classes, or None."""
        return self.manifest["label_names"]

    def verify(self) -> None:
        """Check every byte of every shard now."""
        for shard in self.shards:
            shard.verify()

    def _check(self, name: str) -> None:
        if name not in self.names:
            raise ValueError(f"no output {name!r} in {self.folder}: expected one of {', '.join(self.names)}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a store; FileNotFoundError without one, ValueError if it is of another format."""
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: make the store with scripts/extract_features.py")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path} is no manifest of a feature store of format {FORMAT}")
    return manifest


def expected_rows(manifest: dict[str, Any]) -> int | None:
    """How many rows the finished store has; None while a stream of unknown length is read."""
    last = manifest["parts"][-1]
    return None if last["rows"] is None else last["first"] + last["rows"]


def missing_rows(manifest: dict[str, Any], shards: Sequence[Shard]) -> list[range]:
    """The runs of rows that the manifest promises and no shard holds."""
    expected, runs, next_row = expected_rows(manifest), [], 0
    for shard in shards:
        if shard.rows.start > next_row:
            runs.append(range(next_row, shard.rows.start))
        next_row = max(next_row, shard.rows.stop)
    if expected is None:
        runs.append(range(next_row, next_row + 1))
    elif expected > next_row:
        runs.append(range(next_row, expected))
    return runs
