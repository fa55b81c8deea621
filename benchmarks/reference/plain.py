"""Blocks of RandAR, LlamaGen and PAR restated plainly from their published weights; shares no code with the package.

Whole sequences, explicit masks and softmax, no cache; `tests/published.py` makes whole models of them. Angles are
(…, L, d/2, 2), cosines and sines; a token at no location (None) has zeros. `sees` is (M, L) boolean: whether query p
may see key q. Weights are state dicts.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]


def angles_of(locations: Sequence[int | None], grid: int, head_dim: int) -> Tensor:
    """Cosines and sines (L, d/2, 2) of raster locations: half of the pairs turn by the row, half by the column."""
    frequencies = 10000 ** (-2 * torch.arange(head_dim // 4, device="cpu") / (head_dim / 2))
    places = torch.tensor([-1 if location is None else location for location in locations], device="cpu")[:, None]
    turns = torch.cat([places // grid * frequencies, places % grid * frequencies], dim=1)
    return torch.stack([turns.cos(), turns.sin()], dim=-1) * (places >= 0)[..., None]


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the adjacent channel pairs of (…, L, H, d) in float32."""
    pairs = x.float().unflatten(-1, (-1, 2))
    cos, sin = angles[..., None, :, :].unbind(-1)
    a, b = pairs.unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).type_as(x)


def norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Root-mean-square normalisation in separate operations."""
    wide = x.float()
    return (wide * torch.rsqrt(torch.mean(wide * wide, dim=-1, keepdim=True) + eps)).type_as(x) * weight


def attention(
    queries: Tensor, keys: Tensor, values: Tensor, heads: int, angles: Tensor, key_angles: Tensor, sees: Tensor
) -> Tensor:
    """(…, M, D) queries over (…, L, D) keys and values → (…, M, D)."""
    queries, keys, values = (part.unflatten(-1, (heads, -1)) for part in (queries, keys, values))
    queries, keys, values = (
        part.transpose(-3, -2) for part in (rotate(queries, angles), rotate(keys, key_angles), values)
    )
    scores = queries @ keys.mT / math.sqrt(queries.shape[-1])
    attended = scores.masked_fill(~sees, -math.inf).softmax(dim=-1) @ values
    return attended.transpose(-3, -2).flatten(-2)


def feed_forward(x: Tensor, weights: Weights, name: str) -> Tensor:
    """SwiGLU."""
    gate = F.silu(x @ weights[f"{name}.w1.weight"].T)
    return (gate * (x @ weights[f"{name}.w3.weight"].T)) @ weights[f"{name}.w2.weight"].T


def stream(weights: Weights, x: Tensor, angles: Tensor, heads: int, sees: Tensor) -> Iterator[Tensor]:
    """The residual stream (…, L, D) of RandAR, LlamaGen or PAR after each block."""
    for layer in count():
        name = f"layers.{layer}"
        if f"{name}.ffn_norm.weight" not in weights:
            return
        normed = norm(x, weights[f"{name}.attention_norm.weight"])
        queries, keys, values = (normed @ weights[f"{name}.attention.wqkv.weight"].T).chunk(3, dim=-1)
        attended = attention(queries, keys, values, heads, angles, angles, sees)
        x = x + attended @ weights[f"{name}.attention.wo.weight"].T
        x = x + feed_forward(norm(x, weights[f"{name}.ffn_norm.weight"]), weights, f"{name}.feed_forward")
        yield x
