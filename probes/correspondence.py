"""Semantic point matching on feature maps, as DIFT measures it on SPair-71k."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from probes.inputs import Array, float_tensor, own_modes

_BLOCK_VALUES = 2**24
_EQUAL = 1e-6  # cosines that differ by less are equal: as much comes of the rounding of float32


@own_modes()
def match_points(
    source_map: Array,
    target_map: Array,
    points: Array,
    *,
    source_size: tuple[int, int],
    target_size: tuple[int, int],
) -> np.ndarray:
    """The pixel of the target image whose feature is most like that of each source point.

    Both maps are up-sampled bilinearly (half-pixel centres, no aligned corners) to their image's size; the
    source vector is read at the nearest whole pixel; the answer is the arg-max of the cosine over all
    target pixels, of those equal to 1e-6 the first in raster order (DIFT, `eval_spair.py`). Bilinear weights act
    on the dot products instead of the vectors, which is the same sum and needs no up-sampled source or target.

    source_map (h, w, D), target_map (h', w', D): features on a grid. points (K, 2): x and y in pixels of the
    source image, (0, 0) the centre of its first pixel. source_size, target_size: (height, width) in pixels.
    Returns x and y in pixels of the target image, int64 (K, 2).

    Raises on other shapes, on NaN or infinity, and on points outside the source image.
    """
    width = target_size[1]
    cosines = _cosines(source_map, target_map, points, source_size, target_size)
    found = torch.cat([_first_largest(block.flatten(1)) for block in cosines])
    return torch.stack([found % width, found // width], 1).cpu().numpy()


@own_modes()
def similarity_maps(
    source_map: Array,
    target_map: Array,
    points: Array,
    *,
    source_size: tuple[int, int],
    target_size: tuple[int, int],
) -> np.ndarray:
    """Cosine of every pixel of the target image with each source point, float32 (K, height, width).

    Arguments, interpolation and errors are those of `match_points`, which takes the largest.
    """
    cosines = torch.cat(list(_cosines(source_map, target_map, points, source_size, target_size)))
    return cosines.clamp_(-1, 1).cpu().numpy()  # of equal vectors the product may come out a little above 1


def _cosines(
    source_map: Array, target_map: Array, points: Array, source_size: tuple[int, int], target_size: tuple[int, int]
) -> Iterator[Tensor]:
    """Cosines (k, H, W) of some points after the other, as many as fit a block."""
    source = float_tensor(source_map, "source_map", "(h, w, D)", 3)
    target = float_tensor(target_map, "target_map", "(h, w, D)", 3).to(source.device)
    if source.shape[2] != target.shape[2]:
        raise ValueError(f"maps must share D, got {tuple(source.shape)} and {tuple(target.shape)}")
    pixels = _whole_pixels(points, source_size).to(source.device)
    source, target = _moderate(source), _moderate(target)
    vertical, horizontal = (matrix.float() for matrix in _interpolations(source, source_size))
    shown = torch.einsum("kh,kw,hwd->kd", vertical[pixels[:, 1]], horizontal[pixels[:, 0]], source)
    vectors = F.normalize(shown, dim=1)
    vertical, horizontal = _interpolations(target, target_size)
    lengths = _lengths(target, vertical, horizontal).clamp(min=1e-12)
    for block in vectors.split(max(1, _BLOCK_VALUES // lengths.numel())):
        products = torch.einsum("hwd,kd->khw", target, block)
        yield vertical.float() @ products @ horizontal.float().T / lengths


def _first_largest(values: Tensor) -> Tensor:
    """Place of the first of the largest in each row (n, m): (n,)."""
    return (values > values.amax(1, keepdim=True) - _EQUAL).byte().argmax(1)


def _moderate(features: Tensor) -> Tensor:
    """The features as float32, divided by a power of 2: no cosine changes, and squares neither overflow nor vanish."""
    _, exponent = torch.frexp(features.abs().max().double())
    return torch.ldexp(features.double(), -exponent).float()


def positional_basis(maps: Array, components: int) -> Tensor:
    """Orthonormal directions (components, D) in which features encode the location rather than the content.

    The leading right singular vectors of the features of images without content, averaged over the images, so that
    what they happen to show cancels out (INSID3, of DINOv3's features of noise). Not centred: what all places share
    is among them.

    maps (n, h, w, D): features of n images of random codes or of noise. Raises where there are fewer places or
    features than components, on other shapes, and on NaN or infinity.
    """
    places = float_tensor(maps, "maps", "(n, h, w, D)", 4).double().mean(0).flatten(0, 1)
    if not 1 <= components <= min(places.shape):
        raise ValueError(
            f"components must lie within 1 … {min(places.shape)}, the fewer of {places.shape[0]} places and "
            f"{places.shape[1]} features, got {components}"
        )
    return torch.linalg.svd(places, full_matrices=False).Vh[:components].float()


@own_modes()
def remove_basis(maps: Array, basis: Tensor) -> Tensor:
    """Features (…, D), float32, without their components along the rows of an orthonormal `basis` (k, D)."""
    features = (maps if isinstance(maps, Tensor) else torch.from_numpy(maps)).float()
    if features.shape[-1] != basis.shape[1]:
        raise ValueError(f"the basis is one of {basis.shape[1]} features, the maps have {features.shape[-1]}")
    own = basis.to(features)
    return features - (features @ own.T) @ own


def _whole_pixels(points: Array, size: tuple[int, int]) -> Tensor:
    pixels = (float_tensor(points, "points", "(K, 2)", 2).double() + 0.5).floor().long()
    if pixels.shape[1] != 2:
        raise ValueError(f"points must have shape (K, 2), got {tuple(pixels.shape)}")
    height, width = size
    outside = ((pixels < 0) | (pixels >= torch.tensor([width, height], device=pixels.device))).any(1)
    if outside.any():
        row = int(torch.nonzero(outside)[0, 0])
        point = tuple(float(value) for value in points[row])
        raise ValueError(f"point {row} = {point} (x, y) lies outside the image, {width} pixels wide and {height} high")
    return pixels


def _interpolations(features: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Bilinear up-sampling of (h, w, D) along each axis as a matrix: float64 (H, h) and (W, w)."""
    vertical, horizontal = (_interpolation(features.shape[axis], size[axis]) for axis in (0, 1))
    return vertical.to(features.device), horizontal.to(features.device)


def _interpolation(inputs: int, outputs: int) -> Tensor:
    identity = torch.eye(inputs, dtype=torch.float64, device="cpu")[None]
    return F.interpolate(identity, size=outputs, mode="linear", align_corners=False)[0].T


def _lengths(features: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Euclidean norm (H, W) of each up-sampled feature, from the dot products within a row of tokens."""
    rows = max(1, _BLOCK_VALUES // (features.shape[1] * max(features.shape[2], len(horizontal))))
    squares = []
    for block in vertical.split(rows):
        tokens = torch.einsum("rh,hwd->rwd", block, features.double())
        products = horizontal @ (tokens @ tokens.mT)  # float64: opposite neighbours nearly cancel
        squares.append((products * horizontal).sum(2))
    return torch.cat(squares).clamp(min=0).sqrt().float()
