"""Many kinds of features of one model at once: one tokenization, one pass for all layers and reads of a context."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from randar_features import sequence
from randar_features.encoding.encoder import as_index, encode_reads, resolve_layers
from randar_features.hub import Model
from randar_features.precision import autocast

Output = Mapping[str, Any]


def model_outputs(
    model: Model,
    *,
    layers: int | Iterable[int] | None = None,
    contexts: str | Sequence[str] = ("reverse",),
    reads: str | Sequence[str] = ("image",),
    norm: bool = False,
    orders: int | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Every combination of contexts, reads and layers, as details by name: "reverse image layer 2".

    Arguments are those of `extract_features`, of which contexts and reads may be several here.

    Raises:
        ValueError, IndexError, TypeError: what the model does not have.
    """
    config = model.transformer.config
    wanted = resolve_layers(layers, config.num_layers, model.recommended_layers)
    contexts, reads = ([given] if isinstance(given, str) else list(given) for given in (contexts, reads))
    for context in contexts:
        sequence.check_choice("context", context, model.transformer.contexts)
    for read in reads:
        sequence.check_choice("read", read, model.transformer.reads)
    if orders is not None:
        sequence.antithetic_orders(as_index(orders), config.num_tokens)
    shared = {"norm": norm, "orders": orders, "seed": None if orders is None else seed}
    return {
        f"{context} {read} layer {layer}": {"layer": layer, "context": context, "read": read, **shared}
        for context in contexts
        for read in reads
        for layer in wanted
    }


@torch.no_grad()
def encode_outputs(
    model: Model, images: Tensor, outputs: Mapping[str, Output], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Maps (B, G, G, D) float32 of each of the model's `outputs`, on its device.

    Args:
        model: tokenizer and transformer.
        images: (B, 3, S, S) in [0, 1].
        outputs: some of `model_outputs`.
        dtype: format of the matrix products; None: bfloat16 where the hardware has it, else float32.
    """
    tokens = model.tokenizer.encode(images.to(model.device))
    found: dict[str, Tensor] = {}
    with autocast(model.device, dtype):
        for group in _passes(outputs):
            found |= _encode_pass(model, tokens, group)
    return {name: found[name] for name in outputs}


def _passes(outputs: Mapping[str, Output]) -> list[dict[str, Output]]:
    """The outputs, together those that one pass over the sequence gives."""
    groups: dict[tuple[Any, ...], dict[str, Output]] = {}
    for name, output in outputs.items():
        key = tuple(output[axis] for axis in ("context", "norm", "orders", "seed"))
        groups.setdefault(key, {})[name] = output
    return list(groups.values())


def _encode_pass(model: Model, tokens: Tensor, outputs: Mapping[str, Output]) -> dict[str, Tensor]:
    shared = next(iter(outputs.values()))
    layers = sorted({output["layer"] for output in outputs.values()})
    reads = list(dict.fromkeys(output["read"] for output in outputs.values()))
    orders: Sequence[Tensor | None] = [None]
    if shared["orders"] is not None:
        orders = list(sequence.antithetic_orders(shared["orders"], tokens.shape[1], shared["seed"]))
    total: dict[str, Tensor] = {}
    for order in orders:
        options = {"layers": layers, "context": shared["context"], "reads": reads, "norm": shared["norm"]}
        for read, maps in encode_reads(model.transformer, tokens, None, order, **options).items():
            total[read] = total[read] + maps if read in total else maps
    return {
        name: total[output["read"]][:, layers.index(output["layer"])] / len(orders) for name, output in outputs.items()
    }
