"""The images of a source that can be read: one pass for training, or some to look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from randar_features.data.images import OK, ImageSource


def readable_batches(
    source: ImageSource, *, image_size: int, batch_size: int, description: str
) -> Iterator[tuple[Tensor, list[int]]]:
    """Pixels (b, 3, S, S) and labels (−1: none) of the images that can be read, with a progress bar.

    ValueError: none can be read.
    """
    count, reason = 0, "there is none"
    with tqdm(total=source.length, desc=description, unit="image") as bar:
        for batch in source.batches(image_size, batch_size):
            good = [index for index, status in enumerate(batch.status) if status == OK]
            bar.update(len(batch.status))
            count += len(good)
            if good:
                labels = (batch.labels[index] for index in good)
                yield batch.pixels[good], [-1 if label is None else label for label in labels]
            else:
                reason = batch.status[0]
    if not count:
        raise ValueError(f"none of the images could be read; the last: {reason}")


def pictures_of(source: ImageSource, numbers: Iterable[int], size: int) -> dict[int, np.ndarray]:
    """The middle squares of some images by number, uint8 (size, size, 3); those that cannot be read are left out."""
    wanted = sorted(set(map(int, numbers)))
    batches = source.batches(size, 1, rows=(range(number, number + 1) for number in wanted))
    return {
        number: (255 * batch.pixels[0]).round().byte().permute(1, 2, 0).numpy()
        for number, batch in zip(wanted, batches, strict=False)
        if batch.status[0] == OK
    }
