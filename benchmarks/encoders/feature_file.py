"""A file of features as an encoder: `features:FILE`, made anywhere, for the images of one data set.

`benchmarks.encoders.extract` copies its entries into the cache, beside labels and paths of the images, which are not
decoded. A benchmark that shows an encoder other pictures than the data's (matched points) refuses it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.encoders.base import Encoder
from probes.pooling import pool
from randar_features.data.images import ImageSource
from randar_features.data.stored_images import StoredImages
from randar_features.features.store import SHARD_ROWS, Content
from randar_features.store.identity import UNREADABLE, hash_files
from randar_features.store.records import OK, Block, Record, absolute, unescape

PREFIX = "features:"
SPLIT = "{split}"
OUTPUT = "features"
IMAGE_SIZE = 64  # of pictures that are shown beside the results
_METADATA = b"randar_features"  # of a Parquet file that FeatureTable.to_parquet wrote

Maps = NDArray[np.float32]


class FeatureFile(Encoder):
    """Features from a file, for `extract`.

    FILE is a NumPy array (n, D) of vectors or (n, G, G, D) of maps, one entry an image, in the data's order; or Parquet
    with a column of lists of one length for each output, and perhaps a column "path", as `table.to_parquet` writes it.
    With {split} in its name there is one file a split.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds no features.
    """

    computes = False

    def __init__(self, name: str) -> None:
        self.pattern = name.removeprefix(PREFIX)
        parts = matching_files(self.pattern)
        first = read_features(parts[0])
        outputs: dict[str, dict[str, Any]] = {output: {} for output in first.maps}
        weights = hash_files([str(part) for part in parts])
        super().__init__(name=name, image_size=IMAGE_SIZE, weights="-".join(weights), outputs=outputs)
        self._sides = {output: maps.shape[1] for output, maps in first.maps.items()}

    def grid_sides(self, outputs: Sequence[str] | None = None) -> dict[str, int]:
        """G of the maps of each of these outputs, None: all; 1 where there is no grid."""
        return {output: self._sides[output] for output in self.choose(outputs)}

    def features(self, split: str | None) -> StoredFeatures:
        """What the file of a split holds; ValueError where the name has {split} and the data have none."""
        if SPLIT in self.pattern and split is None:
            raise ValueError(f"{self.name} names one file a split, and the data are read without one: give the split")
        found = read_features(Path(self.pattern.replace(SPLIT, split or "")))
        if missing := [output for output in self.outputs if output not in found.maps]:
            raise ValueError(f"{found.file} has no features {missing[0]!r}; it has {', '.join(found.maps)}")
        return found

    def stored(
        self, source: ImageSource, content: Content, *, part: str | None, max_images: int | None, **reading: Any
    ) -> FeatureSource:
        """The entries for these images; all images of the data are matched, the first `max_images` are taken."""
        return FeatureSource(source, self.features(part), content, max_images)

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        raise ValueError(
            f"{self.name} holds features of the images of its data set, and of no other pictures: use an encoder that "
            "computes, or search an index with --numbers or vectors"
        )


def matching_files(pattern: str) -> list[Path]:
    """The file, or those of all splits, sorted; FileNotFoundError where there is none."""
    path = Path(pattern)
    found = sorted(path.parent.glob(path.name.replace(SPLIT, "*"))) if SPLIT in path.name else [path]
    if not found or not found[0].is_file():
        raise FileNotFoundError(f"{PREFIX}{pattern}: there is no such file; expected .npy, or .parquet")
    return found


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """What a file of features holds: maps (n, G, G, D) by output, and the path of each image where it says them."""

    file: Path
    maps: Mapping[str, Maps]
    paths: list[str] | None

    def __len__(self) -> int:
        return len(next(iter(self.maps.values())))

    def entries_of(self, records: Sequence[Record], root: Path | None) -> list[int]:
        """The number of the entry of each image: by its path where the file has paths, else by its place.

        Raises:
            ValueError: an image has no entry, or, without paths, the file has another number of entries.
        """
        named = [record.path for record in records]
        if self.paths is None or None in named or len({*self.paths}) < len(self.paths):
            if len(records) != len(self):
                raise ValueError(
                    f"{self.file} holds features of {len(self)} images, the data have {len(records)}: they are "
                    'matched by their order; a Parquet column "path" matches them by name'
                )
            self._check_order(named, root)
            return list(range(len(self)))
        places = {path: place for place, path in enumerate(self.paths)}
        places |= {os.path.realpath(path): place for path, place in places.items() if os.path.exists(path)}
        found = [places.get(str(path), places.get(str(absolute(path, root)))) for path in named]
        if None in found:
            missing = named[found.index(None)]
            raise ValueError(
                f"{self.file} has no features of {missing} ({found.count(None)} of {len(found)} images lack them): its "
                f"paths begin with {self.paths[0]}; give absolute paths, or paths relative to the data's folder"
            )
        return [place for place in found if place is not None]

    def _check_order(self, named: Sequence[str | None], root: Path | None) -> None:
        """ValueError where some paths come twice, and the order is not that of the images."""
        for place, (own, path) in enumerate(zip(self.paths or (), named, strict=False)):
            if path not in (None, own) and os.path.realpath(own) != os.path.realpath(str(absolute(path, root))):
                raise ValueError(
                    f"{self.file} names an image more than once, so that entries are matched by their order, and "
                    f"entry {place + 1} is {own}, where the data have {path}"
                )


def read_features(file: Path) -> StoredFeatures:
    """A .npy or .parquet file of features; ValueError where it is none, FileNotFoundError where there is none."""
    if not file.is_file():
        raise FileNotFoundError(f"{PREFIX}{file}: there is no such file")
    if file.suffix == ".parquet":
        return _from_parquet(file)
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{file} is no file of features, expected .npy or .parquet: {error}") from error
    return StoredFeatures(file, {OUTPUT: _as_maps(array, file)}, None)


def _as_maps(array: Any, file: Path) -> Maps:
    """Features (n, D) as maps (n, 1, 1, D); maps (n, G, G, D) stay as they are."""
    shape = getattr(array, "shape", ())
    if len(shape) not in (2, 4) or 0 in shape or array.dtype.kind not in "fiu":
        raise ValueError(f"{file} has shape {shape}, expected numbers (n, D) or (n, G, G, D)")
    maps: Maps = array[:, None, None] if len(shape) == 2 else array
    if maps.shape[1] != maps.shape[2]:
        raise ValueError(f"{file} has maps of {maps.shape[1]} by {maps.shape[2]}, expected a square grid")
    return maps


def _from_parquet(file: Path) -> StoredFeatures:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is no Parquet file: {error}") from error
    about = json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    names = [field.name for field in table.schema if any(is_list(field.type) for is_list in lists)]
    if not names or not len(table):
        raise ValueError(f"{file} holds no features: expected a column of lists of numbers, one entry an image")
    maps = {name: _as_maps(_stacked(table[name], name, file, about.get("shape")), file) for name in names}
    paths = table["path"].to_pylist() if "path" in table.column_names else []
    named = [unescape(path) for path in paths if path is not None]
    return StoredFeatures(file, maps, named if len(named) == len(table) else None)


def _stacked(column: Any, name: str, file: Path, shape: Sequence[int] | None) -> NDArray[np.float32]:
    """A column of lists as (n, D), or in the shape that the file says."""
    try:
        stacked = np.stack([np.asarray(values, np.float32) for values in column.to_numpy(zero_copy_only=False)])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: the lists of {name!r} must be numbers, all of one length: {error}") from error
    return stacked.reshape(len(stacked), *shape) if shape else stacked


class FeatureSource:
    """Entries of a file for the images of a data set, as `write_store` takes them: no picture is decoded.

    Args:
        source: the data.
        features: what the file holds.
        content: of the store: which outputs, and how maps are pooled.
        max_images: the first images at most; None: all.
    """

    streamed = False

    def __init__(self, source: ImageSource, features: StoredFeatures, content: Content, max_images: int | None) -> None:
        images = StoredImages(source, lambda _: {}, image_size=IMAGE_SIZE, batch_size=1)
        self.root, self.label_names = images.root, images.label_names
        self.entries = features.entries_of(images.records(), images.root)[:max_images]
        self.length, self._records = len(self.entries), images.records()[:max_images]
        self.features, self.outputs, self.pooling = features, list(content.outputs), content.pooling

    def records(self) -> list[Record]:
        """The records of all images."""
        return self._records

    def shard_rows(self) -> int:
        """Images a file."""
        return SHARD_ROWS

    def read(self, runs: Iterator[Sequence[int]]) -> Iterator[Block]:
        """The entries of the images of those numbers."""
        records = self.records()
        for run in runs:
            places = [self.entries[number] for number in run]
            columns = {name: np.asarray(self.features.maps[name][places], np.float32) for name in self.outputs}
            if self.pooling is not None:
                columns = {name: pool(torch.from_numpy(maps), self.pooling).numpy() for name, maps in columns.items()}
            finite = np.all([np.isfinite(values.reshape(len(values), -1)).all(1) for values in columns.values()], 0)
            own = [records[number] for number in run]
            missing = f"{self.features.file} has no features of it"
            status = [OK if good else missing for good in finite.tolist()]
            own = [
                record if good else record._replace(hash=UNREADABLE) for record, good in zip(own, finite, strict=True)
            ]
            yield Block(columns, own, status)
