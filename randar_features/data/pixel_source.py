"""Images decoded anew whenever training asks for them, for data that are too large to be cached as pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from randar_features.data.images import OK, ImageBatch
from randar_features.data.sources import open_images


class PixelSource:
    """What a `PixelCache` offers, without the cache.

    Args:
        images: anything that `open_images` takes and that can be read at random.
        image_size: pixels a side of the ADM centre crops.
        split: as for `open_images`.
        num_workers: processes that decode ahead in `stream`.

    Raises:
        ValueError: `images` is a stream.
    """

    def __init__(self, images: Any, *, image_size: int, split: str | None = None, num_workers: int = 0) -> None:
        self.source = open_images(images, split=split)
        if self.source.streamed:
            raise ValueError("training takes images in an order of its own, which a stream cannot give: cache it")
        self.image_size, self.num_workers = image_size, num_workers
        self.unreadable: set[str] = set()

    def __len__(self) -> int:
        return len(self.source)

    def images(self, indices: Tensor) -> Tensor:
        """Float images (b, 3, S, S) in [0, 1]; see `stream`."""
        return next(self._decoded([indices], num_workers=0))

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Images (b, 3, S, S) of each of those batches of indices, decoded ahead.

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
                print(f"passing over an unreadable image, {path}: {status}")
        chosen = [index if status == OK else good[index % len(good)] for index, status in enumerate(batch.status)]
        return batch.pixels[torch.tensor(chosen)]
