"""The data that benchmarks are run on, by name or as it comes."""

from typing import Any

from randar_features.data import ImageSource, PhotoDigits, open_images
from randar_features.data.ranges import DEFAULT_READING, Reading

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
