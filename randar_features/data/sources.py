"""Opens images in any form: paths, folders, archives, tables, arrays, data sets, loaders."""

import io
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from randar_features.data.containers.account import Account
from randar_features.data.containers.archives import TarImages
from randar_features.data.containers.items import image_and_label, parse_item
from randar_features.data.containers.labels import NONE, Labels, read_labels
from randar_features.data.containers.layout import arrange, wrong_split
from randar_features.data.containers.listing import holds_image, is_named_as_image, list_files
from randar_features.data.containers.lists import LIST_ENDINGS, METADATA_NAMES, metadata_labels, open_list
from randar_features.data.containers.loaders import loader_items, loader_length, repeats_images
from randar_features.data.containers.paths import check_file, head_of, is_url, reading
from randar_features.data.containers.shards import (
    PARQUET,
    SHARD_ENDINGS,
    TAR,
    are_shards,
    choose_shards,
    expand,
    expand_all,
    is_pattern,
    root_of,
    split_of,
)
from randar_features.data.containers.tables import (
    NAMED,
    ParquetTable,
    SavedTable,
    check_buffers,
    find_columns,
    is_saved_table,
    list_parquet,
    load_named_table,
    only_class_names,
    prepare_table,
    table_labels,
)
from randar_features.data.decode.decoding import check_image, check_range
from randar_features.data.decode.formats import image_format
from randar_features.data.decode.opening import MAX_PIXELS
from randar_features.data.decode.ranges import Reading
from randar_features.data.images import ImageSource, check_item
from randar_features.store.records import printable

ACCEPTED = (
    "a path, a folder, the bytes of a picture, a Pillow image, a uint8 array (H, W, 3) or (B, H, W, 3), a float "
    "tensor (3, H, W) or (B, 3, H, W) in [0, 1], a list of these, a torch Dataset or DataLoader, "
    "a datasets.Dataset, Parquet files, a list of files (CSV, JSON Lines), or tars"
)
CONTAINERS = (*SHARD_ENDINGS, ".zip", *LIST_ENDINGS)
COMPRESSED = {b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z"}
COMPRESSED_ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip", ".7z", ".rar", ".gz")
ARRAY_ENDINGS = (".npy", ".npz", ".pt", ".pth", ".h5", ".hdf5", ".pkl", ".mat")
LOOKED_THROUGH = 8  # items that may be missing or unreadable before one is checked


def open_images(
    images: Any,
    *,
    split: str | None = None,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> ImageSource:
    """Open anything that holds images.

    Args:
        images: one of

            - a path, or paths in a list, a NumPy array or a pandas Series;
            - a folder: all images in it and below, sorted. The uppermost folders are the classes, unless they are
              named as splits, or there is only one; `metadata.csv` or `.jsonl` may give labels, as for `datasets`;
            - a tar of such folders, or of one ``class.tar`` a class, not compressed. ``key.cls`` or ``key.json``
              beside an image may hold its label, as in WebDataset;
            - a Parquet file, or a folder with Parquet files, as on the Hugging Face Hub;
            - several tars or Parquet files, the shards of one source: a folder of them, a list, or a pattern such as
              ``"shards/{000..003}.tar"`` or ``"shards/*.tar"``;
            - a folder that `datasets` wrote with ``save_to_disk``;
            - ``datasets:NAME`` or ``datasets:NAME:CONFIGURATION``, what ``datasets.load_dataset`` takes;
            - a CSV or JSON Lines file with a column of paths, relative to its folder, and perhaps one of labels;
            - the bytes of a picture, a Pillow image, or a list;
            - a uint8 array ``(H, W, 3)`` or ``(B, H, W, 3)``, or a list;
            - a float tensor ``(3, H, W)`` or ``(B, 3, H, W)`` in [0, 1], or a list;
            - a torch ``Dataset`` or ``IterableDataset``: items are an image (any of the above), a tuple
              ``(image, label, ...)``, or a mapping with "image" or "img" and perhaps "label";
            - a torch ``DataLoader`` whose batches are stacks of images, tuples ``(images, labels, ...)``,
              mappings, or lists of items;
            - a ``datasets.Dataset`` or ``IterableDataset``, whose columns are found by type, else by name;
              or its column of images.
        split: of a ``DatasetDict``, of a folder of Parquet files, or of a folder or tar with a folder for each split
            ("train", "validation"), the split to open.
        value_range, max_pixels: of pictures of more than 8 bits, and the largest that is read; see :func:`load_image`.

    What was found, and what of it is not used, is in the source's `account`, is logged, and where something was
    passed over or dropped is a warning too. Labels are classes: whole numbers of any type, one-hot vectors, or names
    (`containers/labels.py`). Pixels are the same whatever a picture comes in. A tensor of the size
    wanted passes unrounded; one of another size is rounded to 8 bit.

    Raises:
        TypeError, ValueError: ``images`` is none of these, holds nothing, has a wrong dtype, shape or range, is torn,
            or the split does not exist or must be chosen. What is in memory is checked whole; of a data set, the
            first item.
        FileNotFoundError: ``images`` is a path, and nothing is there.
    """
    reading = Reading(value_range, max_pixels)
    if isinstance(images, ImageSource):
        if split is not None:
            raise ValueError(f"split='{split}' needs data with splits, got an ImageSource, which is opened already")
        own = images.reading  # what is not stated stays
        limit = own.max_pixels if max_pixels == MAX_PIXELS else max_pixels
        reading = Reading(reading.value_range or own.value_range, limit)
        return images if reading == own else images.read_with(reading)
    source = _open(_listed(images), split)
    source.reading, source.root = reading, root_of(images, split)
    account = source.account
    account.images = source.length
    if source.label_names is not None:
        account.classes = len(source.label_names)
    if source.labels is not None:
        account.classes = account.classes or len(np.unique(source.labels[source.labels >= 0]))
        account.unlabelled = int((source.labels < 0).sum())
    account.tell()
    return source


def _listed(images: Any) -> Any:
    """A pandas Series, or an array of path strings or of objects, as a list; anything else as it is."""
    if hasattr(images, "iloc"):
        if images.ndim == 2 and images.shape[1] == 1:  # as scikit-learn's ColumnTransformer gives a column
            images = images.iloc[:, 0]
        # A Series looks i up in its index, which filtering and sorting leave out of order.
        if getattr(images, "ndim", 1) != 1:
            raise TypeError(
                f"cannot read images from a {type(images).__name__} of several columns: pass the one with "
                "the paths, as in frame['path'], or pairs, as in list(zip(frame['path'], frame['label']))"
            )
        return images.tolist()
    if isinstance(images, np.ndarray) and images.dtype.kind in "UO":
        return images.tolist()
    return expand_all(images) if isinstance(images, (list, tuple)) else images


def _open(images: Any, split: str | None) -> ImageSource:
    account = Account()
    if isinstance(images, (str, os.PathLike)):
        return _open_path(images, split, account)
    if _is_hub_table(images):
        return _open_table(images, split, account)
    if are_shards(images, TAR):
        return _open_tars([Path(path) for path in images], split, account)
    if split is None and are_shards(images, PARQUET):
        return _open_parquet([Path(path) for path in images], account)
    if split is not None:
        raise ValueError(
            f"split='{split}' needs a folder, a tar, or Parquet files with splits, or a DatasetDict, "
            f"got {type(images).__name__}"
        )
    if isinstance(images, (Image.Image, Tensor, np.ndarray)):
        return _indexed(_unstack(images), account)
    if isinstance(images, (bytes, bytearray)):
        if image_format(bytes(images)) is None:
            raise ValueError(f"{len(images)} bytes that are no picture of a known format; a path is given as text")
        return _indexed([bytes(images)], account)
    if isinstance(images, io.IOBase) or (hasattr(images, "read") and not hasattr(images, "__getitem__")):
        raise TypeError(f"cannot read images from an open file ({type(images).__name__}): pass its path, or its bytes")
    if isinstance(images, DataLoader):
        if repeated := repeats_images(images):
            warnings.warn(repeated, stacklevel=3)
        return _streamed(loader_items(images), _class_names(images.dataset), account, loader_length(images))
    if isinstance(images, (list, tuple)):
        return _open_list(images, account)
    return _open_dataset(images, account)


def _open_list(images: Sequence[Any], account: Account) -> ImageSource:
    """Images and pairs in memory, all of them checked."""
    items = [parse_item(image) for image in images]
    for image, item in zip(images, items, strict=True):
        check_image(item.image)
        if isinstance(image, (str, os.PathLike)) and _holds_many(Path(image)):
            raise ValueError(f"'{printable(image)}' in a list of images holds many: open it by itself")
    # Without labels: they are read here, all at once.
    bare = [image_and_label(image)[0] for image in images]
    return _indexed(bare, account, read_labels([item.label for item in items], None, account))


def _holds_many(path: Path) -> bool:
    """Whether it is a folder, an archive or a table. A name that ends as an image's is not looked up."""
    return path.suffix in CONTAINERS or (not is_named_as_image(path.name) and path.is_dir())


# Paths


def _open_path(given: str | os.PathLike[str], split: str | None, account: Account) -> ImageSource:
    text = os.fspath(given)
    if not text:
        raise ValueError("an empty path: give a file or a folder ('.' is the working directory)")
    if text.startswith(NAMED):
        return _open_table(load_named_table(text.removeprefix(NAMED), split), None, account)
    if is_url(text):
        raise ValueError(f"'{printable(text)}' is a URL: download it, and give the file or the folder")
    path = Path(text)
    if is_pattern(text):
        return _open(expand(text), split)
    if not path.exists():
        hint = f"; a data set of the Hub is opened by {NAMED}{text}" if re.fullmatch(r"[\w-]+/[\w-]+", text) else ""
        hint = "; `~` is expanded by shells alone: give Path(…).expanduser()" if text.startswith("~") else hint
        raise FileNotFoundError(f"no file or folder '{printable(path)}'{hint}")
    if path.is_dir():
        return _open_folder(path, split, account)
    check_file(path)
    return _open_file(path, split, account)


def _open_file(path: Path, split: str | None, account: Account) -> ImageSource:
    """A file, taken for what its first bytes say; the ending decides where they say nothing."""
    head = head_of(path)
    if path.suffix == ".tar" or head[257:262] == b"ustar":
        return _open_tars([path], split, account)
    if path.suffix == ".parquet" or head.startswith(b"PAR1"):
        return _open_parquet([path], account) if split is None else _no_split(path, split)
    kind = next((kind for magic, kind in COMPRESSED.items() if head.startswith(magic)), None)
    if kind is not None or path.name.endswith(COMPRESSED_ENDINGS):
        raise ValueError(
            f"{printable(path)} is compressed{f' ({kind})' if kind else ''}: unpack it to a folder, or decompress it "
            "(gunzip) to a tar; these are read in any order"
        )
    if split is not None:
        return _no_split(path, split)
    if path.suffix in LIST_ENDINGS:
        files, labels = open_list(path, account)
        return _indexed(files, account, labels, path)
    if path.suffix == ".arrow":
        import datasets

        with reading(path, "a table in Arrow's form"):
            table = datasets.Dataset.from_file(str(path))
        return _from_files(table, path.parent, account)
    if path.suffix in ARRAY_ENDINGS:
        raise ValueError(f"{printable(path)} holds arrays: load it, and pass what it holds, such as numpy.load(…)['x']")
    if not is_named_as_image(path.name) and image_format(head) is None:
        raise ValueError(f"{printable(path)} is no picture of a known format, and no other file that holds images")
    return _indexed([path], account)


def _no_split(path: Path, split: str) -> ImageSource:
    raise ValueError(wrong_split(printable(path), [], split))


def _open_folder(folder: Path, split: str | None, account: Account) -> ImageSource:
    if is_saved_table(folder):
        return _open_saved(folder, split, account)
    if split is not None and split not in (".", "..") and (folder / split).is_dir():
        account.notes.append(f"the split '{split}'")
        return _open_folder(folder / split, None, account)
    parquet = list_parquet(folder, split, account)
    if parquet:
        return _open_parquet(parquet, account)
    files = list_files(folder, account)
    metadata = [path for path in files if path.name in METADATA_NAMES]
    tars = [path for path in files if path.suffix == TAR]
    images = [path for path in files if path not in (*metadata, *tars) and holds_image(folder / path, path, account)]
    if tars and not images:
        by_name = any(split_of(path) or path.stem == split for path in tars)  # else the splits lie in the tars
        shards = choose_shards(folder, tars, split if by_name else None, account, kind="tars")
        return _open_tars(shards, None if by_name else split, account, folder)
    for path in tars:
        account.pass_over("tars beside images", str(path))
    if not images:
        found = "; ".join(account.losses()) or "nothing is there"
        raise ValueError(f"no images in folder '{printable(folder)}' and below: {found}")
    rows, labels = arrange(images, split, printable(folder), account)
    chosen = [images[row] for row in rows]
    stated = metadata_labels(folder, metadata, chosen, account)
    return _indexed([folder / path for path in chosen], account, labels if stated is None else stated)


def _open_tars(files: list[Path], split: str | None, account: Account, where: Path | None = None) -> ImageSource:
    archives = TarImages(files, split, account, where)
    return _indexed(archives, account, archives.labels)


def _open_parquet(files: list[Path], account: Account) -> ImageSource:
    table = ParquetTable(files, account)
    return _indexed(table, account, table.labels(account), files[0])


# Tables of `datasets`


def _is_hub_table(images: Any) -> bool:
    """Whether it is a table of `datasets`, without importing that."""
    # A single column, table["image"], has `features` too but no columns, and is a plain sequence of images.
    has_columns = isinstance(images, Mapping) or hasattr(images, "column_names")
    return has_columns and any(base.__module__.partition(".")[0] == "datasets" for base in type(images).__mro__)


def _open_table(table: Any, split: str | None, account: Account) -> ImageSource:
    if isinstance(table, Mapping):
        table = _of_split(table, split, type(table).__name__)
    elif split is not None:
        raise ValueError(f"split='{split}' needs a DatasetDict, got {type(table).__name__}, which is one split")
    streamed = not hasattr(table, "__len__")
    transformed = getattr(table, "format", {}).get("type") == "custom"
    if table.features is None or transformed:
        names = only_class_names(table.features or {})
        return _streamed(table, names, account) if streamed else _indexed(table, account, Labels(None, names))
    columns = find_columns(table.features, account)
    prepared = prepare_table(table, columns, label=streamed)
    if streamed:
        return _streamed(prepared, columns.label_names, account)
    return _indexed(prepared, account, table_labels(table, columns, account))


def _of_split(table: Mapping[str, Any], split: str | None, where: str) -> Any:
    if split is None and len(table) == 1:
        return next(iter(table.values()))
    if split is None or split not in table:
        raise ValueError(f"a {where} has the splits {list(table)}, got split={split!r}: choose one of them")
    return table[split]


def _open_saved(folder: Path, split: str | None, account: Account) -> ImageSource:
    import datasets

    with reading(folder, "a folder of datasets.save_to_disk"):
        table = datasets.load_from_disk(str(folder))
    if isinstance(table, Mapping):
        table = _of_split(table, split, f"data set in {printable(folder)}")
    elif split is not None:
        return _no_split(folder, split)
    return _from_files(table, folder, account)


def _from_files(table: Any, folder: Path, account: Account) -> ImageSource:
    with reading(folder, "a table of images"):
        check_buffers(table)
        columns = find_columns(table.features, account)
        labels = table_labels(table, columns, account)
    items = SavedTable(prepare_table(table, columns, label=False), folder)
    return _indexed(items, account, labels, folder)


# In memory


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


def _open_dataset(images: Any, account: Account) -> ImageSource:
    if isinstance(images, (set, frozenset)):
        raise TypeError(f"a {type(images).__name__} has no order: pass sorted(…) of it")
    sized = hasattr(images, "__getitem__") and hasattr(images, "__len__")
    indexed = sized and not isinstance(images, IterableDataset)
    if indexed and not isinstance(images, Mapping):
        _check_first(images)
        return _indexed(images, account, Labels(None, _class_names(images)))
    if hasattr(images, "__iter__") and not indexed:
        return _streamed(images, _class_names(images), account)
    raise TypeError(f"cannot read images from {type(images).__name__}: expected {ACCEPTED}")


def _indexed(items: Any, account: Account, labels: Labels = NONE, where: Path | None = None) -> ImageSource:
    if len(items) == 0:
        raise ValueError(f"no images: {printable(where) if where else f'the {type(items).__name__}'} is empty")
    return ImageSource(items, account, length=len(items), label_names=labels.names, labels=labels.values)


def _check_first(items: Any) -> None:
    """Check the first item that can be read; others keep their place, and say why when they are read."""
    for index in range(min(LOOKED_THROUGH, len(items))):
        try:
            item = items[index]
        except Exception:
            continue
        if item is not None:
            check_item(item)
            return


def _streamed(
    items: Iterable[Any], label_names: list[str] | None, account: Account, length: int | None = None
) -> ImageSource:
    return ImageSource(items, account, length=length, streamed=True, label_names=label_names)


def _class_names(dataset: Any) -> list[str] | None:
    """``classes`` of torchvision's data sets, also of a part of one, where they are plain names."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
        return cast(list[str], list(names))
    return None
