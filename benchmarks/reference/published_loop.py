"""RandAR's published decoding loop, restated plainly: what `generation_speed` measures against.

It keeps what the published code does in each step: caches allocated anew for each call and written by
index, cut at `max(input_pos)` in every layer, keys and values repeated for the heads, a boolean mask
gathered by position, the normalisation and the rotation in separate operations, logits over the whole
vocabulary for every token fed, and a draw for each token.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reference.plain import norm, rotate
from randar_features.layers.block import Block
from randar_features.models import RandAR


@torch.no_grad()
def published_generate(
    model: RandAR,
    classes: Tensor,
    order: Tensor,
    *,
    steps: int,
    guidance: tuple[float, float],
    top_k: int = 0,
) -> Tensor:
    """Tokens (B, N) in raster order. `order` is (B, N); `steps` −1 means one token a step."""
    num_tokens = order.shape[1]
    guided = guidance[1] > 1
    if guided:
        classes = torch.cat([classes, torch.full_like(classes, model.config.num_classes)])
    table = model.rotary
    location_angles = table[1:][order]
    instructions = model.instructions()[order]
    if guided:
        location_angles, instructions = torch.cat([location_angles] * 2), torch.cat([instructions] * 2)
    caches = [Cache(model, len(classes)) for _ in model.layers]
    length = 1 + 2 * num_tokens
    causal = torch.tril(torch.ones(length, length, dtype=torch.bool, device=order.device)).repeat(len(classes), 1, 1)

    result = torch.zeros_like(order)
    x = torch.cat([model.cls_embedding(classes, len(classes))[:, None], instructions[:, :1]], dim=1)
    angles = torch.cat([table[None, :1].expand(len(classes), -1, -1, -1), location_angles[:, :1]], dim=1)
    positions = torch.arange(2, device=order.device)
    done, drawing, step = 0, 1, 0
    while True:
        logits = forward_inference(model, caches, causal, x, angles, positions)
        if guided:
            scale = guidance[0] + (guidance[1] - guidance[0]) * done / num_tokens
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + scale * (conditional - unconditional)
        logits = logits[:, -drawing:]
        drawn = torch.cat([sample(logits[:, i], top_k) for i in range(drawing)], dim=1)
        result[:, done : done + drawing] = drawn
        previous, done, step = done, done + drawing, step + 1
        if done == num_tokens:
            return torch.zeros_like(result).scatter_(1, order, result)
        drawing = 1 if steps == -1 else tokens_at(step, steps, num_tokens, done)
        embedded = model.tok_embeddings(drawn)
        embedded = torch.cat([embedded] * 2) if guided else embedded
        shown = torch.stack([instructions[:, previous:done], embedded], dim=2).flatten(1, 2)[:, 1:]
        x = torch.cat([shown, instructions[:, done : done + drawing]], dim=1)
        shown = location_angles[:, previous:done].repeat_interleave(2, dim=1)[:, 1:]
        angles = torch.cat([shown, location_angles[:, done : done + drawing]], dim=1)
        positions = torch.arange(x.shape[1], device=order.device) + 2 + 2 * previous


def tokens_at(step: int, steps: int, num_tokens: int, done: int) -> int:
    """How many tokens a step asks for."""
    target = min(num_tokens, math.floor((1 - math.cos(math.pi / 2 * (step + 1) / steps)) * num_tokens + 1))
    return min(max(target - done, 1), num_tokens - done)


class Cache:
    """Keys and values of one layer."""

    def __init__(self, model: RandAR, rows: int) -> None:
        config = model.config
        heads = config.num_kv_heads or config.num_heads
        shape = (rows, heads, 1 + 2 * config.num_tokens, config.head_dim)
        weight = model.tok_embeddings.weight
        self.keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.zeros_like(self.keys)

    def update(self, positions: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write at the positions, and give everything up to the largest."""
        self.keys[:, :, positions] = keys
        self.values[:, :, positions] = values
        end = int(torch.max(positions)) + 1
        return self.keys[:, :, :end], self.values[:, :, :end]


def forward_inference(
    model: RandAR, caches: list[Cache], causal: Tensor, x: Tensor, angles: Tensor, positions: Tensor
) -> Tensor:
    """Logits (B, n, V) of all n tokens fed."""
    mask = causal[: len(x), None, positions]
    for block, cache in zip(model.layers, caches, strict=True):
        assert isinstance(block, Block)
        x = x + attention(block, cache, normed(block.attention_norm, x), angles, positions, mask)
        h = normed(block.ffn_norm, x)
        layer = block.feed_forward
        x = x + layer.w2(F.silu(layer.w1(h)) * layer.w3(h))
    return model.output(normed(model.norm, x)).float()


def attention(block: Block, cache: Cache, x: Tensor, angles: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Self-attention of the tokens fed over everything in the cache."""
    layer, (queries, keys, values) = block.attention, projected(block, x, angles)
    keys, values = cache.update(positions, keys, values)
    keys = keys.repeat_interleave(layer.num_heads // layer.num_kv_heads, dim=1)
    values = values.repeat_interleave(layer.num_heads // layer.num_kv_heads, dim=1)
    attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask[..., : keys.shape[2]])
    return layer.wo(attended.transpose(1, 2).contiguous().flatten(2))


def projected(block: Block, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turned queries (B, H, n, d) and keys (B, Hkv, n, d), and values."""
    layer = block.attention
    width = layer.num_kv_heads * layer.head_dim
    parts = layer.wqkv(x).split([layer.num_heads * layer.head_dim, width, width], dim=-1)
    queries, keys, values = (part.unflatten(-1, (-1, layer.head_dim)) for part in parts)
    return rotate(queries, angles).transpose(1, 2), rotate(keys, angles).transpose(1, 2), values.transpose(1, 2)


def normed(layer: nn.Module, x: Tensor) -> Tensor:
    """`plain.norm` by a layer of ours."""
    return norm(x, layer.get_parameter("weight"), cast(float, layer.eps))


def sample(logits: Tensor, top_k: int) -> Tensor:
    """One token for each row of (B, V): (B, 1)."""
    if top_k > 0:
        logits = logits.masked_fill(logits < torch.topk(logits, top_k)[0][..., -1:], -math.inf)
    return torch.multinomial(F.softmax(logits, dim=-1), num_samples=1)
