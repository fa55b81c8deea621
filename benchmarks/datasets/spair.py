"""SPair-71k as it is published: images of 18 classes, and pairs of them with annotated key points.

    SPAIR/JPEGImages/aeroplane/2007_000175.jpg
    SPAIR/PairAnnotation/test/000001-2007_000175-2007_005878:aeroplane.json

Min et al. (2019), arXiv:1908.10543.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from benchmarks.datasets.point_pairs import PairSet, PointPair
from randar_features.data import ImageError, load_image
from randar_features.data.containers.paths import confined, one_line, reading
from randar_features.data.decode.decoding import orientation_of
from randar_features.data.decode.opening import open_picture
from randar_features.store.files import read_json

SPLITS = ("trn", "val", "test")
IMAGES, PAIRS = "JPEGImages", "PairAnnotation"


class _Images:
    """The images of the pairs read so far: number, file and size of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: dict[Path, int] = {}
        self.sizes: list[tuple[int, int]] = []

    def number(self, category: str, name: str) -> int:
        """The number of an image, which is opened to learn its size when it is first met."""
        path = confined(f"{category}/{name}", self.folder / IMAGES)
        if path not in self.numbers:
            with reading(path, "a picture"), open_picture(path) as image:
                if (orientation_of(image) or 1) != 1:
                    raise ImageError("turned by its EXIF orientation: its points could lie on the image either way")
                size = image.height, image.width
            self.numbers[path] = len(self.sizes)
            self.sizes.append(size)
        return self.numbers[path]


def load_spair(folder: str | Path, split: str = "test", *, count: int | None = None, seed: int = 0) -> PairSet:
    """The pairs of a split, sorted by their files' names. The target's box is as annotated, as DIFT takes it.

    Pairs whose annotation or image is damaged, missing or without points inside both images are left out and named.

    Args:
        folder: SPair-71k, with the folders JPEGImages and PairAnnotation.
        split: "trn", "val" or "test".
        count: pairs of a seeded random choice, None: all.
        seed: of that choice.

    Raises:
        FileNotFoundError: not that layout.
        ValueError: an unknown split, or not one pair can be read.
    """
    home = Path(folder)
    if split not in SPLITS:
        raise ValueError(f"SPair-71k has the splits {', '.join(SPLITS)}, got {split!r}")
    files = sorted((home / PAIRS / split).glob("*.json"))
    if not files or not (home / IMAGES).is_dir():
        raise FileNotFoundError(
            f"'{home}' is not SPair-71k: expected {IMAGES}/CLASS/*.jpg and {PAIRS}/{split}/*.json in it"
        )
    if count is not None and count < len(files):
        files = [files[n] for n in np.sort(np.random.default_rng(seed).choice(len(files), count, replace=False))]
    images, pairs = _Images(home), []
    unreadable: list[dict[str, Any]] = []
    for file in tqdm(files, desc=f"reading {split}", unit="pair", leave=False):
        try:
            pairs.append(_read_pair(file, images))
        except Exception as error:  # whatever an annotation holds, the other pairs are read
            reason = f"lacks {error}" if isinstance(error, KeyError) else one_line(error)
            unreadable.append({"path": str(file), "reason": f"{file.name}: {reason}"})
    if not pairs:
        raise ValueError(f"none of {len(files)} pairs could be read; the first: {unreadable[0]['reason']}")
    paths = list(images.numbers)
    name = f"spair-{split}-{len(pairs)}-{seed if count else 'all'}"
    return PairSet(name, lambda number: np.asarray(load_image(paths[number])), images.sizes, pairs, unreadable)


def _read_pair(file: Path, images: _Images) -> PointPair:
    about = read_json(file)
    category = about["category"]
    source, target = (images.number(category, about[name]) for name in ("src_imname", "trg_imname"))
    points, targets = (np.asarray(about[name], dtype=np.float64) for name in ("src_kps", "trg_kps"))
    if points.shape != targets.shape or points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"expected as many points (x, y) in both images, got {points.shape} and {targets.shape}")
    left, top, right, bottom = (float(side) for side in about["trg_bndbox"])
    if not (math.isfinite(right - left + bottom - top) and left < right and top < bottom):
        raise ValueError(f"trg_bndbox must be left, top, right, bottom, got {about['trg_bndbox']}")
    for name, own, number in (("src_kps", points, source), ("trg_kps", targets, target)):
        height, width = images.sizes[number]
        if (
            not own.min() >= 0  # nor NaN
            or (own > (width, height)).any()
            or (name == "src_kps" and (own + 0.5 >= (width, height)).any())
        ):
            raise ValueError(f"{name} holds a point outside its image, {width}x{height} pixels")
    return PointPair(source, target, points, targets, (right - left, bottom - top), category)
