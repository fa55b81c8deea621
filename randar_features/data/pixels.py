"""Pixels for training that sees images many times: decoded once into a store, or anew whenever they are needed."""

import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from randar_features.data.decode.ranges import DEFAULT_READING, Reading
from randar_features.data.images import ImageBatch
from randar_features.data.sources import open_images
from randar_features.data.stored_images import StoredImages, name_of
from randar_features.store.identity import hash_bytes
from randar_features.store.records import OK
from randar_features.store.state import OtherImagesError
from randar_features.store.store import Store
from randar_features.store.writer import StoreWriter

logger = logging.getLogger(__name__)

PIXELS = "pixels"
SHARD_BYTES = 64 << 20
PATIENCE = 24 * 3600  # seconds: the processes of one training wait for the one that decodes


class _Pixels(Store):
    kind: ClassVar[str] = "pixels"
    made_by: ClassVar[str] = "`randar train tokenizer`"


class PixelCache:
    """Pixels and labels of the images that could be read.

    Attributes:
        labels: (n,) int64, −1 where there is none.
        label_names: of the classes, or None.
        unreadable: row, path and reason of each image that could not be read, and is left out.

    Raises:
        FileNotFoundError: there is no cache.
        ValueError: a file is missing, torn or damaged, or no image could be read.
    """

    def __init__(self, folder: Path) -> None:
        self.store = _Pixels(folder)
        self.unreadable = self.store.unreadable
        self._rows = self.store.readable_rows()
        self.labels = torch.from_numpy(self.store.labels[self._rows])
        self.label_names = self.store.label_names

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def content(self) -> str:
        """A hash of all images, their labels and the range that they were read in; a `PixelSource` has the same."""
        hashes = [self.store.hashes[row] for row in self._rows]
        return _content(hashes, self.labels.tolist(), self.store.manifest.get("value_range"))

    def pixels(self, indices: Tensor) -> np.ndarray:
        """(b, 3, S, S) uint8."""
        return self.store.take(PIXELS, self._rows[indices.numpy()])

    def images(self, indices: Tensor) -> Tensor:
        """Float images (b, 3, S, S) in [0, 1]."""
        return torch.from_numpy(self.pixels(indices)).float() / 255

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """`images` of each batch of indices."""
        return map(self.images, batches)


def cache_pixels(
    images: Any,
    folder: Path,
    *,
    image_size: int,
    split: str | None = None,
    deadline: float | None = None,
    reading: Reading = DEFAULT_READING,
) -> PixelCache | None:
    """Decode everything that `open_images` takes into `folder`, unless it was done before.

    A killed run continues. If the images have changed, the cache is made again, with a warning that names the changes.
    None if `time.monotonic` reaches the `deadline` first.

    Raises:
        ValueError: `folder` holds pixels of another size or range; or no image can be read, which leaves no cache.
        FolderLockedError: another process writes to the folder.
    """
    source = open_images(images, split=split).read_with(reading)
    options: dict[str, Any] = {"image_size": image_size, "batch_size": 256}
    stored = StoredImages(source, lambda batch: {PIXELS: (batch.pixels * 255).round().byte().numpy()}, **options)
    writer = StoreWriter(
        folder=folder,
        kind=_Pixels,
        content={"image_size": image_size, **reading.content()},
        shard_rows=max(1, SHARD_BYTES // (3 * image_size**2)),
        data=name_of(images, split),
        patience=PATIENCE,
        deadline=deadline,
        progress=f"decoding {split or ''}",
    )
    try:
        whole = writer.fill(stored)
    except OtherImagesError as error:
        warnings.warn(f"pixels are decoded anew: {error.difference}", stacklevel=2)
        writer.clear()
        whole = writer.fill(stored)
    if not whole:
        return None
    try:
        return PixelCache(folder)
    except ValueError:
        writer.clear()
        raise


def _content(hashes: list[str], labels: list[int], value_range: Any) -> str:
    return hash_bytes(json.dumps([hashes, labels, value_range]).encode())[:16]


class PixelSource:
    """What a `PixelCache` offers, without the cache.

    Args:
        images: anything that `open_images` takes and that can be read at random; all are read once, to know their
            `content`.
        image_size: pixels a side of the ADM centre crops.
        split: as for `open_images`.
        num_workers: processes that decode ahead in `stream`.
        reading: range of values and largest size of a picture.

    Raises:
        ValueError: `images` is a stream.
    """

    def __init__(
        self,
        images: Any,
        *,
        image_size: int,
        split: str | None = None,
        num_workers: int = 0,
        reading: Reading = DEFAULT_READING,
    ) -> None:
        self.source = open_images(images, split=split).read_with(reading)
        if self.source.streamed:
            raise ValueError("training takes images in an order of its own, which a stream cannot give: cache it")
        self.image_size, self.num_workers = image_size, num_workers
        self.unreadable: set[str] = set()
        records = StoredImages(self.source, lambda _: {}, image_size=image_size, batch_size=1).records()
        hashes, labels = [record.hash for record in records], [record.label for record in records]
        self.content = _content(hashes, labels, reading.content()["value_range"])

    def __len__(self) -> int:
        return len(self.source)

    def images(self, indices: Tensor) -> Tensor:
        """Float images (b, 3, S, S) in [0, 1]; see `stream`."""
        return next(self._decoded([indices], num_workers=0))

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Images (b, 3, S, S) of each batch of indices, decoded ahead.

        An image that cannot be read is replaced by one of its batch, and named once. Raises ValueError if none
        of a batch can be read.
        """
        return self._decoded(batches, self.num_workers)

    def _decoded(self, batches: Iterable[Tensor], num_workers: int) -> Iterator[Tensor]:
        rows = (indices.tolist() for indices in batches)
        largest = max(1, len(self))
        for batch in self.source.batches(self.image_size, largest, num_workers, rows=rows):
            yield self._complete(batch)

    def _complete(self, batch: ImageBatch) -> Tensor:
        good = [index for index, status in enumerate(batch.status) if status == OK]
        if not good:
            raise ValueError(f"none of {len(batch.status)} images could be read; the first: {batch.status[0]}")
        if len(good) == len(batch.status):
            return batch.pixels
        for path, status in zip(batch.paths, batch.status, strict=True):
            if status != OK and status not in self.unreadable:
                self.unreadable.add(status)
                logger.warning("passing over an unreadable image, %s: %s", path, status)
        chosen = [index if status == OK else good[index % len(good)] for index, status in enumerate(batch.status)]
        return batch.pixels[torch.tensor(chosen, device="cpu")]
