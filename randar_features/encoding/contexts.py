"""One image shown in several contexts, whose first copy is run once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from randar_features import sequence
from randar_features.encoding.encoder import encode_reads
from randar_features.layers.kv_cache import CacheWindow
from randar_features.models import CausalTransformer, ImageTransformer

Maps = dict[tuple[str, str], Tensor]


def encode_contexts(
    transformer: ImageTransformer,
    tokens: Tensor,
    order: Tensor | None = None,
    *,
    layers: Sequence[int],
    contexts: Sequence[str],
    reads: Sequence[str],
    norm: bool = False,
) -> Maps:
    """`encode_reads` in several contexts: maps (B, L, G, G, D) by context and read. The class is the null class.

    No row of the first copy sees the second, so its keys and values are the same in every context: a causal model
    runs it once and keeps them, which saves a third of the work of "repeat" and "reverse", and more with "single".
    """
    # Not PAR, one of whose groups may lie in both copies: its rows see what stands behind them in their group.
    if len(contexts) > 1 and isinstance(transformer, CausalTransformer) and transformer.mask(2) == "causal":
        return _shared(transformer, tokens, order, layers, contexts, reads, norm)
    maps: Maps = {}
    for context in contexts:
        options: dict[str, Any] = {"layers": layers, "context": context, "reads": reads, "norm": norm}
        found = encode_reads(transformer, tokens, None, order, **options)
        maps |= {(context, read): values for read, values in found.items()}
    return maps


def _shared(
    transformer: CausalTransformer,
    tokens: Tensor,
    order: Tensor | None,
    layers: Sequence[int],
    contexts: Sequence[str],
    reads: Sequence[str],
    norm: bool,
) -> Maps:
    count = transformer.config.num_tokens
    done = transformer.length_of(count)
    cache = transformer.new_cache(len(tokens), transformer.length_of(count, "repeat"))
    order = transformer.check_order(order, len(tokens))
    maps: Maps = {}
    for context in ["single", *(context for context in contexts if context != "single")]:
        start = 0 if context == "single" else done
        x, rotary = (rows[:, start:] for rows in transformer.embed(tokens, None, order, context))
        states = _states(transformer, x, rotary, cache.windows(rows=len(tokens), start=start), max(layers))
        for read in reads if context in contexts else ():
            rows = transformer.read_rows(context, read)
            own = slice(rows.start - start, rows.stop - start, rows.step) if isinstance(rows, slice) else rows - start
            found = torch.stack([states[layer][:, own] for layer in layers], dim=2)
            found = (transformer.final_norm(read)(found) if norm else found).float()
            raster = sequence.to_raster(found, sequence.read_order(order, context))  # (B, N, L, D)
            maps[context, read] = raster.transpose(1, 2).unflatten(2, (transformer.config.grid, -1))
    return {(context, read): maps[context, read] for context in contexts for read in reads}


def _states(
    transformer: CausalTransformer, x: Tensor, rotary: Tensor, windows: Sequence[CacheWindow], deepest: int
) -> list[Tensor]:
    """The residual stream (B, L, D) behind each block, of rows that stand behind those in the cache."""
    mask, states = transformer.mask(x.shape[1], windows[0].start), []
    for block, window in zip(transformer.blocks[: deepest + 1], windows, strict=False):
        x = block(x, rotary, mask, None, window)
        states.append(x)
    return states
