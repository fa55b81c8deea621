"""RandAR written out slowly: one image, float32, Python loops, explicit softmax; shares no code with the package."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def angles_of(location: int | None, grid: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (d/2,) of a raster location; None is the class token: zeros."""
    if location is None:
        return torch.zeros(head_dim // 2), torch.zeros(head_dim // 2)
    quarter = head_dim // 4
    frequencies = torch.tensor([10000 ** (-2 * k / (head_dim / 2)) for k in range(quarter)])
    row, column = divmod(location, grid)
    angle = torch.cat([row * frequencies, column * frequencies])
    return angle.cos(), angle.sin()


def rotate(vector: Tensor, angle: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (2j, 2j+1) of a (d,) vector."""
    out = torch.empty_like(vector)
    for j, (cos, sin) in enumerate(zip(*angle, strict=True)):
        a, b = vector[2 * j], vector[2 * j + 1]
        out[2 * j], out[2 * j + 1] = a * cos - b * sin, b * cos + a * sin
    return out


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """(L, D)."""
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def attention(x: Tensor, weights: dict[str, Tensor], prefix: str, heads: int, angles: list) -> Tensor:
    """Causal attention of (L, D) with an explicit mask and softmax."""
    length, dim = x.shape
    head_dim = dim // heads
    queries, keys, values = (x @ weights[f"{prefix}.wqkv.weight"].T).split(dim, dim=-1)
    out = torch.empty_like(x)
    mask = torch.full((length, length), -math.inf).triu(1)
    for head in range(heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        q = torch.stack([rotate(v, angle) for v, angle in zip(queries[:, part], angles, strict=True)])
        k = torch.stack([rotate(v, angle) for v, angle in zip(keys[:, part], angles, strict=True)])
        scores = torch.softmax(q @ k.T / math.sqrt(head_dim) + mask, dim=-1)
        out[:, part] = scores @ values[:, part]
    return out @ weights[f"{prefix}.wo.weight"].T


def hidden_states(
    weights: dict[str, Tensor],
    *,
    heads: int,
    grid: int,
    tokens: list[int],
    class_index: int,
    shown: list[int],
) -> list[Tensor]:
    """Residual stream behind each block, (1 + 2·len(shown), D); `shown` lists raster locations as they are shown."""
    dim = weights["pos_instruct_embeddings"].shape[1]
    head_dim = dim // heads
    rows, angles = (
        [weights["cls_embedding.embedding_table.weight"][class_index]],
        [angles_of(None, grid, head_dim)],
    )
    for location in shown:
        angle = angles_of(location, grid, head_dim)
        instruction = weights["pos_instruct_embeddings"][0]
        rows.append(torch.cat([rotate(part, angle) for part in instruction.split(head_dim)]))
        rows.append(weights["tok_embeddings.weight"][tokens[location]])
        angles += [angle, angle]
    x, states = torch.stack(rows), []
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
    for i in range(layers):
        layer = f"layers.{i}"
        normed = rms_norm(x, weights[f"{layer}.attention_norm.weight"])
        x = x + attention(normed, weights, f"{layer}.attention", heads, angles)
        normed = rms_norm(x, weights[f"{layer}.ffn_norm.weight"])
        gate = torch.nn.functional.silu(normed @ weights[f"{layer}.feed_forward.w1.weight"].T)
        value = normed @ weights[f"{layer}.feed_forward.w3.weight"].T
        x = x + (gate * value) @ weights[f"{layer}.feed_forward.w2.weight"].T
        states.append(x)
    return states
