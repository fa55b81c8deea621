"""Images of any source as a store takes them: decoded, made into values, and identified by their content."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from randar_features.data.ahead import ahead
from randar_features.data.containers.shards import root_of
from randar_features.data.images import ImageBatch, ImageSource, UndecodedImage
from randar_features.data.profile import note, part
from randar_features.store.identity import UNREADABLE, hash_files, hash_image, remember_files
from randar_features.store.records import Block, Record

Encode = Callable[[ImageBatch], Any]
_REMEMBERED = 1000  # files whose hashes go to the cache at once


class StoredImages:
    """A `store.records.Source` of images.

    Args:
        source: the images.
        encode: values (b, …) by name of a batch of images, unreadable ones included. It runs in a thread of its own
            while the next batch is read.
        image_size: pixels a side of what `encode` is given.
        batch_size: images a call of `encode`.
        num_workers: processes that decode images.
    """

    def __init__(
        self,
        source: ImageSource,
        encode: Encode,
        *,
        image_size: int,
        batch_size: int,
        num_workers: int = 0,
    ) -> None:
        self.source, self.encode = source, encode
        self.length, self.streamed, self.label_names = source.length, source.streamed, source.label_names
        self.image_size, self.batch_size, self.num_workers = image_size, batch_size, num_workers
        root = source.root  # as it was given; paths are kept from there on
        self.root = None if root is None else Path(os.path.realpath(root))
        self._given = "" if root in (None, Path()) else os.path.join(root, "")
        self._records: list[Record] | None = None

    def records(self) -> list[Record]:
        """Of all images. Files whose size and times have not changed since they were hashed are not read."""
        if self._records is None:
            started = time.perf_counter()
            items = list(self.source.items())
            # The file system knows the files by their whole paths, so that the cache serves every spelling.
            files = {n: _whole(item.path) for n, item in enumerate(items) if isinstance(item.image, str | os.PathLike)}
            hashes = dict(zip(files, hash_files(list(files.values())), strict=True))
            self._records = [
                self._record(item.path, item.label, hashes.get(number, item.hash), number in files)
                for number, item in enumerate(items)
            ]
            note("identify", time.perf_counter() - started, len(items))
        return self._records

    def read(self, runs: Iterator[Sequence[int]]) -> Iterator[Block]:
        """The images of those numbers, in order; no block reaches from one run into the next."""
        began = time.time_ns()
        fresh: dict[str, str] = {}
        batches = self.source.batches(self.image_size, self.batch_size, self.num_workers, rows=runs)
        for batch, found in ahead(self.encode, batches):
            fresh |= {
                _whole(path): digest
                for path, digest, is_file in zip(batch.paths, batch.hashes, batch.files, strict=True)
                if is_file and digest != UNREADABLE
            }
            if len(fresh) >= _REMEMBERED:
                remember_files(fresh, began)
                fresh = {}
            with part("write", len(batch.status)):  # by whoever takes the block
                records = list(map(self._record, batch.paths, batch.labels, batch.hashes, batch.files))
                yield Block(self.finished(found, batch), records, batch.status)
        remember_files(fresh, began)

    def finished(self, found: Any, batch: ImageBatch) -> Mapping[str, np.ndarray]:
        """The values (b, …) by name of a batch, of what `encode` gave for it; it runs beside the next call."""
        return found

    def picked(self, wanted: Callable[[Record], bool]) -> Self:
        """See `store.records.Stream`."""

        def chosen(item: UndecodedImage) -> bool:
            is_file = item.image is not None
            digest = hash_image(item.image) if is_file else item.hash
            return wanted(self._record(item.path, item.label, digest, is_file))

        images = copy(self)
        images.source = self.source.picked(chosen)
        return images

    def _record(self, path: str | None, label: int | None, digest: str, is_file: bool) -> Record:
        return Record(self._from_root(path, is_file), -1 if label is None else label, digest)

    def _from_root(self, path: str | None, is_file: bool) -> str | None:
        """A path from the root on; of a file elsewhere the whole path; a name that is no file's stays."""
        if path is None:
            return None
        if self.root is not None and path.startswith(self._given) and not os.path.isabs(path[len(self._given) :]):
            return path[len(self._given) :]
        return _whole(path) if os.path.isabs(path) or (is_file and os.path.lexists(path)) else path


def _whole(path: str | None) -> str:
    folder, name = os.path.split(path or "")
    return os.path.join(_real(folder), name)


_real = cache(os.path.realpath)


def check_apart(images: Any, folder: str | Path, split: str | None = None) -> None:
    """ValueError if `folder`, which is to be written to, is that of the images."""
    root = root_of(images, split)
    if root is not None and root.resolve() == Path(folder).resolve():
        raise ValueError(f"{folder} holds the images themselves: give another folder to write to")


def name_of(images: Any, split: str | None = None) -> str:
    """A name of these images, for the record."""
    name = str(images) if isinstance(images, str | os.PathLike) else type(images).__name__
    return name if split is None else f"{name} {split}"
