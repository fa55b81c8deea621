"""The images of a source that can be read: one pass for training, or some to look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from randar_features.data.images import OK, ImageBatch, ImageSource


def readable_batches(
    source: ImageSource, *, image_size: int, batch_size: int, description: str, unreadable: list[dict[str, Any]]
) -> Iterator[tuple[Tensor, list[int]]]:
    """Pixels (b, 3, S, S) and labels (−1: none) of the images that can be read, with a progress bar.

    The others are appended to `unreadable` as row, path and reason. Raises ValueError if no row can be read.
    """
    row = 0
    with tqdm(total=source.length, desc=description, unit="image") as bar:
        for batch in source.batches(image_size, batch_size):
            pixels, labels, failed = split_readable(batch, row)
            unreadable += failed
            row += len(batch.status)
            bar.update(len(batch.status))
            if labels:
                yield pixels, labels
    if row == len(unreadable):
        first = unreadable[0]["reason"] if unreadable else "there is none"
        raise ValueError(f"none of {row} images could be read; the first: {first}")


def split_readable(batch: ImageBatch, row: int) -> tuple[Tensor, list[int], list[dict[str, Any]]]:
    """Pixels and labels (−1: none) of the images that can be read; row, path and reason of those that cannot.

    The batch's first row is number `row` of its source.
    """
    good = [index for index, status in enumerate(batch.status) if status == OK]
    labels = (batch.labels[index] for index in good)
    failed = [
        {"row": row + index, "path": batch.paths[index], "reason": status}
        for index, status in enumerate(batch.status)
        if status != OK
    ]
    return batch.pixels[good], [-1 if label is None else label for label in labels], failed


def pictures_of(source: ImageSource, numbers: Iterable[int], size: int) -> dict[int, np.ndarray]:
    """The middle squares of some images by number, uint8 (size, size, 3); those that cannot be read are left out."""
    wanted = sorted(set(map(int, numbers)))
    batches = source.batches(size, 1, rows=(range(number, number + 1) for number in wanted))
    return {
        number: (255 * batch.pixels[0]).round().byte().permute(1, 2, 0).numpy()
        for number, batch in zip(wanted, batches, strict=False)
        if batch.status[0] == OK
    }
