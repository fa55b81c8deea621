"""A pass through some blocks, and what goes into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from randar_features.layers import Mask, Rows


class Places(NamedTuple):
    """The locations of one grid: their angles, and the embeddings of what else stands in a sequence."""

    rotary: Tensor
    """(1 + N, d/2, 2) angles of the class token, which are zero, and of the raster locations."""
    asking: Tensor
    """(E, D): instructions, special tokens, the query, or nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """A pass through some blocks, and where in it features of image tokens are read."""

    x: Tensor
    """(B, L, D) in front of the first block."""
    rotary: Tensor
    """(B or 1, L, d/2, 2)."""
    mask: Mask
    layers: range
    """The blocks."""
    rows: Mapping[str, Rows]
    """For each read, the N rows in which it is read."""
    order: Tensor
    """(B or 1, N) the locations of these rows."""
    window: Any = None
    """What the blocks attend to in place of their own rows."""


def run(
    blocks: Iterable[nn.Module],
    x: Tensor,
    rotary: Tensor,
    mask: Mask,
    *,
    rows: Rows | None = None,
    windows: Sequence[Any] | None = None,
) -> Tensor:
    """(B, L, D) through the blocks, each with its own window; of the last one only `rows`."""
    blocks = list(blocks)
    windows = [None] * len(blocks) if windows is None else windows
    for block, window in zip(blocks[:-1], windows, strict=False):
        x = block(x, rotary, mask, None, window)
    return blocks[-1](x, rotary, mask, rows, windows[len(blocks) - 1])
