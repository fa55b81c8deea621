"""Two-dimensional rotary position embedding."""

import torch
from torch import Tensor

EXTRAPOLATED = 2  # frequencies of each axis, of a grid of twice the side


def axial_frequencies(head_dim: int, base: float) -> Tensor:
    """ω_k = base^(−2k / (d/2)), k = 0 … d/4−1: the frequencies of one axis, (d/4,) float32."""
    half = head_dim // 2
    return 1.0 / base ** (torch.arange(0, half, 2, device="cpu")[: half // 2].float() / half)


def rotary_table(angles: Tensor) -> Tensor:
    """Cosines and sines of the class token and of every raster location: (1 + G², d/2, 2) float32.

    `angles` are (G, d/4): the angle of each coordinate, of a row or a column, at each frequency. Half of the rotation
    pairs turn by the row, the others by the column. The class token's cosine and sine are both zero, as in the
    published weights: its query and key vanish.
    """
    side = len(angles)
    rows, columns = angles[:, None].expand(side, side, -1), angles[None].expand(side, side, -1)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    table = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([torch.zeros_like(table[:1]), table])


def grid_rotary_table(side: int, head_dim: int, base: float) -> Tensor:
    """`rotary_table` of the plain G×G grid: angle = coordinate · ω_k."""
    return rotary_table(torch.outer(torch.arange(side, device="cpu").float(), axial_frequencies(head_dim, base)))


def fine_grid_rotary_table(side: int, head_dim: int, base: float) -> Tensor:
    """`rotary_table` of the 2G×2G grid for a model of side G, without training (RandAR, section 3.4).

    On each axis the first `EXTRAPOLATED` frequencies go on to positions 0 … 2G−1 (extrapolated); the others
    see 2G positions spread evenly over 0 … G−1 (interpolated).
    """
    frequencies = axial_frequencies(head_dim, base)
    extrapolated = torch.outer(torch.arange(2 * side, device="cpu").float(), frequencies[:EXTRAPOLATED])
    interpolated = torch.outer(
        torch.linspace(0, side - 1, 2 * side, dtype=torch.float32, device="cpu"), frequencies[EXTRAPOLATED:]
    )
    return rotary_table(torch.cat([extrapolated, interpolated], dim=1))


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn the adjacent channel pairs (2j, 2j+1) of `x` (B, L, H, d) by `rotary` (B or 1, L, d/2, 2).

    (a, b) → (a·cos − b·sin, b·cos + a·sin), computed in float32 and cast back.
    """
    if torch.compiler.is_compiling():  # the compiler fuses no complex numbers; without it they are the faster way
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = rotary[:, :, None].unbind(-1)
        return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).type_as(x)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    turned = pairs * torch.view_as_complex(rotary)[:, :, None]
    return torch.view_as_real(turned).flatten(-2).type_as(x)
