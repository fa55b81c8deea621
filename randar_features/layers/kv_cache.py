"""Static key-value cache: allocated once, written in contiguous slices, never resized."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class KVCache:
    """Keys and values of every layer for up to `rows` sequences of up to `length` tokens.

    Nothing needs clearing between uses: a pass reads no further than it and the passes before it have
    written. Hold one and hand it to each call to allocate once for many.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        rows: int,
        num_kv_heads: int,
        length: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        shape = (num_layers, rows, num_kv_heads, length, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def require(
        self,
        *,
        rows: int,
        length: int,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """ValueError unless `rows` sequences of `length` tokens of such a model fit."""
        if self.keys.shape[1] < rows or self.keys.shape[3] < length:
            raise ValueError(
                f"the key-value cache holds {self.keys.shape[1]} sequences of {self.keys.shape[3]} tokens; "
                f"needed are {rows} of {length} (guidance takes 2 or 3 sequences an image)"
            )
        held = (*(self.keys.shape[i] for i in (0, 2, 4)), self.keys.dtype, self.keys.device)
        needed = (num_layers, num_kv_heads, head_dim, dtype, device)
        if held != needed:
            kinds = ["{} layers of {} heads of {} channels, {} on {}".format(*kind) for kind in (held, needed)]
            raise ValueError(
                f"the key-value cache is for {kinds[0]}; the model has {kinds[1]}: take one from its own new_cache"
            )

    def windows(self, *, rows: int, start: int) -> list[CacheWindow]:
        """For each layer, where a pass of `rows` sequences behind `start` tokens reads and writes."""
        layers = zip(self.keys[:, :rows], self.values[:, :rows], strict=True)
        return [CacheWindow(keys, values, start) for keys, values in layers]


class CacheWindow(NamedTuple):
    """One layer's cache as a pass sees it: `start` tokens are there, those of the pass go behind them."""

    keys: Tensor
    """(B, Hkv, capacity, d)."""
    values: Tensor
    """(B, Hkv, capacity, d)."""
    start: int

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write n entries (B, Hkv, n, d) behind the first `start`; all start + n of them."""
        stop = self.start + keys.shape[2]
        self.keys[:, :, self.start : stop] = keys
        self.values[:, :, self.start : stop] = values
        return self.keys[:, :, :stop], self.values[:, :, :stop]


def lower_right_causal_mask(
    count: int, start: int, *, separate: int = 0, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """Additive mask (n, start + n) under which row i sees the first start + i + 1 entries; None if n = 1.

    A single row sees everything, and attention without a mask is the faster one. The last `separate` rows do
    not see each other: each is then read as if it were the only one behind the others.
    """
    if count == 1:
        return None
    mask = torch.full((count, start + count), float("-inf"), dtype=dtype, device=device).triu_(start + 1)
    if separate:
        mask[-separate:, -separate:] = float("-inf")
        mask[-separate:, -separate:].fill_diagonal_(0)
    return mask
