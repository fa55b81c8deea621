"""Images with masks for a segmentation benchmark: only readable ones, with known classes."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from benchmarks.datasets import PHOTO_DIGITS
from benchmarks.tasks.dense.feature_maps import Lazily
from probes.segmentation import check_classes
from randar_features.data import PhotoDigits, open_pairs
from randar_features.data.decode.ranges import DEFAULT_READING, Reading
from randar_features.hub.registry import read_classes

IGNORE = 255


@dataclass(frozen=True)
class Labels:
    """Names of the classes from 0 on, and the value of pixels to ignore."""

    names: tuple[str, ...]
    ignore_index: int = IGNORE


LABELS = {
    "camvid": Labels(
        ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"), 11
    ),
    PHOTO_DIGITS: Labels(("background", *"0123456789")),
    "voc": Labels(
        ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
         "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
    ),
}  # fmt: skip


class Scenes:
    """The readable pairs of one split, images and masks read when they are needed.

    Attributes:
        masks: integers (H, W) each.
        sizes: (H, W) of each.
        paths: what each is called.
        unreadable: row, path and reason of those left out.
    """

    def __init__(
        self,
        data: str,
        split: str,
        labels: Labels,
        *,
        size: int,
        count: int | None,
        seed: int,
        reading: Reading = DEFAULT_READING,
    ) -> None:
        """size: of photo-digits. count: a seeded random choice of that many pairs, None: all."""
        source = PhotoDigits(split, size) if data == PHOTO_DIGITS else data
        part = None if data == PHOTO_DIGITS else split
        known = len(labels.names) or None
        rules: dict[str, Any] = {"num_classes": known, "ignore_index": labels.ignore_index, **vars(reading)}
        pairs = open_pairs(source, split=part, **rules)
        rows = np.arange(len(pairs))
        if count is not None and count < len(pairs):
            rows = np.sort(np.random.default_rng(seed).choice(len(pairs), count, replace=False))
        self.unreadable: list[dict[str, Any]] = []
        found = {
            row: (pair.mask.shape, pair.path)
            for row, pair in tqdm(pairs.readable(self.unreadable, rows), total=len(rows), desc=f"reading {split}")
        }
        if self.unreadable:
            reason = self.unreadable[0]["reason"]
            warnings.warn(
                f"{len(self.unreadable)} of {len(rows)} pairs of {split} are left out; the first: {reason}",
                stacklevel=2,
            )
        self._pairs, self._rows = pairs, list(found)
        self.sizes: list[tuple[int, int]] = [(shape[0], shape[1]) for shape, _ in found.values()]
        self.paths = [path for _, path in found.values()]
        self.masks = Lazily(lambda number: self._pairs[self._rows[number]].mask, len(found))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def fingerprint(self) -> str:
        """8 hexadecimal digits that tell which pairs of the data these are."""
        return hashlib.sha256(np.asarray(self._rows, np.int64).tobytes()).hexdigest()[:8]

    def image(self, number: int) -> np.ndarray:
        """uint8 (H, W, 3)."""
        return self._pairs[self._rows[number]].image


def labels_of(name: str | None, num_classes: int | None, ignore_index: int | None) -> Labels:
    """The classes of `LABELS` by name, those named in a JSON file, or `num_classes` without names.

    Raises:
        FileNotFoundError: no such JSON file.
        ValueError: neither a name nor a number was given, the name is unknown, there are fewer than two classes, or
            what is given contradicts itself.
    """
    known = ", ".join(LABELS)
    if name is None and num_classes is None:
        raise ValueError(f"give --num-classes of the masks, or --labels: {known}, or a JSON file of names")
    if name in LABELS:
        labels = LABELS[name]
        if num_classes is not None or ignore_index not in (None, labels.ignore_index):
            raise ValueError(
                f"--labels {name} state {len(labels.names)} classes and that {labels.ignore_index} is ignored, got "
                f"--num-classes {num_classes} and --ignore-index {ignore_index} besides: leave them out"
            )
        return labels
    if name is not None and not name.endswith(".json"):
        raise ValueError(f"unknown labels {name!r}: expected {known}, or a JSON file of names, or give --num-classes")
    names = map(str, range(num_classes or 0)) if name is None else read_classes(Path(name), num_classes)
    labels = Labels(tuple(names), IGNORE if ignore_index is None else ignore_index)
    check_classes(len(labels.names))
    return labels
