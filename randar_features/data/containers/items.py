"""The parts of an item of a source: an image, a tuple ``(image, label, ...)``, or a mapping with an image."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from randar_features.data.containers.labels import by_plain_name, label_of
from randar_features.data.containers.listing import is_named_as_image
from randar_features.data.containers.paths import confined

IMAGE_NAMES = ("image", "img", "images", "jpg", "jpeg", "png", "webp")
"""Columns and keys that hold the image; the endings are WebDataset's."""


class Item(NamedTuple):
    """An image as it came, its label as it came, and the file that it lies in."""

    image: Any
    label: Any
    path: str | None


def parse_item(item: Any) -> Item:
    """Take an item apart.

    Raises:
        ValueError: a mapping has no image, a tuple is empty, or a list holds several images.
    """
    image, label = image_and_label(item)
    path = None
    if isinstance(image, Mapping):  # as `datasets` stores encoded files
        path = image.get("path")
        image = path if image.get("bytes") is None else image["bytes"]
    elif isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
    return Item(image, label, path)


def image_and_label(item: Any) -> tuple[Any, Any]:
    """The image in an item, and what else it says of it."""
    if isinstance(item, Mapping) and "bytes" not in item:
        image_name = first_name(IMAGE_NAMES, item)
        if image_name is None:
            raise ValueError(f"an item has no image: got {list(item)}, expected a key of {IMAGE_NAMES}")
        return item[image_name], label_of(item)
    if isinstance(item, (tuple, list)):
        if not item:
            raise ValueError("an item is an empty tuple: expected (image, label)")
        if len(item) > 1 and _are_images(item):
            raise ValueError(
                f"an item is a {type(item).__name__} of {len(item)} images: expected an image, or (image, label); "
                "put all images into one list"
            )
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _are_images(item: tuple[Any, ...] | list[Any]) -> bool:
    """Whether the second is an image too; an array in a tuple may be a mask, which is no fault."""
    first, second = item[:2]
    if is_image_path(second):
        return isinstance(first, (str, os.PathLike))
    several = isinstance(second, Image.Image) or 1 < getattr(second, "ndim", 0) == getattr(first, "ndim", 0)
    return isinstance(item, list) and several and type(first) is type(second)


def is_image_path(value: Any) -> bool:
    """Whether it is a path, or text with the ending of an image."""
    return isinstance(value, os.PathLike) or (isinstance(value, str) and is_named_as_image(value))


def first_name(names: Collection[str], mapping: Collection[str]) -> str | None:
    """The key that is the first of `names`, whatever its capitals."""
    by_plain = by_plain_name(mapping)
    return next((by_plain[name] for name in names if name in by_plain), None)


def confined_image(image: Any, folder: Path) -> Any:
    """An image of a table in `folder`. If the table names a file, it must lie in the folder.

    Raises:
        ValueError: it leads out of the folder.
    """
    if isinstance(image, str):
        return confined(image, folder)
    if isinstance(image, Mapping) and image.get("bytes") is None and image.get("path") is not None:
        return confined(image["path"], folder)
    return image
