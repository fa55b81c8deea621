"""The data of benchmarks: built-in data by name, or folders and files."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from randar_features.data import ImageSource, PhotoDigits, open_images
from randar_features.data.decode.ranges import DEFAULT_READING, Reading
from randar_features.data.images import readable_batches

PHOTO_DIGITS = "photo-digits"


def open_data(data: Any, split: str | None, image_size: int, reading: Reading = DEFAULT_READING) -> ImageSource:
    """Images, labels and the names of the classes.

    Args:
        data: "photo-digits", which is built in (`PhotoDigits` gives its masks and placements too), or anything
            that `open_images` takes: a folder of class folders, Parquet files, a data set.
        split: "train", "validation" or "test" of photo-digits; else what the data has.
        image_size: pixels a side that photo-digits is composed at; other images are cut and resized later.
        reading: range of values and largest size of a picture.

    Raises:
        FileNotFoundError, ValueError, TypeError: there is no such data, or no such split.
    """
    if data == PHOTO_DIGITS:
        return open_images(PhotoDigits(split or "train", size=image_size))
    return open_images(data, split=split).read_with(reading)


def read_labelled(
    source: ImageSource, data: str, keep: Callable[[Tensor], Tensor], image_size: int, batch_size: int
) -> tuple[Tensor, Tensor, list[str]]:
    """What `keep` makes of the images (b, 3, S, S) that can be read, their labels (n,), and a warning of the others.

    ValueError if one has no label; `data` is named in it.
    """
    kept: list[Tensor] = []
    labels: list[int] = []
    batches = readable_batches(source, image_size=image_size, batch_size=batch_size, description="reading")
    for pixels, of_batch in batches:
        kept.append(keep(pixels))
        labels += of_batch
    if min(labels) < 0:
        raise ValueError(f"{labels.count(-1)} of {len(labels)} images of {data} have no label: each needs one")
    missing = (source.length or len(labels)) - len(labels)
    warnings = [f"{missing} images could not be read"] if missing else []
    return torch.cat(kept), torch.tensor(labels, device="cpu"), warnings
