"""Images with masks: folders of pairs, Parquet files, or a data set, read one pair at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .decoding import ImageError, decode, load_image
from .sources import IMAGE_EXTENSIONS, ParquetTable, list_folder, list_parquet, parse_item

IMAGE_FOLDERS = ("images", "image")
MASK_FOLDERS = ("masks", "mask", "annotations", "labels")
MASK_COLUMNS = ("mask", "masks", "annotation", "annotations", "segmentation", "seg_map", "label", "labels")
MASK_MODES = ("L", "P", "1", "I", "I;16")


class ImageMask(NamedTuple):
    """One image and the class of each of its pixels.

    Attributes:
        image: uint8 ``(H, W, 3)``.
        mask: integers ``(H, W)``, classes from 0, or the label of pixels to ignore.
        path: the image's file, or "row 7" where there is none.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.integer]
    path: str


class ImageMasks:
    """Pairs in a fixed order. :func:`open_pairs` makes it."""

    def __init__(
        self, items: Any, paths: Sequence[str] | None, num_classes: int | None, ignore_index: int | None
    ) -> None:
        self._items, self._paths = items, paths
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def __len__(self) -> int:
        return len(self._items)

    def path(self, row: int) -> str:
        """What a pair is called in messages and results."""
        return f"row {row}" if self._paths is None else self._paths[row]

    def __getitem__(self, row: int) -> ImageMask:
        """Read a pair; ImageError that names it if a file is damaged or missing, or the mask does not fit."""
        if not 0 <= row < len(self):
            raise IndexError(f"pair {row} of {len(self)}")
        try:
            image, mask, file = _image_and_mask(self._items[row])
            pixels, labels = np.asarray(load_image(image)), load_mask(mask)
            self._check(pixels, labels)
        except (TypeError, ValueError, OSError, KeyError) as error:
            raise ImageError(f"{self.path(row)}: {error}") from error
        return ImageMask(pixels, labels, file or self.path(row))

    def readable(
        self, unreadable: list[dict[str, Any]], rows: Iterable[int] | None = None
    ) -> Iterator[tuple[int, ImageMask]]:
        """Those of the rows (None: all) that can be read, with their pairs; others are appended as row, path, reason.

        Raises:
            ValueError: not one can be read.
        """
        found = 0
        for row in range(len(self)) if rows is None else map(int, rows):
            try:
                pair = self[row]
            except ImageError as error:
                unreadable.append({"row": row, "path": self.path(row), "reason": str(error)})
                continue
            found += 1
            yield row, pair
        if not found:
            raise ValueError(f"none of {len(unreadable)} pairs could be read; the first: {unreadable[0]['reason']}")

    def _check(self, image: NDArray[np.uint8], mask: NDArray[np.integer]) -> None:
        if image.shape[:2] != mask.shape:
            sizes = " and ".join(f"{array.shape[1]}x{array.shape[0]}" for array in (image, mask))
            raise ImageError(f"image and mask must have one size, got {sizes} pixels")
        if self.num_classes is not None:
            values = np.unique(mask)
            wrong = values[(values < 0) | ((values >= self.num_classes) & (values != self.ignore_index))]
            if len(wrong):
                also = "" if self.ignore_index is None else f", or {self.ignore_index} for pixels to ignore"
                raise ImageError(
                    f"the mask holds {wrong[:5].tolist()}: expected classes 0 to {self.num_classes - 1}{also}"
                )


def open_pairs(
    data: Any, *, split: str | None = None, num_classes: int | None = None, ignore_index: int | None = None
) -> ImageMasks:
    """Open images with masks.

    Args:
        data: one of

            - a folder with ``images/`` and ``masks/`` (or ``annotations/``), the mask of ``images/a/b.jpg`` being
              ``masks/a/b.png``; with splits as ``train/images`` or as ``images/train``;
            - a Parquet file, or a folder of them, with a column "image" and one of :data:`MASK_COLUMNS`;
            - a sequence whose items are ``(image, mask)``, or have ``image`` and ``mask`` as attributes or keys,
              such as :class:`PhotoDigits`. Images and masks are files, bytes, Pillow images or arrays.
        split: of a folder, or of Parquet files named by it.
        num_classes: see that masks hold ``0 … num_classes - 1`` alone; None: any integers.
        ignore_index: a value that they may hold besides.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError, TypeError: it holds no pairs, or has no such split.
    """
    if not isinstance(data, (str, os.PathLike)):
        if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
            raise TypeError(f"cannot read pairs from {type(data).__name__}: expected a path or a sequence of pairs")
        return ImageMasks(_filled(data, data), None, num_classes, ignore_index)
    path = Path(data)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder '{path}'")
    folders = _pair_folders(path, split)
    if folders is not None:
        stems, items = _folder_pairs(*folders)
        return ImageMasks(items, stems, num_classes, ignore_index)
    return ImageMasks(_filled(_parquet_pairs(path, split), path), None, num_classes, ignore_index)


def load_mask(mask: str | os.PathLike[str] | bytes | Image.Image | np.ndarray) -> NDArray[np.integer]:
    """Classes of all pixels, ``(H, W)``: of a picture with one number a pixel (palettes give their numbers).

    Raises:
        ImageError: it cannot be read, or holds colours.
        ValueError: an array of another shape, or that holds no integers.
    """
    if isinstance(mask, np.ndarray):
        if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
            raise ValueError(f"a mask must be integers (H, W), got {mask.dtype} {mask.shape}")
        return mask
    return decode(mask, _class_numbers)


def _class_numbers(image: Image.Image) -> NDArray[np.integer]:
    if image.mode not in MASK_MODES:
        raise ImageError(
            f"a mask of mode '{image.mode}': expected one class number a pixel (modes {', '.join(MASK_MODES)}); "
            "map colours to numbers first"
        )
    numbers = np.array(image)
    return numbers.astype(np.uint8) if image.mode == "1" else numbers


def _image_and_mask(item: Any) -> tuple[Any, Any, str | None]:
    """The two of an item, each as it came or as the bytes of a file, and the image's file."""
    if isinstance(item, Mapping):
        image, mask = item["image"], next((item[name] for name in MASK_COLUMNS if name in item), None)
    elif hasattr(item, "image") and hasattr(item, "mask"):
        image, mask = item.image, item.mask
    else:
        image, mask, *_ = item
    for what, value in (("image", image), ("mask", mask)):
        if value is None:
            raise ImageError(f"there is no {what}")
    opened = parse_item(image)
    return opened.image, parse_item(mask).image, opened.path


def _filled(items: Any, data: Any) -> Any:
    if len(items) == 0:
        raise ValueError(f"no pairs: {data if isinstance(data, Path) else type(data).__name__} is empty")
    return items


# Folders


def _pair_folders(path: Path, split: str | None) -> tuple[Path, Path] | None:
    """The folders of images and of masks; None if `path` has none of these names."""
    places = [path] if split is None else [path / split, path]
    for place in places:
        below = split if place == path and split is not None else "."
        images, masks = (
            next((place / name / below for name in names if (place / name / below).is_dir()), None)
            for names in (IMAGE_FOLDERS, MASK_FOLDERS)
        )
        if images is not None and masks is not None:
            return images, masks
    return None


def _folder_pairs(images: Path, masks: Path) -> tuple[list[str], list[tuple[Path | None, Path | None]]]:
    """Every name that has an image or a mask, sorted, and its two files."""
    found = [_by_stem(images), _by_stem(masks)]
    stems = sorted(found[0].keys() | found[1].keys())
    items = [(found[0].get(stem), found[1].get(stem)) for stem in stems]
    if not any(image and mask for image, mask in items):
        raise ValueError(
            f"no image in '{images}' has a mask in '{masks}': pairs have one name, but there are "
            f"{next(iter(found[0]))} … and {next(iter(found[1]))} …"
        )
    names = [str(image or images / f"{stem}.*") for stem, (image, _) in zip(stems, items, strict=True)]
    return names, items


def _by_stem(folder: Path) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path, _ in list_folder(folder)[0]:
        stem = str(path.relative_to(folder).with_suffix(""))
        if stem in by_stem:
            raise ValueError(f"two files for one name in '{folder}': {by_stem[stem].name} and {path.name}")
        by_stem[stem] = path
    return by_stem


# Parquet


def _parquet_pairs(path: Path, split: str | None) -> ParquetTable:
    files = list_parquet(path, split) if path.is_dir() or path.suffix == ".parquet" else []
    if not files:
        raise ValueError(
            f"'{path}' holds no pairs{'' if split is None else f' of a split {split!r}'}: expected folders 'images' "
            f"and 'masks' with files of one name ({', '.join(IMAGE_EXTENSIONS[:4])} …), or Parquet files"
        )
    import pyarrow.parquet

    names = pyarrow.parquet.read_schema(files[0]).names
    mask = next((name for name in MASK_COLUMNS if name in names), None)
    if mask is None:
        raise ValueError(f"no column of masks in {files[0]}: got {names}, expected one of {MASK_COLUMNS}")
    table = ParquetTable(files)
    table.columns = table.columns._replace(label=mask)
    return table
