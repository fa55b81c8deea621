"""LlamaGen, PAR and ARPG written out slowly: one image, loops, explicit masks; shares no code with the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tests.reference.plain_randar import angles_of, rms_norm, rotate

Weights = dict[str, Tensor]
Sees = Callable[[int, int], bool]
"""Whether row p may see entry q."""


def turned(vectors: Tensor, places: list[int | None], grid: int) -> Tensor:
    """(L, d) rotated by the angles of their places."""
    angles = [angles_of(place, grid, vectors.shape[1]) for place in places]
    return torch.stack([rotate(vector, angle) for vector, angle in zip(vectors, angles, strict=True)])


def softmax_over(queries: Tensor, keys: Tensor, values: Tensor, sees: Sees) -> Tensor:
    """(M, d) queries over (L, d) keys and values: each row a softmax over what it sees."""
    rows = []
    for p, query in enumerate(queries):
        seen = [q for q in range(len(keys)) if sees(p, q)]
        scores = torch.stack([query @ keys[q] for q in seen]) / queries.shape[1] ** 0.5
        rows.append(scores.softmax(0) @ values[seen])
    return torch.stack(rows)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, sees: Sees, turn_q: Callable, turn_k: Callable) -> Tensor:
    """Heads side by side, (M, D)."""
    parts = zip(*(x.chunk(heads, dim=1) for x in (q, k, v)), strict=True)
    return torch.cat([softmax_over(turn_q(a), turn_k(b), c, sees) for a, b, c in parts], dim=1)


def feed_forward(x: Tensor, weights: Weights, prefix: str) -> Tensor:
    gate = torch.nn.functional.silu(x @ weights[f"{prefix}.w1.weight"].T)
    return (gate * (x @ weights[f"{prefix}.w3.weight"].T)) @ weights[f"{prefix}.w2.weight"].T


def own_states(
    weights: Weights,
    x: Tensor,
    places: list[int | None],
    heads: int,
    grid: int,
    sees: Sees,
    project: Callable[[int, Tensor], Sequence[Tensor]],
    names: tuple[str, str, str, str, str],
) -> list[Tensor]:
    """The residual stream (L, D) behind each block of self-attention.

    `project` gives a layer's queries, keys and values; `names` are, with {} for the layer, those of the first norm,
    the output projection, the second norm and the feed-forward layer, and that of the weight that must be there.
    """

    def turn(part: Tensor) -> Tensor:
        return turned(part, places, grid)

    states: list[Tensor] = []
    while names[4].format(len(states)) in weights:
        layer = len(states)
        norm, output, ffn_norm, ffn, _ = (name.format(layer) for name in names)
        q, k, v = project(layer, rms_norm(x, weights[f"{norm}.weight"]))
        x = x + attention(q, k, v, heads, sees, turn, turn) @ weights[f"{output}.weight"].T
        x = x + feed_forward(rms_norm(x, weights[f"{ffn_norm}.weight"]), weights, ffn)
        states.append(x)
    return states


def stream_states(
    weights: Weights, rows: list[Tensor], places: list[int | None], heads: int, grid: int, sees: Sees
) -> list[Tensor]:
    """LlamaGen's and PAR's residual stream behind each block."""

    def project(layer: int, x: Tensor) -> Sequence[Tensor]:
        return (x @ weights[f"layers.{layer}.attention.wqkv.weight"].T).chunk(3, dim=1)

    parts = ("attention_norm", "attention.wo", "ffn_norm", "feed_forward", "attention.wo.weight")
    names = tuple(f"layers.{{}}.{part}" for part in parts)
    return own_states(weights, torch.stack(rows), places, heads, grid, sees, project, names)  # type: ignore[arg-type]


def par_sees(p: int, q: int) -> bool:
    """PAR's mask, as its specification says it."""
    return q <= p or q == 0 or (p >= 4 and 4 * (p // 4) <= q < 4 * (p // 4) + 4)


def arpg_content(
    weights: Weights, tokens: list[int], places: list[int], class_row: int, heads: int, grid: int, sees: Sees
) -> list[Tensor]:
    """The content half's residual stream behind each block, (1 + L, D): the class, then the tokens."""

    def project(layer: int, x: Tensor) -> Sequence[Tensor]:
        return [x @ weights[f"layers.self_dec.{layer}.attn.to_{part}.weight"].T for part in "qkv"]

    x = weights["embeddings.weight"][torch.tensor([class_row, *tokens])]
    parts = ("attn_norm", "attn.proj", "ffn_norm", "ffn", "attn.proj.weight")
    names = tuple(f"layers.self_dec.{{}}.{part}" for part in parts)
    return own_states(weights, x, [None, *places], heads, grid, sees, project, names)  # type: ignore[arg-type]


def arpg_queries(
    weights: Weights,
    content: Tensor,
    places: list[int],
    asked: list[int],
    vocab_size: int,
    heads: int,
    grid: int,
    sees: Sees,
) -> list[Tensor]:
    """The query half's residual stream behind each block, (M, D); `content` is the other half's last, at `places`."""
    normed = rms_norm(content, weights["layers.norm.weight"])
    k, v = (normed @ weights[f"layers.to_{part}.weight"].T for part in "kv")
    x = weights["embeddings.weight"][vocab_size].expand(len(asked), -1)
    states, layer = [], 0
    while f"layers.cross_dec.{layer}.attn.proj.weight" in weights:
        name = f"layers.cross_dec.{layer}"
        q = rms_norm(x, weights[f"{name}.attn_norm.weight"]) @ weights[f"{name}.attn.to_q.weight"].T
        attended = attention(
            q,
            k,
            v,
            heads,
            sees,
            lambda part: turned(part, list(asked), grid),
            lambda part: turned(part, [None, *places], grid),
        )
        x = x + attended @ weights[f"{name}.attn.proj.weight"].T
        x = x + feed_forward(rms_norm(x, weights[f"{name}.ffn_norm.weight"]), weights, f"{name}.ffn")
        states.append(x)
        layer += 1
    return states
