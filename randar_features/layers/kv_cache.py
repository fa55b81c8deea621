"""Static key-value cache: allocated once, written in contiguous slices, never resized."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class CacheShape(NamedTuple):
    """Sizes of a key-value cache."""

    layers: int
    sequences: int
    heads: int
    """Heads of keys and values, Hkv."""
    length: int
    """Tokens of a sequence, at most."""
    head_dim: int


class KVCache:
    """Keys and values of every layer.

    Nothing needs clearing between uses: a pass reads no further than it and the passes before it have written.
    Hold one and give it to each call in order to allocate once for many.
    """

    def __init__(
        self, shape: CacheShape, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def require(self, shape: CacheShape, dtype: torch.dtype, device: torch.device) -> None:
        """ValueError unless this cache is of the same kind and at least as long, for at least as many sequences."""
        own = CacheShape(*self.keys.shape)
        held, needed = (
            f"{one.layers} layers of {one.heads} heads of {one.head_dim} channels, {dtype} on {device}"
            for one, dtype, device in ((own, self.keys.dtype, self.keys.device), (shape, dtype, device))
        )
        if held != needed:
            raise ValueError(
                f"the key-value cache is for {held}; the model has {needed}: make one with generation.new_cache"
            )
        if own.sequences < shape.sequences or own.length < shape.length:
            raise ValueError(
                f"the key-value cache holds {own.sequences} sequences of {own.length} tokens; needed are "
                f"{shape.sequences} of {shape.length} (guidance takes 2 or 3 sequences an image)"
            )

    def windows(self, sequences: int, start: int) -> list[CacheWindow]:
        """For each layer, where a pass of some sequences that follows `start` tokens reads and writes."""
        layers = zip(self.keys[:, :sequences], self.values[:, :sequences], strict=True)
        return [CacheWindow(keys, values, start) for keys, values in layers]


class CacheWindow(NamedTuple):
    """One layer's cache as a pass sees it: `start` tokens are there, and those of the pass follow them."""

    keys: Tensor
    """(B, Hkv, capacity, d)."""
    values: Tensor
    """(B, Hkv, capacity, d)."""
    start: int

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write n keys and values (B, Hkv, n, d) after the first `start`; gives all start + n of them."""
        stop = self.start + keys.shape[2]
        self.keys[:, :, self.start : stop] = keys
        self.values[:, :, self.start : stop] = values
        return self.keys[:, :, :stop], self.values[:, :, :stop]
