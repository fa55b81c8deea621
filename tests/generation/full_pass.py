"""Decoding without a cache: each step one full causal pass over [class, P1, x1, …, Pn, xn, P(n+1) … P(n+m)]."""

from __future__ import annotations

import torch
from torch import Tensor

from randar_features.models import RandAR


def step_logits(model: RandAR, class_index: int, order: list[int], tokens: list[int], wanted: int) -> Tensor:
    """Logits (wanted, V) of one image's next tokens; `tokens` are those of the first locations of `order`."""
    instructions = model.instructions()
    embeddings, places = [model.cls_embedding.embedding_table.weight[class_index]], [0]
    for location, token in zip(order, tokens, strict=False):
        embeddings += [instructions[location], model.tok_embeddings.weight[token]]
        places += [location + 1, location + 1]
    for location in order[len(tokens) : len(tokens) + wanted]:
        embeddings.append(instructions[location])
        places.append(location + 1)
    x, rotary = torch.stack(embeddings)[None], model.rotary[torch.tensor(places)][None]
    for block in model.layers:
        x = block(x, rotary)
    return model.logits(x)[0, -wanted:]


def greedy_decode(
    model: RandAR,
    class_index: int,
    order: list[int],
    schedule: list[int],
    guidance: tuple[float, float],
    known: list[int] | None = None,
) -> list[int]:
    """All tokens of one image in the order; `known` are the first ones."""
    tokens = list(known or [])
    for wanted in schedule:
        logits = step_logits(model, class_index, order, tokens, wanted)
        if guidance[1] > 1:
            scale = guidance[0] + (guidance[1] - guidance[0]) * len(tokens) / len(order)
            null = step_logits(model, model.config.num_classes, order, tokens, wanted)
            logits = null + scale * (logits - null)
        tokens += logits.argmax(dim=-1).tolist()
    return tokens
