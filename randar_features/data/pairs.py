"""Images with masks: folders of pairs, Parquet files, or a data set, read one pair at a time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from randar_features.data.containers.account import Account
from randar_features.data.containers.items import image_and_label, parse_item
from randar_features.data.containers.layout import IMAGE_FOLDERS, MASK_FOLDERS, find_splits, wrong_split
from randar_features.data.containers.listing import list_images
from randar_features.data.containers.tables import ParquetTable, list_parquet, parquet_features
from randar_features.data.decode.decoding import read_picture
from randar_features.data.decode.masks import WHITE, MaskOrientation, fit_mask, is_white_on_black, read_mask
from randar_features.data.decode.opening import MAX_PIXELS, ImageError
from randar_features.data.decode.ranges import Reading

MASK_COLUMNS = ("mask", "masks", "annotation", "annotations", "segmentation", "seg_map", "label", "labels")


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

    def __init__(self, items: Any, paths: Sequence[str] | None, rules: PairRules) -> None:
        self._items, self._paths, self.rules = items, paths, rules
        self._notes: dict[int, str] = {}

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
            pixels, labels, note = self.rules.read(image, mask)
            if note is not None:
                self._notes[row] = note
        except Exception as error:  # a data set of somebody else may raise anything for one bad pair
            raise ImageError(f"{self.path(row)}: {error}") from error
        return ImageMask(pixels, labels, file or self.path(row))

    def readable(
        self, unreadable: list[dict[str, Any]], rows: Iterable[int] | None = None
    ) -> Iterator[tuple[int, ImageMask]]:
        """Number and pair of all of `rows` (None: all) that can be read; others are appended as row, path, reason.

        Raises:
            ValueError: not one can be read; or all pixels of all masks are to be ignored; or of two classes all masks
                hold 0 and 255, which is to be ignored.

        Warns:
            UserWarning: classes were declared that no mask holds; images are nearly black.
        """
        values: set[int] = set()
        count = 0
        for row in range(len(self)) if rows is None else map(int, rows):
            try:
                pair = self[row]
            except ImageError as error:
                unreadable.append({"row": row, "path": self.path(row), "reason": str(error)})
                continue
            count += 1
            values.update(np.unique(pair.mask).tolist())
            yield row, pair
        if not count:
            raise ValueError(f"none of {len(unreadable)} pairs could be read; the first: {unreadable[0]['reason']}")
        self.rules.check_found(values, count)
        if self._notes:
            row, note = next(iter(self._notes.items()))
            warnings.warn(f"{len(self._notes)} of {count} images need a look; {self.path(row)} {note}", stacklevel=2)


@dataclass(frozen=True)
class PairRules:
    """What the masks of a data set may hold, and how images and masks are read. The fields are `open_pairs`'s."""

    num_classes: int | None
    ignore_index: int | None
    mask_orientation: MaskOrientation | None
    reading: Reading

    def __post_init__(self) -> None:
        if self.mask_orientation not in (None, *get_args(MaskOrientation)):
            raise ValueError(
                f"mask_orientation must be one of {get_args(MaskOrientation)}, or None where sizes tell it; "
                f"got {self.mask_orientation!r}"
            )
        for name, value in (("num_classes", self.num_classes), ("ignore_index", self.ignore_index)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
                raise ValueError(f"{name} must be a whole number or None, got {value!r}")
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")

    def read(self, image: Any, mask: Any) -> tuple[NDArray[np.uint8], NDArray[np.integer], str | None]:
        """Image (H, W, 3), mask (H, W) and the note of `Picture`; ImageError if they do not fit."""
        picture, (labels, own) = read_picture(image, self.reading), read_mask(mask, self.reading)
        pixels = np.asarray(picture.image)
        labels = fit_mask(
            labels, pixels.shape[:2], own=own, image=picture.orientation, orientation=self.mask_orientation
        )
        return pixels, self._classes(labels), picture.note

    def _classes(self, mask: NDArray[np.integer]) -> NDArray[np.integer]:
        if self.num_classes is None:
            return mask
        values = np.unique(mask)
        if is_white_on_black(values, self.num_classes, self.ignore_index):
            return (mask == WHITE).astype(np.uint8)
        wrong = values[(values < 0) | ((values >= self.num_classes) & (values != self.ignore_index))]
        if len(wrong):
            also = "" if self.ignore_index is None else f", or {self.ignore_index} for pixels to ignore"
            raise ImageError(f"the mask holds {wrong[:5].tolist()}: expected classes 0 to {self.num_classes - 1}{also}")
        return mask

    def check_found(self, values: set[int], count: int) -> None:
        """See that the values of `count` masks leave something to tell apart, and warn of classes that never occur."""
        if self.num_classes is None:
            return
        if values <= {self.ignore_index}:
            raise ValueError(f"all pixels of all {count} masks are {self.ignore_index}, which is to be ignored")
        if self.num_classes == 2 and self.ignore_index == WHITE and values == {0, WHITE}:
            raise ValueError(
                f"all of {count} masks hold 0 and {WHITE} alone, and {WHITE} is to be ignored: nothing is left to "
                f"tell apart. If {WHITE} is the second class, give another ignore_index, such as -1"
            )
        missing = sorted(set(range(self.num_classes)) - values)
        if missing:
            warnings.warn(
                f"{self.num_classes} classes were declared, and {len(missing)} occur in none of {count} masks: "
                f"{', '.join(map(str, missing[:10]))}{', …' if len(missing) > 10 else ''}",
                stacklevel=2,
            )


def open_pairs(
    data: Any,
    *,
    split: str | None = None,
    num_classes: int | None = None,
    ignore_index: int | None = None,
    mask_orientation: MaskOrientation | None = None,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
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
        num_classes: see that masks hold ``0 … num_classes - 1`` alone; None: any integers. With two classes a mask
            of 0 and 255 alone is read as 0 and 1.
        ignore_index: a value that they may hold besides.
        mask_orientation: what masks were drawn on where an image is turned by EXIF and neither the mask's size nor
            its own EXIF can tell: the "stored" image or the "upright" one; None: such a pair is refused.
        value_range, max_pixels: of the images, see :func:`load_image`; masks keep their numbers.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError, TypeError: it holds no pairs, or has no such split.
    """
    rules = PairRules(num_classes, ignore_index, mask_orientation, Reading(value_range, max_pixels))
    if not isinstance(data, (str, os.PathLike)):
        if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
            raise TypeError(f"cannot read pairs from {type(data).__name__}: expected a path or a sequence of pairs")
        return ImageMasks(_filled(data, data), None, rules)
    path = Path(data)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder '{path}'")
    folders = _pair_folders(path, split)
    if folders is not None:
        stems, items = _folder_pairs(*folders)
        return ImageMasks(items, stems, rules)
    return ImageMasks(_filled(_parquet_pairs(path, split), path), None, rules)


def _image_and_mask(item: Any) -> tuple[Any, Any, str | None]:
    """The two of an item, each as it came or as the bytes of a file, and the image's file."""
    if isinstance(item, Mapping):
        image, mask = image_and_label(item)[0], next((item[name] for name in MASK_COLUMNS if name in item), None)
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
            if splits := find_splits([each.name for each in images.iterdir() if each.is_dir()]):
                raise ValueError(wrong_split(str(images.parent), splits, None))
            return images, masks
    return None


def _folder_pairs(images: Path, masks: Path) -> tuple[list[str], list[tuple[Path | None, Path | None]]]:
    """Every name that has an image or a mask, sorted, and its two files."""
    account = Account()
    found = [_by_stem(images, account), _by_stem(masks, account)]
    stems = sorted(found[0].keys() | found[1].keys())
    items = [(found[0].get(stem), found[1].get(stem)) for stem in stems]
    if not any(image and mask for image, mask in items):
        first, second = (f"{next(iter(names))} …" if names else "none" for names in found)
        raise ValueError(
            f"no image in '{images}' has a mask in '{masks}': pairs have one name, but there are {first} and {second}"
        )
    account.images, account.masks = (sum(file is not None for file in files) for files in zip(*items, strict=True))
    account.tell()
    names = [str(image or images / f"{stem}.*") for stem, (image, _) in zip(stems, items, strict=True)]
    return names, items


def _by_stem(folder: Path, account: Account) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in list_images(folder, account):
        stem = str(path.with_suffix(""))
        if stem in by_stem:
            raise ValueError(f"two files for one name in '{folder}': {by_stem[stem].name} and {path.name}")
        by_stem[stem] = folder / path
    return by_stem


# Parquet


def _parquet_pairs(path: Path, split: str | None) -> ParquetTable:
    files = list_parquet(path, split) if path.is_dir() or path.suffix == ".parquet" else []
    if not files:
        splits = find_splits([each.name for each in path.iterdir() if each.is_dir()]) if path.is_dir() else []
        if splits:
            raise ValueError(wrong_split(str(path), splits, split))
        asked, folders = "", "'images' and 'masks'"
        if split is not None:
            asked = f" of a split {split!r}"
            folders = f"'{split}/images' and '{split}/masks', or 'images/{split}' and 'masks/{split}',"
        raise ValueError(
            f"'{path}' holds no pairs{asked}: expected folders {folders} with files of one name, or Parquet files"
        )
    names = list(parquet_features(files[0]))
    mask = next((name for name in MASK_COLUMNS if name in names), None)
    if mask is None:
        raise ValueError(f"no column of masks in {files[0]}: got {names}, expected one of {MASK_COLUMNS}")
    return ParquetTable(files, Account(), mask)
