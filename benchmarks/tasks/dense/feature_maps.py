"""Feature maps of whole images for dense tasks, whatever the size an encoder takes, computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.encoders import Encoder, extract
from benchmarks.encoders.extract import file_name
from probes.segmentation import Segmenter, upsample
from randar_features.data import to_tensor
from randar_features.features.store import FeatureStore
from randar_features.features.tiling import blend, tile_positions, usual_stride

KEPT_BYTES = 2**31


def check_tiling(resolution: int | None, stride: int | None) -> None:
    """ValueError for a stride without tiles."""
    if resolution is None and stride is not None:
        raise ValueError(f"--stride {stride} is from tile to tile: give --resolution, or leave it out")


class Lazily(Sequence[np.ndarray]):
    """Arrays that are made when they are read, and kept while all together take at most `kept_bytes`."""

    def __init__(self, make: Callable[[int], np.ndarray], count: int, kept_bytes: int = KEPT_BYTES) -> None:
        self._make, self._count, self._left = make, count, kept_bytes
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Lazily: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Lazily:
        """One array, or a part of the sequence, which keeps nothing of its own."""
        if isinstance(index, slice):
            rows = range(self._count)[index]
            return Lazily(lambda place: self[rows[place]], len(rows), 0)
        row = range(self._count)[index]
        if row in self._kept:
            return self._kept[row]
        array = self._make(row)
        if array.nbytes <= self._left:
            self._left -= array.nbytes
            self._kept[row] = array
        return array


class Layout:
    """How an image of any size is shown to an encoder: squashed to its square input, or in overlapping tiles.

    Attributes:
        size: S, pixels a side of a tile.
        patch: pixels to whose multiples canvas and stride are rounded.
        resolution: pixels of the canvas's shorter side; None: the canvas is S×S whatever the image's shape.
        stride: pixels from one tile to the next; None: `usual_stride`.
    """

    def __init__(self, size: int, patch: int, resolution: int | None = None, stride: int | None = None) -> None:
        if resolution is not None and resolution < size:
            raise ValueError(f"resolution must be at least the encoder's input, {size} pixels, got {resolution}")
        stride = usual_stride(size, patch) if stride is None else stride
        if not patch <= stride <= size or size % patch:
            raise ValueError(f"the stride must lie within {patch} … {size} pixels, got {stride}")
        self.size, self.patch, self.resolution = size, patch, resolution
        self.stride = stride // patch * patch

    def __str__(self) -> str:
        """For cards and names of caches."""
        if self.resolution is None:
            return f"{self.size}x{self.size}, squashed"
        return f"shorter side {self.resolution}, tiles of {self.size} every {self.stride} pixels"

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which an image is resized: multiples of the patch, of nearly the image's shape."""
        if self.resolution is None:
            return self.size, self.size
        scale = self.resolution / min(height, width)
        sides = (max(self.size, round(side * scale / self.patch) * self.patch) for side in (height, width))
        rows, columns = sides
        return rows, columns

    def positions(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top left corners (row, column) of the tiles of an image of this size, in pixels of its canvas."""
        return tile_positions(*self.canvas(height, width), self.size, self.stride)


class Tiles(Dataset[Tensor]):
    """The tiles (3, S, S) in [0, 1] of images, one image after the other.

    Attributes:
        first: number of the first tile of each image, and at the end that of all.
    """

    def __init__(self, load: Callable[[int], np.ndarray], sizes: Sequence[tuple[int, int]], layout: Layout) -> None:
        """load: the uint8 pixels (H, W, 3) of an image by its number. sizes: (H, W) of each."""
        self._load, self.layout = load, layout
        self.positions = [layout.positions(*size) for size in sizes]
        self.first = np.cumsum([0, *(len(own) for own in self.positions)])
        self._canvas: tuple[int, Tensor] = (-1, torch.empty(0, device="cpu"))

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, tile: int) -> Tensor:
        image = int(np.searchsorted(self.first, tile, side="right")) - 1
        if self._canvas[0] != image:
            self._canvas = image, resized(self._load(image), self.layout)
        row, column = self.positions[image][tile - self.first[image]]
        size = self.layout.size
        return self._canvas[1][:, row : row + size, column : column + size]


def resized(pixels: np.ndarray, layout: Layout) -> Tensor:
    """An image (H, W, 3) on its canvas, (3, h, w) in [0, 1]; bicubic, with antialiasing."""
    height, width = layout.canvas(*pixels.shape[:2])
    return to_tensor(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


class DenseFeatures:
    """Maps of every output of an encoder for some images; tiles are blended by weights that fall to their edges."""

    def __init__(self, store: FeatureStore, tiles: Tiles, sizes: Sequence[tuple[int, int]]) -> None:
        self.store, self.tiles = store, tiles
        self._canvases = [tiles.layout.canvas(*size) for size in sizes]

    def of(self, *outputs: str) -> Lazily:
        """Maps (h, w, D) float32 of one output, or of several with one grid, concatenated along D."""
        return Lazily(lambda image: self._map(outputs, image), len(self._canvases))

    def tiles_of(self, outputs: Sequence[str], image: int) -> tuple[np.ndarray, list[tuple[int, int]], tuple[int, int]]:
        """Maps (n, G, G, D) of an image's tiles, where they lie, and the canvas's height and width, in its pixels."""
        rows = np.arange(self.tiles.first[image], self.tiles.first[image + 1])
        maps = np.concatenate([self.store.array(output, rows) for output in outputs], -1)
        return maps, self.tiles.positions[image], self._canvases[image]

    def _map(self, outputs: Sequence[str], image: int) -> np.ndarray:
        maps, positions, canvas = self.tiles_of(outputs, image)
        if len(maps) == 1:
            return maps[0]
        patch = self.tiles.layout.size // maps.shape[1]
        cells = [(row // patch, column // patch) for row, column in positions]
        return blend(torch.from_numpy(maps), cells, canvas[0] // patch, canvas[1] // patch).numpy()


def blended_probabilities(
    head: Segmenter, maps: np.ndarray, positions: list[tuple[int, int]], canvas: tuple[int, int], size: int
) -> Tensor:
    """Probabilities (h, w, C) at every pixel of a canvas (h, w), from maps (n, G, G, D) of tiles of `size` pixels."""
    tiles = [upsample(head.probabilities(tile), (size, size)).permute(1, 2, 0) for tile in maps]
    return blend(torch.stack(tiles), positions, *canvas)


def dense_features(
    encoder: Encoder,
    load: Callable[[int], np.ndarray],
    sizes: Sequence[tuple[int, int]],
    *,
    layout: Layout,
    name: str,
    **options: Any,
) -> DenseFeatures:
    """Show every image to the encoder, or take what is kept under `name` in the cache.

    load, sizes: see `Tiles`. options: of `benchmarks.encoders.extract`, such as folder, outputs and part.
    """
    tiles = Tiles(load, sizes, layout)
    store = extract(encoder, tiles, pooling=None, name=file_name(f"{name}-{layout}"), **options)
    return DenseFeatures(store, tiles, sizes)
