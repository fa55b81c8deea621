"""The items in the batches of a torch DataLoader."""

import inspect
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from randar_features.data.containers.items import image_and_label, is_image_path

DIVIDES = "get_worker_info"  # a data set calls it to learn which images its worker gives
DIVIDING_PACKAGES = ("datasets", "webdataset", "torchdata")
"""Packages whose data sets divide their images among workers."""


def loader_items(loader: DataLoader[Any]) -> Iterator[Any]:
    """The items in the batches of ``loader``, one by one.

    A batch is a stack of images, a tuple ``(images, labels, ...)``, a mapping, or a list of items. A loader
    with ``batch_size=None`` passes on what its data set gives: single items, or batches made there.
    """
    batched = loader.batch_sampler is not None
    for batch in loader:
        if not batched and _is_item(batch):
            yield batch
        else:
            yield from _split_batch(batch)


def loader_length(loader: DataLoader[Any]) -> int | None:
    """How many items ``loader`` gives, or None when it cannot tell."""
    if loader.batch_size is None or not isinstance(loader.batch_sampler, BatchSampler):
        return None
    try:
        length = len(loader.sampler)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None
    return length - length % loader.batch_size if loader.drop_last else length


def repeats_images(loader: DataLoader[Any]) -> str | None:
    """Why a loader may give each image once a worker, None where it does not.

    Each worker has a copy of an iterable data set, and gives all of it unless the data set looks up which worker it is.
    """
    dataset = loader.dataset
    if loader.num_workers < 2 or not isinstance(dataset, IterableDataset) or loader.worker_init_fn is not None:
        return None
    if any(base.__module__.partition(".")[0] in DIVIDING_PACKAGES for base in type(dataset).__mro__):
        return None
    try:
        divides = DIVIDES in inspect.getsource(type(dataset))
    except (OSError, TypeError):
        divides = False
    if divides:
        return None
    return (
        f"a DataLoader with {loader.num_workers} workers of the iterable {type(dataset).__name__} gives each image "
        f"{loader.num_workers} times, unless the data set divides its images among the workers "
        "(torch.utils.data.get_worker_info): use num_workers=0 or 1, or pass the data set itself"
    )


def _split_batch(batch: Any) -> Iterator[Any]:
    if isinstance(batch, (tuple, list)) and (_are_items(batch) or not _is_image_batch(batch[0])):
        yield from batch
        return
    images, labels = image_and_label(batch)
    if isinstance(images, (Tensor, np.ndarray)) and images.ndim != 4:
        raise ValueError(f"expected batches of images (B, 3, H, W), got shape {tuple(images.shape)}")
    if not hasattr(labels, "__len__") or isinstance(labels, (str, Mapping)) or len(labels) != len(images):
        labels = [labels] * len(images)  # one_label names what is no label
    yield from zip(images, labels, strict=True)


def _is_item(value: Any) -> bool:
    """Whether it holds one image, as itself, in a mapping, or in front of a tuple without other images."""
    if isinstance(value, (tuple, list)):
        if not value or not _is_image(value[0]):
            return False
        if isinstance(value[0], (str, os.PathLike)):  # (path, name of a class)
            return len(value) < 2 or not is_image_path(value[1])
        return len(value) == 1 or not all(isinstance(each, type(value[0])) and _is_image(each) for each in value)
    image, _ = image_and_label(value)
    return isinstance(image, Mapping) or _is_image(image)


def _are_items(batch: tuple[Any, ...] | list[Any]) -> bool:
    """Whether a batch is of items (image, label); a file without an image's ending may be the name of a class."""
    return all(
        isinstance(each, (tuple, list)) and _is_item(each) and (not isinstance(each[0], str) or is_image_path(each[0]))
        for each in batch
    )


def _is_image_batch(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return len(value) > 0 and all(_is_image(element) for element in value)
    return isinstance(value, (Tensor, np.ndarray)) and value.ndim == 4


def _is_image(value: Any) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):
        return value.ndim == 3
    return isinstance(value, (str, os.PathLike, bytes, Image.Image))
