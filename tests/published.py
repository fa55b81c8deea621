"""RandAR, PAR and ARPG restated plainly from the parts of `benchmarks.reference.plain`, to compare numbers with."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.reference.plain import Weights, angles_of, attention, feed_forward, norm, rotate, stream


def randar_states(
    weights: Weights, *, heads: int, grid: int, tokens: Sequence[int], class_index: int, shown: Sequence[int]
) -> list[Tensor]:
    """RandAR's stream, (1 + 2·len(shown), D), for raster tokens; `shown` lists the locations as they are shown."""
    instruction = weights["pos_instruct_embeddings"][0].unflatten(0, (heads, -1))
    instructions = rotate(instruction.expand(len(shown), -1, -1), angles_of(shown, grid, instruction.shape[1]))
    image = weights["tok_embeddings.weight"][[tokens[location] for location in shown]]
    first = weights["cls_embedding.embedding_table.weight"][class_index]
    x = torch.cat([first[None], torch.stack([instructions.flatten(1), image], dim=1).flatten(0, 1)])
    places: list[int | None] = [None, *(location for location in shown for _ in range(2))]
    angles = angles_of(places, grid, instruction.shape[1])
    return list(stream(weights, x, angles, heads, seen_by(causal, len(x), len(x))))


def arpg_content(
    weights: Weights, tokens: Sequence[int], places: Sequence[int], class_row: int, heads: int, grid: int, sees: Tensor
) -> list[Tensor]:
    """The stream (1 + L, D) of ARPG's content half after each block: the class, then the tokens at their places."""
    x, states = weights["embeddings.weight"][[class_row, *tokens]], list[Tensor]()
    angles = angles_of([None, *places], grid, x.shape[1] // heads)
    while f"layers.self_dec.{len(states)}.ffn_norm.weight" in weights:
        name = f"layers.self_dec.{len(states)}"
        normed = norm(x, weights[f"{name}.attn_norm.weight"])
        queries, keys, values = (normed @ weights[f"{name}.attn.to_{part}.weight"].T for part in "qkv")
        x = x + attention(queries, keys, values, heads, angles, angles, sees) @ weights[f"{name}.attn.proj.weight"].T
        x = x + feed_forward(norm(x, weights[f"{name}.ffn_norm.weight"]), weights, f"{name}.ffn")
        states.append(x)
    return states


def arpg_queries(
    weights: Weights,
    content: Tensor,
    places: Sequence[int],
    wanted: Sequence[int],
    vocab_size: int,
    heads: int,
    grid: int,
    sees: Tensor,
) -> list[Tensor]:
    """The stream (M, D) of ARPG's query half after each block; `content` is the other half's last, at its places."""
    normed, head_dim = norm(content, weights["layers.norm.weight"]), content.shape[1] // heads
    keys, values = (normed @ weights[f"layers.to_{part}.weight"].T for part in "kv")
    angles, key_angles = angles_of(wanted, grid, head_dim), angles_of([None, *places], grid, head_dim)
    x, states = weights["embeddings.weight"][vocab_size].expand(len(wanted), -1), list[Tensor]()
    while f"layers.cross_dec.{len(states)}.ffn_norm.weight" in weights:
        name = f"layers.cross_dec.{len(states)}"
        queries = norm(x, weights[f"{name}.attn_norm.weight"]) @ weights[f"{name}.attn.to_q.weight"].T
        attended = attention(queries, keys, values, heads, angles, key_angles, sees)
        x = x + attended @ weights[f"{name}.attn.proj.weight"].T
        x = x + feed_forward(norm(x, weights[f"{name}.ffn_norm.weight"]), weights, f"{name}.ffn")
        states.append(x)
    return states


def seen_by(rule: Callable[[int, int], bool], queries: int, keys: int) -> Tensor:
    """(M, L) boolean: whether query p may see key q."""
    return torch.tensor([[rule(p, q) for q in range(keys)] for p in range(queries)], device="cpu")


def causal(p: int, q: int) -> bool:
    """Each sees those before it, and itself."""
    return q <= p


def par_rule(p: int, q: int) -> bool:
    """PAR's mask, as its specification says it."""
    return q <= p or q == 0 or (p >= 4 and 4 * (p // 4) <= q < 4 * (p // 4) + 4)
