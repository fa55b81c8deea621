"""Where items come from: folders, Parquet files, `datasets` tables, batches of a DataLoader.

An item is an image, a tuple ``(image, label, ...)``, or a mapping with an image and perhaps a label.
"""

from __future__ import annotations

import json
import operator
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

IMAGE_EXTENSIONS = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
)  # fmt: skip
IMAGE_NAMES = ("image", "img", "images")
LABEL_NAMES = ("label", "labels", "fine_label")


class Row(NamedTuple):
    """An image as it came, its label, and the file that it lies in."""

    image: Any
    label: int | None
    path: str | None


def parse_item(item: Any) -> Row:
    """Take an item apart. Labels that are no integers, or negative, count as absent.

    Raises:
        ValueError: a mapping has no image, or a tuple is empty.
    """
    image, label = _image_and_label(item)
    path = None
    if isinstance(image, Mapping):  # as `datasets` stores encoded files
        path = image.get("path")
        image = path if image.get("bytes") is None else image["bytes"]
    elif isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
    return Row(image, _as_label(label), path)


def _image_and_label(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping) and "bytes" not in item:
        image_name = _first_name(IMAGE_NAMES, item)
        if image_name is None:
            raise ValueError(f"an item has no image: got {list(item)}, expected a key of {IMAGE_NAMES}")
        label_name = _first_name(LABEL_NAMES, item)
        return item[image_name], None if label_name is None else item[label_name]
    if isinstance(item, (tuple, list)):
        if not item:
            raise ValueError("an item is an empty tuple: expected (image, label)")
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _first_name(names: Sequence[str], mapping: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in mapping), None)


def _as_label(value: Any) -> int | None:
    try:
        label = operator.index(value)
    except TypeError:
        return None
    return label if label >= 0 else None  # `datasets` writes -1 for "no label"


# Folders


def list_folder(folder: Path) -> tuple[list[tuple[Path, int | None]], list[str] | None]:
    """The image files below ``folder``, sorted, with their labels, and the names of the classes.

    Where every file lies in a subfolder, the immediate subfolders are the classes, in alphabetical order.
    Names that start with a dot are passed over.

    Raises:
        ValueError: there is no image file.
    """
    relative = sorted(_image_files(folder), key=lambda path: path.parts)
    if not relative:
        extensions = ", ".join(IMAGE_EXTENSIONS)
        raise ValueError(f"no images in folder '{folder}': looked in it and below for {extensions}")
    if any(len(path.parts) == 1 for path in relative):
        return [(folder / path, None) for path in relative], None
    names = sorted({path.parts[0] for path in relative})
    labels = {name: label for label, name in enumerate(names)}
    return [(folder / path, labels[path.parts[0]]) for path in relative], names


def _image_files(folder: Path) -> Iterator[Path]:
    for parent, subfolders, files in os.walk(folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith("."):
                yield (Path(parent) / name).relative_to(folder)


# Tables: Parquet files in Hugging Face's form, and the `datasets` library


class Columns(NamedTuple):
    """The columns of a table that hold the image and the label, and the names of the classes."""

    image: str
    label: str | None
    label_names: list[str] | None


def find_columns(features: Mapping[str, Any]) -> Columns:
    """Find the columns by their feature (``datasets.Image``, ``datasets.ClassLabel``) or else by name.

    ``features`` maps column names to `datasets` features, or to the same as JSON; unknown ones are None.

    Raises:
        ValueError: there is no image column, or there are several and none is named "image" or "img".
    """
    kinds = {name: _kind(feature) for name, feature in features.items()}
    typed = [name for name, kind in kinds.items() if kind == "Image"]
    image = _first_name(IMAGE_NAMES, {name: None for name in typed or kinds})
    if image is None and len(typed) == 1:
        image = typed[0]
    if image is None:
        raise ValueError(
            f"cannot tell the image column among {kinds}: expected one of type Image, or one of {IMAGE_NAMES}"
        )
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    label = _first_name(LABEL_NAMES, kinds) or (classes[0] if len(classes) == 1 else None)
    return Columns(image, label, _class_names(features[label]) if label in classes else None)


def _kind(feature: Any) -> str | None:
    kind = feature.get("_type") if isinstance(feature, Mapping) else getattr(feature, "_type", None)
    return kind if isinstance(kind, str) else None


def _class_names(feature: Any) -> list[str] | None:
    names = feature.get("names") if isinstance(feature, Mapping) else feature.names
    return None if names is None else list(names)


def prepare_table(table: Any) -> tuple[Any, Columns]:
    """Reduce a `datasets` table to its image and label columns, images left encoded.

    Left encoded, a damaged image spoils one row where `datasets` would end the run.
    """
    import datasets

    columns = find_columns(table.features)
    kept = [columns.image] if columns.label is None else [columns.image, columns.label]
    table = table.with_format(None).select_columns(kept)
    if isinstance(table.features[columns.image], datasets.Image):
        table = table.cast_column(columns.image, datasets.Image(decode=False))
    renamed = {columns.image: "image"} | ({} if columns.label is None else {columns.label: "label"})
    return table.rename_columns({old: new for old, new in renamed.items() if old != new}), columns


def list_parquet(path: Path, split: str | None) -> list[Path]:
    """The Parquet files at ``path``: itself, or those of one split in a folder (or in its folder ``data``).

    The split is the beginning of the name, as in ``train-00000-of-00004.parquet``.

    Raises:
        ValueError: there is no such split, or there are several and ``split`` is None.
    """
    if path.is_file():
        return [path]
    files = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    splits = sorted({_split_of(file) for file in files})
    if split is None and len(splits) > 1:
        raise ValueError(f"'{path}' holds the splits {splits}: choose one, as in split='{splits[0]}'")
    if split is not None and files and split not in splits:
        raise ValueError(f"no split '{split}' in '{path}': found {splits}")
    return [file for file in files if split in (None, _split_of(file))]


def _split_of(file: Path) -> str:
    return re.sub(r"-\d+-of-\d+(-\w+)?$", "", file.stem)


class ParquetTable:
    """Rows ``(image, label)`` of Parquet files that hold encoded images, read one row group at a time."""

    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow.parquet

        self.files = list(files)
        self.columns = find_columns(_parquet_features(files[0]))
        self._groups: list[tuple[Path, int]] = []
        self._ends: list[int] = []
        self._loaded: tuple[int, list[Any]] = (-1, [])
        for file in files:
            metadata = pyarrow.parquet.read_metadata(file)
            for group in range(metadata.num_row_groups):
                self._groups.append((file, group))
                self._ends.append(len(self) + metadata.row_group(group).num_rows)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        group = bisect_right(self._ends, index)
        if self._loaded[0] != group:
            self._loaded = (group, self._read(group))
        offset = index - (self._ends[group - 1] if group else 0)
        image, *label = (column[offset].as_py() for column in self._loaded[1])
        return image, label[0] if label else None

    def _read(self, group: int) -> list[Any]:
        import pyarrow.parquet

        file, number = self._groups[group]
        names = [name for name in (self.columns.image, self.columns.label) if name is not None]
        # Opened anew each time: a handle shared by forked workers would share its position.
        table = pyarrow.parquet.ParquetFile(file).read_row_group(number, columns=names)
        return [table[name].combine_chunks() for name in names]


def _parquet_features(file: Path) -> dict[str, Any]:
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(file)
    stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = stored.get("info", {}).get("features", {})
    return {name: features.get(name) for name in schema.names}


# Batches of a DataLoader


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


def _split_batch(batch: Any) -> Iterator[Any]:
    if isinstance(batch, (tuple, list)) and not (batch and _is_image_batch(batch[0])):
        yield from batch
        return
    images, labels = _image_and_label(batch)
    if isinstance(images, (Tensor, np.ndarray)) and images.ndim != 4:
        raise ValueError(f"expected batches of images (B, 3, H, W), got shape {tuple(images.shape)}")
    if labels is None or not hasattr(labels, "__len__") or len(labels) != len(images):
        labels = [None] * len(images)
    yield from zip(images, labels, strict=True)


def _is_item(value: Any) -> bool:
    """Whether it holds one image, as itself, in a mapping, or in front of a tuple without other images."""
    if isinstance(value, (tuple, list)):
        if not value or not _is_image(value[0]):
            return False
        return len(value) == 1 or not all(isinstance(each, type(value[0])) and _is_image(each) for each in value)
    image, _ = _image_and_label(value)
    return isinstance(image, Mapping) or _is_image(image)


def _is_image_batch(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return len(value) > 0 and all(_is_image(element) for element in value)
    return isinstance(value, (Tensor, np.ndarray)) and value.ndim == 4


def _is_image(value: Any) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):
        return value.ndim == 3
    return isinstance(value, (str, os.PathLike, bytes, Image.Image))
