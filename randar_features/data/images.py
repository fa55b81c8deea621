"""Everything that users have as "images", as batches of square pixels in which no row ever shifts."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from randar_features.store.identity import UNREADABLE, hash_image

from .archives import TarImages
from .decoding import check_image, check_range, load_pixels
from .sources import (
    IMAGE_EXTENSIONS,
    ParquetTable,
    list_folder,
    list_parquet,
    loader_items,
    loader_length,
    parse_item,
    prepare_table,
)

ACCEPTED = (
    "a path, a folder, a Pillow image, a uint8 array (H, W, 3) or (B, H, W, 3), a float tensor "
    "(3, H, W) or (B, 3, H, W) in [0, 1], a list of these, a torch Dataset or DataLoader, "
    "a datasets.Dataset, Parquet files, or a tar"
)
# What reading one row may raise; RuntimeError is what torch's and torchvision's decoders raise on bad files.
READ_ERRORS = (OSError, RuntimeError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
OK = "ok"


@dataclass(frozen=True)
class ImageBatch:
    """Consecutive rows of a source, in its order.

    Attributes:
        pixels: float32 ``(b, 3, S, S)`` in [0, 1]. Rows whose status is not ``"ok"`` are zeros.
        labels: class of each row, or None.
        paths: file of each row, or None.
        status: ``"ok"``, or the reason why the row could not be read.
        hashes: of the content of each image, as it was read; see ``store.identity``.
    """

    pixels: Tensor
    labels: list[int | None]
    paths: list[str | None]
    status: list[str]
    hashes: list[str]


class UndecodedImage(NamedTuple):
    """An image as it came, its class and file, and the hash of its content unless it is a file."""

    image: Any
    label: int | None
    path: str | None
    hash: str


class ImageSource:
    """Images in a fixed order, of known or unknown number. :func:`open_images` makes it.

    Attributes:
        length: number of rows, or None for a stream that cannot tell.
        label_names: name of each class, or None.
        streamed: whether the rows can only be read one after the other.
    """

    def __init__(
        self,
        items: Any,
        *,
        length: int | None,
        streamed: bool = False,
        label_names: Sequence[str] | None = None,
    ) -> None:
        self._items = items
        self.streamed = streamed
        self.length = length
        self.label_names = None if label_names is None else list(label_names)

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("this stream of images has no known length")
        return self.length

    def batches(
        self, image_size: int, batch_size: int, num_workers: int = 0, rows: Iterable[Sequence[int]] | None = None
    ) -> Iterator[ImageBatch]:
        """All rows in order, as ADM centre crops of ``image_size`` pixels a side, ``batch_size`` at a time.

        ``rows`` reads those runs of consecutive rows alone, one after the other, and no batch reaches from one
        into the next; what can be read at random takes rows in any order. A stream passes over what lies before
        and between them, so there they must come in order, and it ends at the first run that it cannot fill.

        A row that cannot be read keeps its place: its pixels are zeros, and its status is the reason.
        ``num_workers`` processes decode what can be read at random; streams and DataLoaders are decoded here,
        since a DataLoader has workers of its own.

        Raises:
            TypeError, ValueError: a size is less than 1, or a stream begins with something that is no image.
        """
        if image_size < 1 or batch_size < 1 or num_workers < 0:
            raise ValueError(
                "expected image_size and batch_size of at least 1 and num_workers of at least 0, got "
                f"image_size={image_size}, batch_size={batch_size}, num_workers={num_workers}"
            )
        if self.streamed:
            ranges = [range(sys.maxsize)] if rows is None else cast(Iterable[range], rows)
            return _stream(self._items, image_size, batch_size, ranges)
        runs = [range(len(self))] if rows is None else rows
        # Lazily, since training asks for more rows than fit into memory.
        parts: Any = (run[start : start + batch_size] for run in runs for start in range(0, len(run), batch_size))
        loader = DataLoader(
            _Decoded(self._items, image_size),
            batch_sampler=parts,
            num_workers=num_workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # else the loader draws from the global one
        )
        return iter(loader)

    def files(self) -> list[Path]:
        """The files that hold the images, one a row or each many, in order; empty where there are none."""
        if isinstance(self._items, ParquetTable):
            return self._items.files
        return [Path(path) for path in self._paths()[: self.length] if path is not None]

    def first(self, count: int) -> ImageSource:
        """The first rows alone, all if there are no more; ValueError for a stream, or a count below 1."""
        if self.streamed or count < 1:
            found = "a stream" if self.streamed else str(count)
            raise ValueError(f"expected images in a fixed order and a count of at least 1, got {found}")
        return ImageSource(self._items, length=min(count, len(self)), label_names=self.label_names)

    def without(self, paths: Collection[str]) -> ImageSource:
        """The rows of a folder or a list whose file is not one of `paths`; other sources as they are."""
        if not isinstance(self._items, (list, tuple)):
            return self
        rows = list(zip(self._items, self._paths(), strict=True))[: self.length]
        kept = [item for item, path in rows if path not in paths]
        return ImageSource(kept, length=len(kept), label_names=self.label_names)

    def items(self) -> Iterator[UndecodedImage]:
        """All images of a source that is no stream, undecoded; what cannot be read is None."""
        for row in range(len(self)):
            try:
                image, label, path = parse_item(self._items[row])
            except READ_ERRORS:
                yield UndecodedImage(None, None, None, UNREADABLE)
                continue
            digest = UNREADABLE if isinstance(image, (str, os.PathLike)) else hash_image(image)
            yield UndecodedImage(image if isinstance(image, (str, os.PathLike)) else None, label, path, digest)

    def _paths(self) -> list[str | None]:
        """The file of each item of a list; empty for anything else."""
        return [parse_item(item).path for item in self._items] if isinstance(self._items, (list, tuple)) else []


class _DecodedRow(NamedTuple):
    pixels: Tensor
    label: int | None
    path: str | None
    status: str
    hash: str = UNREADABLE


class _Decoded(Dataset[_DecodedRow]):
    def __init__(self, items: Any, image_size: int) -> None:
        self.items = items
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> _DecodedRow:
        try:
            item = self.items[index]
        except READ_ERRORS as error:
            return _failed(error, self.image_size)
        return _decode(item, self.image_size)


def _decode(item: Any, image_size: int) -> _DecodedRow:
    label, path, digest = None, None, UNREADABLE
    try:
        image, label, path = parse_item(item)
        digest = hash_image(image)
        return _DecodedRow(load_pixels(image, image_size), label, path, OK, digest)
    except (TypeError, ValueError) as error:
        return _failed(error, image_size, label, path)._replace(hash=digest)


def _failed(error: Exception, image_size: int, label: int | None = None, path: str | None = None) -> _DecodedRow:
    reason = " ".join(str(error).split()) or type(error).__name__
    return _DecodedRow(torch.zeros(3, image_size, image_size), label, path, reason)


def _collate(rows: Sequence[_DecodedRow]) -> ImageBatch:
    pixels, labels, paths, status, hashes = zip(*rows, strict=True)
    return ImageBatch(torch.stack(pixels), list(labels), list(paths), list(status), list(hashes))


def _stream(items: Iterable[Any], image_size: int, batch_size: int, runs: Iterable[range]) -> Iterator[ImageBatch]:
    remaining, position = _checked_first(items), 0
    for run in runs:
        wanted = islice(remaining, run.start - position, run.stop - position)
        position = run.start
        while rows := [_decode(item, image_size) for item in islice(wanted, batch_size)]:
            yield _collate(rows)
            position += len(rows)
        if position < run.stop:
            return


def _checked_first(items: Iterable[Any]) -> Iterator[Any]:
    for index, item in enumerate(items):
        if index == 0:
            check_image(parse_item(item).image)
        yield item


def open_images(images: Any, *, split: str | None = None) -> ImageSource:
    """Open anything that holds images.

    Args:
        images: one of

            - a path, or paths in a list, a NumPy array or a pandas Series;
            - a folder: all images in it and below, sorted. Where every file lies in a subfolder, the
              immediate subfolders are the classes;
            - a tar of ``class/file`` members, or of one ``class.tar`` a class, not compressed;
            - a Parquet file, or a folder with Parquet files, as on the Hugging Face Hub;
            - a Pillow image, or a list;
            - a uint8 array ``(H, W, 3)`` or ``(B, H, W, 3)``, or a list;
            - a float tensor ``(3, H, W)`` or ``(B, 3, H, W)`` in [0, 1], or a list;
            - a torch ``Dataset`` or ``IterableDataset``: items are an image (any of the above), a tuple
              ``(image, label, ...)``, or a mapping with "image" or "img" and perhaps "label";
            - a torch ``DataLoader`` whose batches are stacks of images, tuples ``(images, labels, ...)``,
              mappings, or lists of items;
            - a ``datasets.Dataset`` or ``IterableDataset``, whose columns are found by type, else by name;
              or its column of images.
        split: of a ``DatasetDict``, of a folder of Parquet files, or of one with a subfolder for each split
            ("train", "validation"), the split to open.

    Labels are integers; anything else counts as no label. Pixels are the same whatever a picture comes
    in. A tensor of the asked size passes unrounded; one of another size is rounded to 8 bit.

    Raises:
        TypeError, ValueError: ``images`` is none of these, holds nothing, has a wrong dtype, shape or range,
            or the split does not exist. What is in memory is checked whole; of a data set, the first item.
        FileNotFoundError: ``images`` is a path, and nothing is there.
    """
    if isinstance(images, ImageSource):
        return images
    images = _listed(images)
    if isinstance(images, (str, os.PathLike)):
        return _open_path(Path(images), split)
    if _is_hub_table(images):
        return _open_table(images, split)
    if split is not None:
        raise ValueError(
            f"split='{split}' needs a folder of Parquet files or a DatasetDict, got {type(images).__name__}"
        )
    if isinstance(images, (Image.Image, Tensor, np.ndarray)):
        return _indexed(_unstack(images))
    if isinstance(images, DataLoader):
        return _streamed(loader_items(images), loader_length(images), images.dataset)
    if isinstance(images, (list, tuple)):
        for image in images:
            check_image(parse_item(image).image)
        return _indexed(images)
    return _open_dataset(images)


def _listed(images: Any) -> Any:
    """A pandas Series, or an array of path strings or of objects, as a list; anything else as it is."""
    if hasattr(images, "iloc"):
        # By its own [i] a Series looks i up in its index, which filtering and sorting leave out of order.
        if getattr(images, "ndim", 1) != 1:
            raise TypeError(
                f"cannot read images from a {type(images).__name__} of several columns: pass the one with "
                "the paths, as in frame['path'], or pairs, as in list(zip(frame['path'], frame['label']))"
            )
        return images.tolist()
    if isinstance(images, np.ndarray) and images.dtype.kind in "UO":
        return images.tolist()
    return images


def _open_path(path: Path, split: str | None) -> ImageSource:
    if not path.exists():
        raise FileNotFoundError(f"no file or folder '{path}'")
    if path.suffix == ".tar":
        archive = TarImages(path, IMAGE_EXTENSIONS, split)
        return _indexed(archive, archive.label_names)
    if path.name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")):
        raise ValueError(f"{path} is compressed: decompress it (gunzip) to a tar or a folder, read in any order")
    if split is not None and (path / split).is_dir():
        return _open_path(path / split, None)
    parquet = list_parquet(path, split) if path.is_dir() or path.suffix == ".parquet" else []
    if parquet:
        table = ParquetTable(parquet)
        return _indexed(table, table.columns.label_names)
    if split is not None:
        raise ValueError(
            f"split='{split}' needs a folder of Parquet files or one with a folder '{split}', and '{path}' is neither"
        )
    return _indexed(*list_folder(path)) if path.is_dir() else _indexed([path])


def _is_hub_table(images: Any) -> bool:
    """Whether it is a table of `datasets`, without importing that."""
    # A single column, table["image"], has `features` too but no columns, and is a plain sequence of images.
    has_columns = isinstance(images, Mapping) or hasattr(images, "column_names")
    return has_columns and any(base.__module__.partition(".")[0] == "datasets" for base in type(images).__mro__)


def _open_table(table: Any, split: str | None) -> ImageSource:
    if isinstance(table, Mapping):
        if split not in table:
            raise ValueError(f"a {type(table).__name__} has the splits {list(table)}, got split={split!r}")
        table = table[split]
    streamed = not hasattr(table, "__len__")
    if table.features is None or _has_transform(table):
        return _streamed(table, None, table) if streamed else _indexed(table)
    table, columns = prepare_table(table)
    if streamed:
        return ImageSource(table, length=None, streamed=True, label_names=columns.label_names)
    return _indexed(table, columns.label_names)


def _has_transform(table: Any) -> bool:
    return bool(getattr(table, "format", {}).get("type") == "custom")


def _unstack(images: Image.Image | Tensor | np.ndarray) -> Any:
    """One image as a list of one; a stack as it is, checked whole."""
    if isinstance(images, Image.Image) or images.ndim != 4:
        check_image(images)
        return [images]
    if len(images):
        check_image(images[0])
        if isinstance(images, Tensor) and images.is_floating_point():
            check_range(images)
    return images


def _open_dataset(images: Any) -> ImageSource:
    sized = hasattr(images, "__getitem__") and hasattr(images, "__len__")
    indexed = sized and not isinstance(images, IterableDataset)
    if indexed and not isinstance(images, (Mapping, bytes)):
        return _indexed(images, _class_names(images), check=True)
    if hasattr(images, "__iter__") and not indexed:
        return _streamed(images, None, images)
    raise TypeError(f"cannot read images from {type(images).__name__}: expected {ACCEPTED}")


def _indexed(items: Any, label_names: Sequence[str] | None = None, *, check: bool = False) -> ImageSource:
    if len(items) == 0:
        raise ValueError(f"no images: the {type(items).__name__} is empty")
    if check:
        _check_first(items)
    return ImageSource(items, length=len(items), label_names=label_names)


def _check_first(items: Any) -> None:
    try:
        item = items[0]
    except READ_ERRORS:
        return  # one unreadable file; its row will say so
    check_image(parse_item(item).image)


def _streamed(items: Iterable[Any], length: int | None, dataset: Any) -> ImageSource:
    return ImageSource(items, length=length, streamed=True, label_names=_class_names(dataset))


def _class_names(dataset: Any) -> list[str] | None:
    """``classes`` of torchvision's data sets, where they are plain names."""
    names = getattr(dataset, "classes", None)
    if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
        return cast(list[str], list(names))
    return None
