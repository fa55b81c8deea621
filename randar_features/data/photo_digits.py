"""photo-digits: scanned digits blended onto photographs, composed on the fly from what scikit-learn ships.

Everything is known about a sample: its class, its mask, and where each point of the scan lies. Random
numbers are raw bits of PCG64, and all arithmetic is exact or element by element in float64, so a sample is
the same on every machine.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

SPLIT_SHARES = {"train": (0, 6), "validation": (6, 8), "test": (8, 10)}  # tenths of each class
SCAN_SIDE = 8
MARGIN = 2  # blank cells around a scan, into which its strokes fade
CELL = 8  # samples per cell of the enlarged scan
INK = 8.0  # scan values above are ink
EDGE = 2.0  # the stroke's edge fades over ink values of INK - EDGE to INK + EDGE
PHOTO_SCALES = (1.0, 1.4, 2.0, 2.8, 4.0)  # shorter side of the photograph, in sides of the sample
DIGIT_SIDES = (0.5, 0.875)  # longer side of the digit, in sides of the sample: 32 to 56 of 64 pixels
ROTATION = math.radians(25)
SHEAR = 0.15
CONTRAST = 0.62  # of the photograph's range that is kept

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


class PhotoDigit(NamedTuple):
    """One sample.

    Attributes:
        image: uint8 ``(S, S, 3)``.
        label: the digit, 0 to 9.
        mask: uint8 ``(S, S)``; 0 is background, d + 1 is ink of digit d.
        affine: float64 ``(2, 3)``. Maps a point (u, v) of the scan, both in [0, 1], u to the right and v
            downwards, to ``affine @ (u, v, 1)``, the pixel coordinates (x, y); the centre of the pixel in
            column c and row r has coordinates (c + 0.5, r + 0.5).
        scan: index of the scan in scikit-learn's ``load_digits``.
        placement: which placement of the scan it is.
    """

    image: Pixels
    label: int
    mask: Pixels
    affine: Floats
    scan: int
    placement: int


class PhotoDigits(Dataset[PhotoDigit]):
    """The built-in data set: 1797 scanned digits (60 % train, 20 % validation, 20 % test) on two photographs.

    Each scan is in one split only, whatever the seed, and in each split every class has its share. Sample
    ``i * placements + j`` is placement j of the i-th scan of the split: a sample depends on its scan, its
    placement, the size and the seed alone.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        size: S, pixels a side.
        placements: how many samples are composed of each scan.
        seed: of colours, placements and backgrounds.

    Raises:
        ValueError: an unknown split, a size of less than 16 pixels, or less than one placement.
    """

    classes = tuple("0123456789")

    def __init__(self, split: str = "train", size: int = 64, placements: int = 1, seed: int = 0) -> None:
        if split not in SPLIT_SHARES:
            raise ValueError(f"unknown split '{split}': expected one of {list(SPLIT_SHARES)}")
        if size < 16 or placements < 1 or seed < 0:
            raise ValueError(
                "expected size of at least 16, placements of at least 1 and a seed of at least 0, "
                f"got size={size}, placements={placements}, seed={seed}"
            )
        self.split, self.size, self.placements, self.seed = split, size, placements, seed
        self.scans = _scans_of(split)
        self.labels = [int(_digits()[1][scan]) for scan in self.scans for _ in range(placements)]

    def __len__(self) -> int:
        return len(self.scans) * self.placements

    def __getitem__(self, index: int) -> PhotoDigit:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        position, placement = divmod(index % len(self), self.placements)
        return _compose(self.scans[position], placement, self.size, self.seed)


def corresponding_points(first: PhotoDigit, second: PhotoDigit) -> tuple[Floats, Floats]:
    """Where the same points of one digit lie in two placements of its scan.

    Args:
        first, second: samples of the same scan.

    Returns:
        Two float64 arrays ``(n, 2)`` of pixel coordinates (x, y), row by row the same points: the centres of
        the ink pixels of ``first``, and where the affines carry them in ``second``, if that is ink too.

    Raises:
        ValueError: the samples are of different scans.
    """
    if first.scan != second.scan:
        raise ValueError(f"expected two placements of one scan, got scans {first.scan} and {second.scan}")
    rows, columns = np.nonzero(first.mask)
    points = np.stack([columns + 0.5, rows + 0.5], axis=1)
    moved = _apply(second.affine, _apply(_inverse(first.affine), points))
    nearest = np.floor(moved).astype(np.int64)
    inside = ((nearest >= 0) & (nearest < second.mask.shape[::-1])).all(axis=1)
    column, row = nearest[inside].T
    visible = np.flatnonzero(inside)[second.mask[row, column] > 0]
    return points[visible], moved[visible]


def _apply(affine: Floats, points: Floats) -> Floats:
    x, y = points.T
    return np.stack([a * x + b * y + c for a, b, c in affine], axis=1)


def _inverse(affine: Floats) -> Floats:
    (a, b, c), (d, e, f) = affine.tolist()
    determinant = a * e - b * d
    inverse = [[e, -b, b * f - c * e], [-d, a, c * d - a * f]]
    return np.array(inverse, dtype=np.float64) / np.float64(determinant)


# What scikit-learn ships


@lru_cache(maxsize=1)
def _digits() -> tuple[Floats, NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.float64), digits.target.astype(np.int64)


@lru_cache(maxsize=1)
def _photographs() -> tuple[Image.Image, ...]:
    from sklearn.datasets import load_sample_image

    return tuple(Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))


@lru_cache(maxsize=4)
def _photo_pyramid(size: int) -> list[Pixels]:
    """Both photographs at each of the scales, and mirrored."""
    pyramid = []
    for photo in _photographs():
        for scale in PHOTO_SCALES:
            factor = scale * size / min(photo.size)
            sides = (round(photo.width * factor), round(photo.height * factor))
            scaled = np.asarray(photo.resize(sides, Image.Resampling.LANCZOS))
            pyramid += [scaled, scaled[:, ::-1]]
    return pyramid


def _scans_of(split: str) -> list[int]:
    """The scans of a split: each class shuffled once and for all, and cut by its share."""
    labels = _digits()[1]
    keys = _uniforms(len(labels), 0)
    first, last = SPLIT_SHARES[split]
    scans: list[int] = []
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        members = members[np.argsort(keys[members])]
        scans += members[len(members) * first // 10 : len(members) * last // 10].tolist()
    return sorted(scans)


def _uniforms(count: int, *seeds: int) -> Floats:
    """Uniform numbers in [0, 1) from PCG64's raw bits, which numpy keeps the same between versions."""
    raw = np.random.PCG64(np.random.SeedSequence(seeds)).random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


# Composition


def _compose(scan: int, placement: int, size: int, seed: int) -> PhotoDigit:
    draws = _uniforms(12, 1, seed, scan, placement)
    values, label = _digits()[0][scan], int(_digits()[1][scan])
    affine = _place(values, size, draws[:5])
    ink = _sample(_enlarged(values), _inverse(affine), size)
    background = _background(size, draws[5:8])
    image = _blend(background, ink, draws[8:11])
    mask = np.where(ink > INK, label + 1, 0).astype(np.uint8)
    return PhotoDigit(image, label, mask, affine, scan, placement)


def _place(values: Floats, size: int, draws: Floats) -> Floats:
    """Turn, shear and scale the scan, and put it where all of its ink is inside the picture."""
    rotation, shear, side, x, y = draws.tolist()
    angle = ROTATION * (2 * rotation - 1)
    cosine, sine = _rounded(math.cos(angle)), _rounded(math.sin(angle))  # libraries differ in the last bit
    slant = SHEAR * (2 * shear - 1)
    linear = np.array([[cosine, cosine * slant - sine], [sine, sine * slant + cosine]])
    lowest, highest = _ink_bounds(values, linear)
    smallest, largest = DIGIT_SIDES
    scale = size * (smallest + (largest - smallest) * side) / (highest - lowest).max()
    free = size - scale * (highest - lowest)
    shift = free * np.array([x, y]) - scale * lowest
    return np.concatenate([linear * scale, shift[:, None]], axis=1)


def _rounded(value: float) -> float:
    return round(value * 2**20) / 2**20


def _ink_bounds(values: Floats, linear: Floats) -> tuple[Floats, Floats]:
    """Lowest and highest (x, y) of the corners of all ink cells under a linear map of the unit square."""
    row, column = np.nonzero(values > INK)
    cells = np.stack([column, row], axis=1)
    corners = np.concatenate([cells + np.array(corner) for corner in ((0, 0), (0, 1), (1, 0), (1, 1))]) / SCAN_SIDE
    mapped = _apply(np.column_stack([linear, np.zeros(2)]), corners)
    return mapped.min(axis=0), mapped.max(axis=0)


@lru_cache(maxsize=1)
def _enlarging_matrix() -> Floats:
    """Catmull-Rom interpolation of SCAN_SIDE cells at CELL samples a cell, MARGIN blank cells around.

    Phases are sixteenths, so weights and products with scan values are exact in float64.
    """
    matrix = np.zeros(((SCAN_SIDE + 2 * MARGIN) * CELL, SCAN_SIDE))
    for sample in range(len(matrix)):
        for cell in range(SCAN_SIDE):
            distance = abs((sample + 0.5) / CELL - MARGIN - (cell + 0.5))
            if distance < 1:
                matrix[sample, cell] = (1.5 * distance - 2.5) * distance**2 + 1
            elif distance < 2:
                matrix[sample, cell] = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return matrix


def _enlarged(values: Floats) -> Floats:
    matrix = _enlarging_matrix()
    return matrix @ values @ matrix.T


def _sample(enlarged: Floats, inverse: Floats, size: int) -> Floats:
    """The enlarged scan at the centre of each pixel, bilinear; ``inverse`` maps pixels to (u, v)."""
    centres = np.arange(size) + 0.5
    u, v = (a * centres[None, :] + (b * centres[:, None] + c) for a, b, c in inverse)
    limit = len(enlarged) - 1.001
    x = np.clip((u * SCAN_SIDE + MARGIN) * CELL - 0.5, 0, limit)
    y = np.clip((v * SCAN_SIDE + MARGIN) * CELL - 0.5, 0, limit)
    column, row = x.astype(np.int64), y.astype(np.int64)
    x, y = x - column, y - row
    flat, corner = enlarged.ravel(), row * len(enlarged) + column
    upper = flat[corner] * (1 - x) + flat[corner + 1] * x
    lower = flat[corner + len(enlarged)] * (1 - x) + flat[corner + len(enlarged) + 1] * x
    return np.asarray(upper * (1 - y) + lower * y)


def _background(size: int, draws: Floats) -> Pixels:
    pyramid = _photo_pyramid(size)
    level, top, left = draws.tolist()
    photo = pyramid[int(level * len(pyramid))]
    row = int(top * (photo.shape[0] - size + 1))
    column = int(left * (photo.shape[1] - size + 1))
    return photo[row : row + size, column : column + size]


def _blend(background: Pixels, ink: Floats, draws: Floats) -> Pixels:
    """A light digit on a dark photograph, or a dark one on a light one.

    The photograph's contrast is reduced, so that the luminance of all ink and all background differ by 0.1.
    """
    hue, luminance, opacity = draws.tolist()
    light = int(background.sum(dtype=np.int64)) < background.size * 255 // 2
    photo = background * CONTRAST + (0 if light else 255 * (1 - CONTRAST))
    colour = _colour(hue, 0.8 + 0.2 * luminance if light else 0.2 * luminance)
    alpha = np.clip((ink - INK) / (2 * EDGE) + 0.5, 0, 1) * (0.9 + 0.1 * opacity)
    blended = photo + alpha[:, :, None] * (255 * colour - photo)
    return np.asarray(np.rint(blended), dtype=np.uint8)


def _colour(hue: float, luminance: float) -> Floats:
    """A colour of given hue and luminance (both in [0, 1]), as saturated as can be: RGB in [0, 1]."""
    offsets = np.array([0.0, 2.0, 4.0])
    pure = np.clip(np.abs((6 * hue - offsets) % 6 - 3) - 1, 0, 1)
    own = 0.299 * float(pure[0]) + 0.587 * float(pure[1]) + 0.114 * float(pure[2])
    if luminance <= own:
        return np.asarray(pure * (luminance / own))
    return np.asarray(pure + (1 - pure) * ((luminance - own) / (1 - own)))
