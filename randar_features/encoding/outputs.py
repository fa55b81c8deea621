"""Many kinds of features of one model at once: one tokenization, one pass for all layers and reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from randar_features.encoding.contexts import encode_contexts
from randar_features.encoding.encoder import as_index, resolve_view
from randar_features.hub import Model
from randar_features.models.base import ImageTransformer
from randar_features.precision import autocast

Output = Mapping[str, Any]


def model_outputs(
    model: Model,
    *,
    layers: int | Iterable[int] | Literal["all"] | None = None,
    contexts: str | Sequence[str] | None = None,
    reads: str | Sequence[str] = ("image",),
    norm: bool = False,
    orders: int | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Details of outputs by name, "reverse image layer 2": every context, read and layer that go together.

    Arguments are those of `extract_features`, of which contexts and reads may be several here; layers may be
    "all" that have features of a read.

    Raises:
        ValueError, IndexError, TypeError: what the model does not have.
    """
    transformer = model.transformer
    reads = [reads] if isinstance(reads, str) else list(reads)
    if orders is not None:
        transformer.several_orders(as_index(orders), seed)
    shared = {"norm": norm, "orders": orders, "seed": None if orders is None else seed}
    outputs = {}
    for context, read in _views(transformer, contexts, reads):
        asked = transformer.layers_of(read) if layers == "all" else layers
        wanted, _ = resolve_view(
            transformer, layers=asked, context=context, read=read, recommended=model.recommended_layers
        )
        for layer in wanted:
            outputs[f"{context} {read} layer {layer}"] = {"layer": layer, "context": context, "read": read, **shared}
    return outputs


def _views(
    transformer: ImageTransformer, contexts: str | Sequence[str] | None, reads: Sequence[str]
) -> list[tuple[str, str]]:
    """The contexts and reads that go together; of no context, the recommended one of each read."""
    recommended = [(transformer.check_view(None, read), read) for read in reads]
    if contexts is None:
        return recommended
    views = []
    for context in [contexts] if isinstance(contexts, str) else contexts:
        fitting = [read for read in reads if context in transformer.contexts_of(read)]
        if not fitting:
            transformer.check_view(context, reads[0])
        views += [(context, read) for read in fitting]
    return views


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
        for group in _passes(outputs, model.transformer.reads_together):
            found |= _encode_pass(model, tokens, group)
    return {name: found[name] for name in outputs}


def _passes(outputs: Mapping[str, Output], reads_together: bool) -> list[dict[str, Output]]:
    """The outputs, together those that are read in the same passes."""
    axes = ("norm", "orders", "seed") if reads_together else ("norm", "orders", "seed", "read")
    groups: dict[tuple[Any, ...], dict[str, Output]] = {}
    for name, output in outputs.items():
        groups.setdefault(tuple(output[axis] for axis in axes), {})[name] = output
    return list(groups.values())


def _encode_pass(model: Model, tokens: Tensor, outputs: Mapping[str, Output]) -> dict[str, Tensor]:
    layers, contexts, reads = (
        sorted({output[axis] for output in outputs.values()}) for axis in ("layer", "context", "read")
    )
    shared = next(iter(outputs.values()))
    orders: Sequence[Tensor | None] = [None]
    if shared["orders"] is not None:
        orders = list(model.transformer.several_orders(shared["orders"], shared["seed"]))
    total: dict[tuple[str, str], Tensor] = {}
    for order in orders:
        maps = encode_contexts(
            model.transformer, tokens, order, layers=layers, contexts=contexts, reads=reads, norm=shared["norm"]
        )
        total = {view: total[view] + values if total else values for view, values in maps.items()}
    return {
        name: total[output["context"], output["read"]][:, layers.index(output["layer"])] / len(orders)
        for name, output in outputs.items()
    }
