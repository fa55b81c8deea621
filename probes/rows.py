"""Rows of features that are read as they are needed: from memory, from memory-mapped shards, or a choice of them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from probes.inputs import Array, float_tensor, require_finite, share

BLOCK_ROWS = 4096


class Rows(ABC):
    """`shape` (n, …), floats; `read` gives some rows at a time."""

    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def read(self, rows: np.ndarray) -> Tensor:
        """The rows of these numbers, int64 (b,) in any order, as floats (b, …) of their own precision."""

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, `size` at a time, each block after its place."""
        for start in range(0, len(self), size):
            place = slice(start, min(start + size, len(self)))
            yield place, self.read(np.arange(place.start, place.stop))


Features = Array | Rows


def as_rows(features: Features, name: str, shape: str, ndim: int, width: int | None = None) -> Rows:
    """`features` of `ndim` axes as rows; `width` is the last axis that a probe was fitted with, if it was.

    What is in memory is checked here, as `float_tensor` does, what is read later when it is read.
    """
    if isinstance(features, Rows):
        if len(features.shape) != ndim or 0 in features.shape:
            raise ValueError(f"{name} must have shape {shape} and not be empty, got {features.shape}")
        rows = features
    else:
        rows = TensorRows(float_tensor(features, name, shape, ndim))
    if width is not None and rows.shape[-1] != width:
        raise ValueError(f"{name} must have shape {shape} as in fit, got {rows.shape}")
    return rows


class TensorRows(Rows):
    """Rows of a tensor in memory, on its device; they have been checked."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.shape = tuple(tensor.shape)

    @override
    def read(self, rows: np.ndarray) -> Tensor:
        return self.tensor[torch.from_numpy(rows).to(self.tensor.device)]

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, `size` at a time, each block after its place; views of the tensor."""
        for start in range(0, len(self), size):
            place = slice(start, min(start + size, len(self)))
            yield place, self.tensor[place]


class DiskRows(Rows):
    """Rows of an array that may be memory-mapped: nothing is read before it is needed.

    `read` raises ValueError at NaN or infinity; row numbers in it count from `first`.
    """

    def __init__(self, array: np.ndarray, first: int = 0) -> None:
        self.array, self.first = array, first
        self.shape = array.shape

    @override
    def read(self, rows: np.ndarray) -> Tensor:
        found = share(self.array[rows], "features")
        require_finite(found, "features", rows + self.first)
        return found


class TokenRows(Rows):
    """Maps (n, G, H, D), or those of several layers (n, L, G, H, D), as tokens (n, G·H, D) or (n, L·G·H, D)."""

    def __init__(self, maps: Rows) -> None:
        self.maps = maps
        count, *grid, channels = maps.shape
        self.shape = (count, math.prod(grid), channels)

    @override
    def read(self, rows: np.ndarray) -> Tensor:
        return self.maps.read(rows).flatten(1, -2)


class StackedRows(Rows):
    """Several sources one after the other, read from the first to the last place whatever order is wanted."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        _check_alike([part.shape[1:] for part in parts])
        self.parts, self.ends = list(parts), np.cumsum([len(part) for part in parts])
        self.shape = (int(self.ends[-1]), *parts[0].shape[1:])

    @override
    def read(self, rows: np.ndarray) -> Tensor:
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], [0, *self.ends])
        starts = [0, *self.ends[:-1]]
        found = [
            part.read(rows[order[low:high]] - start)
            for part, start, low, high in zip(self.parts, starts, bounds, bounds[1:], strict=False)
            if high > low
        ]
        inverse, device = torch.from_numpy(np.argsort(order)), found[0].device
        return torch.cat([part.to(device) for part in found])[inverse.to(device)]


def sharded_rows(shards: Sequence[np.ndarray]) -> StackedRows:
    """The shards of a feature store, arrays (n_i, …), as the rows of one source."""
    starts = np.cumsum([0, *(len(shard) for shard in shards)])
    return StackedRows([DiskRows(shard, int(start)) for shard, start in zip(shards, starts, strict=False)])


class SelectedRows(Rows):
    """Some rows of others, by their numbers (m,)."""

    def __init__(self, rows: Rows, chosen: np.ndarray) -> None:
        self.rows, self.chosen = rows, chosen
        self.shape = (len(chosen), *rows.shape[1:])

    @override
    def read(self, rows: np.ndarray) -> Tensor:
        return self.rows.read(self.chosen[rows])


class JoinedRows(Rows):
    """The same rows of several sources side by side, concatenated along the last axis."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        _check_alike([part.shape[:-1] for part in parts])
        self.parts = list(parts)
        self.shape = (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))

    @override
    def read(self, rows: np.ndarray) -> Tensor:
        return torch.cat([part.read(rows) for part in self.parts], -1)


def _check_alike(shapes: Sequence[tuple[int, ...]]) -> None:
    if len(set(shapes)) != 1:
        raise ValueError(f"parts must be of one shape but for the axis that they are joined along, got {shapes}")
