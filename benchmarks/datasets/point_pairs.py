"""Pairs of images with points that correspond: placements of a scanned digit, photographs moved and recoloured."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from benchmarks.datasets.photographs import PHOTOGRAPHS, photograph
from randar_features.data import ImageError, PhotoDigits, corresponding_points, load_image, open_images
from randar_features.data.decode.ranges import DEFAULT_READING, Reading

MARGIN = 1.5  # shorter side of a photograph, in sides of a crop, at the least
ZOOM = 1.5  # … and that times this at the most
ROTATION = math.radians(25)
SCALES = (0.75, 1.33)
SHEAR = 0.15
SHIFT = 0.25  # of the crop's side
TRIES = 20  # places drawn for each point that is wanted


@dataclass(frozen=True, eq=False)
class PointPair:
    """The same K points in two images of a set.

    Attributes:
        source, target: numbers of the images.
        points, targets: (K, 2) x and y in pixels of the source and of the target, 0 the centre of the first pixel.
        box: width and height of the object in the target, in pixels.
        category: of the object, or the photograph that it shows, of the built-in ones; None where neither is known.
    """

    source: int
    target: int
    points: np.ndarray
    targets: np.ndarray
    box: tuple[float, float]
    category: str | None = None


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs, and their images.

    Attributes:
        name: for caches: other images have another name.
        load: number of an image → uint8 (H, W, 3).
        sizes: (H, W) of each image.
        pairs: in a fixed order.
        unreadable: path and reason of what was left out.
    """

    name: str
    load: Callable[[int], np.ndarray]
    sizes: Sequence[tuple[int, int]]
    pairs: Sequence[PointPair]
    unreadable: list[dict[str, Any]] = field(default_factory=list)


def digits(split: str, *, size: int, count: int, points: int, seed: int) -> PairSet:
    """Two placements of each of the first `count` scans of a split of photo-digits, with exact truth."""
    data, generator = PhotoDigits(split, size, 2, seed), np.random.default_rng(seed)
    images: list[np.ndarray] = []
    pairs: list[PointPair] = []
    for scan in tqdm(range(min(count, len(data.scans))), desc=f"pairs {split}", unit="pair", leave=False):
        first, second = data[2 * scan], data[2 * scan + 1]
        sources, targets = corresponding_points(first, second)
        picked = np.sort(generator.choice(len(sources), min(points, len(sources)), replace=False))
        rows, columns = np.nonzero(second.mask)
        box = int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
        own, moved = sources[picked] - 0.5, targets[picked] - 0.5
        pairs.append(PointPair(2 * scan, 2 * scan + 1, own, moved, box, str(second.label)))
        images += [first.image, second.image]
    return _in_memory(f"digits-{split}-{size}-{count}-{points}-{seed}", images, pairs)


def _in_memory(name: str, images: Sequence[np.ndarray], pairs: Sequence[PointPair]) -> PairSet:
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    return PairSet(name, lambda number: images[number], sizes, pairs)


def photographs(
    split: str,
    *,
    folder: str | Path | None = None,
    size: int,
    count: int,
    points: int,
    seed: int,
    reading: Reading = DEFAULT_READING,
) -> PairSet:
    """Square crops of photographs, and the same turned, scaled, sheared, shifted and recoloured, with exact truth.

    The box is the whole image.

    Args:
        split: "validation" or "test". They draw differently, and from other photographs; of a folder with five images
            or more, validation takes each fifth one, of a smaller folder both take all.
        folder: of images; None: `PHOTOGRAPHS`.
        size: S, pixels a side.
        count: pairs.
        points: K of each pair at most; those whose place in the second image is outside it are left out.
        seed: of all draws.
        reading: range of values and largest size of a picture.
    """
    generator = np.random.default_rng([seed, ("validation", "test").index(split)])
    unreadable: list[dict[str, Any]] = []
    pictures = _pictures(folder, split, unreadable, reading)
    images: list[np.ndarray] = []
    pairs: list[PointPair] = []
    for number in tqdm(range(count), desc=f"pairs {split}", unit="pair", leave=False):
        name = None if folder is not None else PHOTOGRAPHS[split][number % len(pictures)]
        first, second, own, moved = moved_crop(pictures[number % len(pictures)], size, points, generator)
        pairs.append(PointPair(2 * number, 2 * number + 1, own, moved, (size, size), name))
        images += [first, second]
    made = _in_memory(f"photographs-{split}-{size}-{count}-{points}-{seed}", images, pairs)
    made.unreadable.extend(unreadable)
    return made


def _pictures(
    folder: str | Path | None, split: str, unreadable: list[dict[str, Any]], reading: Reading
) -> list[Image.Image]:
    if folder is None:
        return [photograph(name) for name in PHOTOGRAPHS[split]]
    pictures = []
    for path in open_images(folder).files():
        try:
            pictures.append(load_image(path, **vars(reading)))
        except ImageError as error:
            unreadable.append({"path": str(path), "reason": str(error)})
    if not pictures:
        raise ValueError(f"none of {len(unreadable)} images in '{folder}' could be read: {unreadable[0]['reason']}")
    if len(pictures) < 5:
        return pictures
    return [picture for number, picture in enumerate(pictures) if (number % 5 == 0) == (split == "validation")]


def moved_crop(
    picture: Image.Image, size: int, points: int, generator: np.random.Generator, *, colours: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A crop of a photograph, another one of the same place, and at most `points` points (K, 2) in both.

    colours: change those of the other crop.
    """
    scale = size * MARGIN * generator.uniform(1, ZOOM) / min(picture.size)
    sides = [max(size, round(side * scale)) for side in picture.size]
    photograph = picture.resize((sides[0], sides[1]), Image.Resampling.LANCZOS)
    corner = [int(generator.integers(side - size + 1)) for side in sides]
    own = np.array([[1.0, 0.0, corner[0]], [0.0, 1.0, corner[1]]])
    other = drawn_affine(size, generator)
    other[:, 2] += corner
    first, second = (view(photograph, affine, size) for affine in (own, other))
    centres = generator.integers(size, size=(TRIES * points, 2)) + 0.5
    moved = np.linalg.solve(other[:, :2], (centres @ own[:, :2].T + own[:, 2] - other[:, 2]).T).T
    inside = np.flatnonzero(((moved >= 0) & (moved < size)).all(1))[:points]
    second = recoloured(second, generator) if colours else second
    return first, second, centres[inside] - 0.5, moved[inside] - 0.5


def drawn_affine(size: int, generator: np.random.Generator) -> np.ndarray:
    """A random map (2, 3) from points (x, y, 1) of one crop to another's, about their centres."""
    angle, slant = generator.uniform(-ROTATION, ROTATION), generator.uniform(-SHEAR, SHEAR)
    scale = math.exp(generator.uniform(math.log(SCALES[0]), math.log(SCALES[1])))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = scale * turn @ np.array([[1, slant], [0, 1]])
    centre = np.full(2, size / 2)
    shift = generator.uniform(-SHIFT, SHIFT, 2) * size
    return np.column_stack([linear, centre + shift - linear @ centre])


def view(photograph: Image.Image, affine: np.ndarray, size: int) -> np.ndarray:
    """What lies under an affine map (2, 3) from the crop's points to the photograph's: uint8 (size, size, 3).

    Beyond its edges the photograph is continued by its mirror image.
    """
    pixels = np.asarray(photograph)
    border = min(size, *(side - 1 for side in pixels.shape[:2]))
    padded = Image.fromarray(np.pad(pixels, ((border, border), (border, border), (0, 0)), mode="reflect"))
    moved = affine + np.array([[0, 0, border], [0, 0, border]])
    return np.asarray(
        padded.transform((size, size), Image.Transform.AFFINE, tuple(moved.ravel()), Image.Resampling.BICUBIC)
    )


def recoloured(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Another brightness, contrast and gamma, and a tint."""
    gamma = math.exp(generator.uniform(-0.25, 0.25))
    gain = generator.uniform(0.7, 1.2) * generator.uniform(0.9, 1.1, 3)
    changed = gain * (image / 255) ** gamma + generator.uniform(-0.08, 0.08, 3)
    return np.rint(255 * changed.clip(0, 1)).astype(np.uint8)
