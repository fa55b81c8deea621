"""One pass over the images of a source that can be read."""

from collections.abc import Iterator

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
