"""Feature maps of pictures larger than an encoder's input: overlapping tiles, encoded and blended."""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm.auto import tqdm


def tile_starts(length: int, size: int, stride: int) -> list[int]:
    """Where tiles of `size` begin on an axis: 0, stride, 2·stride, … and length − size, so that they cover it."""
    if not 1 <= stride <= size <= length:
        raise ValueError(f"expected 1 ≤ stride ≤ size ≤ length, got stride={stride}, size={size}, length={length}")
    return [*range(0, length - size, stride), length - size]


def usual_stride(size: int, patch: int) -> int:
    """Pixels between tiles of `size` pixels, whose features are `patch` pixels apart: about 3/8 of a tile.

    It is an odd number of features. A tokenizer may have other codebooks at odd places of its grid than at even ones
    (`TiledCodebook`). Then overlapping tiles hold both kinds at each place of the picture, and blending evens them out.
    """
    return (3 * size // (8 * patch) | 1) * patch


def tile_positions(height: int, width: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Top left corners (row, column) of all tiles, row by row."""
    columns = tile_starts(width, size, stride)
    return [(row, column) for row in tile_starts(height, size, stride) for column in columns]


def hat_window(size: int) -> Tensor:
    """Weights (size, size) that fall linearly from the middle to the edges, which are 1: tiles fade into each other."""
    ramp = torch.arange(1, size + 1, device="cpu")
    ramp = torch.minimum(ramp, ramp.flip(0)).float()
    return ramp[:, None] * ramp[None, :]


def blend(tiles: Tensor, positions: list[tuple[int, int]], height: int, width: int) -> Tensor:
    """Weighted mean of overlapping tiles (n, g, g, D) at `positions`, by `hat_window`: (height, width, D).

    Raises:
        ValueError: a cell that no tile covers.
    """
    size = tiles.shape[1]
    window = hat_window(size).to(tiles)[:, :, None]
    total = tiles.new_zeros(height, width, tiles.shape[-1])
    weight = tiles.new_zeros(height, width, 1)
    for tile, (row, column) in zip(tiles, positions, strict=True):
        place = slice(row, row + size), slice(column, column + size)
        total[place] += window * tile
        weight[place] += window
    if not (weight > 0).all():
        row, column, _ = (weight == 0).nonzero()[0].tolist()
        raise ValueError(f"no tile covers row {row}, column {column} of the {height}x{width} map")
    return total / weight


@torch.inference_mode()
def tiled_maps(
    encode: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    size: int,
    patch: int,
    stride: int,
    batch_size: int = 64,
) -> Tensor:
    """Feature map of a whole picture.

    Args:
        encode: (b, 3, size, size) in [0, 1] → (b, size/patch, size/patch, D).
        image: (3, H, W) in [0, 1].
        size: pixels a side that `encode` takes.
        patch: pixels a side of one feature.
        stride: pixels from one tile to the next. Sizes, sides and stride must be multiples of `patch`, so that
            the features of overlapping tiles lie on one grid.

    Returns:
        (H/patch, W/patch, D).

    Raises:
        ValueError: sides that do not fit, or maps of another shape.
    """
    if image.ndim != 3:
        raise ValueError(f"one picture (3, H, W) is expected, got the shape {tuple(image.shape)}")
    _, height, width = image.shape
    if any(length % patch for length in (height, width, size, stride)):
        raise ValueError(
            f"a {height}x{width} picture, tiles of {size} and a stride of {stride} pixels must be multiples of the "
            f"patch, {patch} pixels"
        )
    positions = tile_positions(height, width, size, stride)
    maps = []
    starts = range(0, len(positions), batch_size)
    for start in tqdm(starts, desc="tiles", unit="batch", leave=False, disable=len(starts) < 8):
        batch = positions[start : start + batch_size]
        maps.append(encode(torch.stack([image[:, r : r + size, c : c + size] for r, c in batch])))
        expected = (len(batch), size // patch, size // patch)
        if maps[-1].ndim != 4 or maps[-1].shape[:3] != expected:
            raise ValueError(f"encode gave {tuple(maps[-1].shape)}, expected ({', '.join(map(str, expected))}, D)")
    cells = [(row // patch, column // patch) for row, column in positions]
    return blend(torch.cat(maps), cells, height // patch, width // patch)
