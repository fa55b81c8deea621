"""Features for an index, in checked blocks of one size."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from probes.index.settings import IndexSettings

Blocks = Callable[[int], Iterable[tuple[int, np.ndarray]]]
"""Called with a number of rows: consecutive blocks (first row, floats (b, D)) of at most that many, from row 0 on."""


def blocks_of(features: np.ndarray) -> Blocks:
    """Features (n, D) in memory, or memory-mapped, as `build_index` takes them."""

    def blocks(size: int) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(features), size):
            yield start, features[start : start + size]

    return blocks


def usable_rows(block: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """The rows of a block that are finite as float32, and which they are, bool (b,)."""
    with np.errstate(over="ignore"):
        rows = np.asarray(block, np.float32)
    usable = np.asarray(np.isfinite(rows).all(1))
    return torch.from_numpy(rows[usable]), usable


def sample_rows(blocks: Blocks, count: int, settings: IndexSettings) -> Tensor:
    """A seeded choice of `training_rows` vectors without those that are not finite, in their order, float32.

    ValueError if none is left, or fewer than `nlist`.
    """
    generator = np.random.default_rng(settings.seed)
    wanted = np.sort(generator.choice(count, min(count, settings.training_rows), replace=False))
    sample, filled = torch.empty(len(wanted), settings.dim, dtype=torch.float32, device="cpu"), 0
    for start, block in rebatched(blocks, 0, count, settings):
        first, last = np.searchsorted(wanted, [start, start + len(block)])
        rows, _ = usable_rows(block[wanted[first:last] - start])
        sample[filled : filled + len(rows)] = rows
        filled += len(rows)
    if filled < max(1, settings.nlist):
        raise ValueError(f"only {filled} of {len(wanted)} vectors to train on are free of NaN and infinity")
    return sample[:filled]


def rebatched(
    blocks: Blocks,
    first: int,
    count: int,
    settings: IndexSettings,
    before: Callable[[np.ndarray], None] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Rows `first` … count − 1 in blocks of exactly `settings.block_rows` (the last may be shorter).

    before: is called with the rows before `first`, block by block.

    ValueError if the blocks are not (b, D) floats, not consecutive from row 0, or not `count` rows.
    """
    size, waiting, start, seen = settings.block_rows, np.empty((0, settings.dim), np.float32), first, 0
    for row, block in blocks(size):
        if row != seen:
            raise ValueError(f"a block begins at row {row}, expected row {seen}: blocks must leave out no row")
        if block.ndim != 2 or block.shape[1] != settings.dim or not np.issubdtype(block.dtype, np.floating):
            raise ValueError(f"blocks must be floats (b, {settings.dim}), got {block.dtype} {block.shape} at row {row}")
        seen += len(block)
        old = max(0, first - row)
        if before is not None and len(block[:old]):
            before(block[:old])
        fresh = block[old:]
        waiting = np.concatenate([waiting, fresh]) if len(waiting) else fresh
        while len(waiting) >= size:
            yield start, waiting[:size]
            start, waiting = start + size, waiting[size:]
    if seen != count:
        raise ValueError(f"the blocks hold {seen} rows, expected {count}")
    if len(waiting):
        yield start, waiting
