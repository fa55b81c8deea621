"""Similarity of two small pictures after one of them is mirrored, shifted, cropped or turned a little.

`WARPS` of one picture, 90 % crops of either side and rotations by 3 degrees, are shifted over the other; the shift of
the highest correlation of detail counts, among those that leave most of both pictures, and of their detail, in sight.
All shifts are computed at once, as correlations are products of Fourier transforms.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

DETAIL = (0.7, 4.0)  # pixels: what is coarser is alike in many pictures, what is finer changes with compression
WARPS = ((1.0, 0.0), (1.0, 3.0), (1.0, -3.0), (0.9, 0.0), (1 / 0.9, 0.0))
"""Scale and degrees."""
MAX_SHIFT = 6  # pixels of 32
MIN_OVERLAP = 0.6  # of the area
MIN_DETAIL = 0.3  # of the detail's energy, of both pictures
COARSE_SIDE = 8
COARSE = 0.65  # correlation at 8×8, mirrored or not, from which on two pictures are aligned
AT_ONCE = 256


def aligned_correlations(pictures: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest correlation of detail over warps and shifts, and whether the mirror image was compared.

    Pairs that differ at 8×8 are not aligned, which takes milliseconds: theirs is −1.

    Args:
        pictures, others: uint8 (n, S, S, 3), each compared with the one of its place.

    Returns:
        (n,) float in [−1, 1] and (n,) bool.
    """
    found = np.full(len(pictures), -1.0)
    if not len(pictures):
        return found, np.zeros(0, bool)
    straight, mirrored = (coarse_correlations(each, others) for each in (pictures, pictures[:, :, ::-1]))
    flipped = mirrored > straight
    chosen = np.flatnonzero(np.maximum(straight, mirrored) >= COARSE)
    for start in range(0, len(chosen), AT_ONCE):
        places = chosen[start : start + AT_ONCE]
        own, other = (_as_tensor(each[places]) for each in (pictures, others))
        own = torch.where(torch.from_numpy(flipped[places])[:, None, None, None], own.flip(3), own)
        found[places] = _best_alignment(own, other).numpy()
    return found, flipped


def coarse_correlations(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Correlation of the pictures (n, S, S, 3) of each place at 8×8, (n,)."""
    coarse = [F.adaptive_avg_pool2d(_as_tensor(each), COARSE_SIDE) for each in (pictures, others)]
    first, second = ((each - each.mean((2, 3), keepdim=True)).flatten(1) for each in coarse)
    return F.cosine_similarity(first, second).numpy()


def _as_tensor(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()


@torch.no_grad()
def _best_alignment(pictures: Tensor, others: Tensor) -> Tensor:
    """(n,), of pictures (n, 3, S, S)."""
    details = _detail(others)
    every = []
    for scale, degrees in WARPS:
        warped, inside = _warped(pictures, scale, degrees)
        every.append(_best_shift(_detail(warped) * inside, inside, details))
    return torch.stack(every).amax(0)


def _detail(pictures: Tensor) -> Tensor:
    """What lies between Gaussians of `DETAIL`."""
    fine, coarse = (_blurred(pictures, sigma) for sigma in DETAIL)
    return fine - coarse


def _blurred(pictures: Tensor, sigma: float) -> Tensor:
    radius = round(4 * sigma)
    kernel = torch.exp(-torch.arange(-radius, radius + 1.0, device="cpu").square() / (2 * sigma**2))
    weights = (kernel / kernel.sum()).repeat(3, 1, 1, 1)
    padded = F.pad(pictures, (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, weights, groups=3), weights.transpose(2, 3), groups=3)


def _warped(pictures: Tensor, scale: float, degrees: float) -> tuple[Tensor, Tensor]:
    """The pictures enlarged and turned about their centres, and 1 where (1, S, S) they then have pixels."""
    side = pictures.shape[2]
    if (scale, degrees) == (1, 0):
        return pictures, torch.ones(1, side, side, device="cpu")
    cosine, sine = (function(math.radians(degrees)) / scale for function in (math.cos, math.sin))
    matrix = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]], device="cpu")
    grid = F.affine_grid(matrix.expand(len(pictures), 2, 3), list(pictures.shape), align_corners=False)
    warped = F.grid_sample(pictures, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return warped, (grid[:1].abs() <= 1).all(-1).float()


def _best_shift(details: Tensor, inside: Tensor, others: Tensor) -> Tensor:
    """The highest normalised cross-correlation (n,) of details (n, 3, S, S), where `inside` (1, S, S), with others."""
    size = details.shape[2] * 3 // 2  # so that shifts of up to half a picture do not wrap round

    def spectrum(values: Tensor) -> Tensor:
        return torch.fft.rfft2(values, s=(size, size))

    def over_shifts(values: Tensor) -> Tensor:
        return torch.fft.irfft2(values, s=(size, size))

    energy, other_energy = details.square().sum(1), others.square().sum(1)
    own_area, other_area = spectrum(inside).conj(), spectrum(torch.ones_like(inside))
    products = over_shifts((spectrum(details).conj() * spectrum(others)).sum(1))
    common = over_shifts(spectrum(energy).conj() * other_area)
    other_common = over_shifts(own_area * spectrum(other_energy))
    shifts = torch.fft.fftfreq(size, 1 / size).abs() <= MAX_SHIFT
    seen = over_shifts(own_area * other_area) >= MIN_OVERLAP * inside[0].numel()
    for shared, whole in ((common, energy), (other_common, other_energy)):
        seen = seen & (shared > MIN_DETAIL * whole.sum((1, 2))[:, None, None])
    seen = seen & shifts[:, None] & shifts
    correlations = products / (common * other_common).clamp_min(1).sqrt()
    return torch.where(seen, correlations, -1.0).flatten(1).amax(1).clamp(-1, 1)
