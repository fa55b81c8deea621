"""Multi-head attention with rotary positions and grouped queries; an argument says which positions see which."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from randar_features.layers.config import TransformerConfig
from randar_features.layers.kv_cache import CacheWindow
from randar_features.layers.rope import rotate

Mask = Tensor | Literal["causal"] | None
"""What n queries may see of m keys: "causal": query i sees the keys 0 … i (n = m); (n, m) boolean, True where
seen, or additive; None: everything."""
Positions = slice | Tensor  # positions of a sequence: a slice, or indices (n,)


class Memory(NamedTuple):
    """Keys and values that another pass has made, (B, Hkv, m, d) each."""

    keys: Tensor
    values: Tensor


class SelfAttention(nn.Module):
    """Attention of a sequence to itself, softmax scale 1/√d; subclasses hold the projections under their names."""

    def forward(
        self,
        x: Tensor,
        rotary: Tensor,
        mask: Mask = "causal",
        positions: Positions | None = None,
        window: CacheWindow | None = None,
    ) -> Tensor:
        """`x` (B, L, D) and `rotary` (B or 1, L, d/2, 2) → (B, L, D), or at the given positions alone.

        With a `window` the L tokens follow those in the cache, and the mask says what they see of all.
        """
        queries, keys, values = self.project(x, rotary)
        if window is not None:
            keys, values = window.extend(keys, values)
        return self.merge(attend(queries, keys, values, mask, positions))

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (B, H, L, d) and keys (B, Hkv, L, d), and values (B, Hkv, L, d)."""
        raise NotImplementedError

    def merge(self, attended: Tensor) -> Tensor:
        """(B, H, L, d) → (B, L, D) through the output projection."""
        raise NotImplementedError


class Attention(SelfAttention):
    """`wqkv` stacks the weights of queries, keys and values in that order; the output projection is `wo`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.kv_heads, config.head_dim
        self.wqkv = nn.Linear(config.dim, (self.num_heads + 2 * self.num_kv_heads) * self.head_dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)
        self.dropout = nn.Dropout(config.residual_dropout)

    @override
    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.wqkv(x).unflatten(-1, (-1, self.head_dim))  # (B, L, H + 2·Hkv, d)
        # Split, not sliced: the gradient of slices is the sum of zero-filled copies of the whole.
        turning, values = heads.split([self.num_heads + self.num_kv_heads, self.num_kv_heads], dim=2)
        queries, keys = rotate(turning, rotary).transpose(1, 2).split([self.num_heads, self.num_kv_heads], dim=1)
        return queries, keys, values.transpose(1, 2)

    @override
    def merge(self, attended: Tensor) -> Tensor:
        return self.dropout(self.wo(merged_heads(attended)))


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask, positions: Positions | None = None) -> Tensor:
    """(B, H, n, d) queries over (B, Hkv, m, d) keys and values → (B, H, n, d), or at the given positions alone."""
    grouped = queries.shape[1] != keys.shape[1]
    if isinstance(mask, str):  # the fast kernel for this takes no part of the queries alone
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=grouped)
        return attended if positions is None else attended[:, :, positions]
    if positions is not None:
        queries, mask = queries[:, :, positions], None if mask is None else mask[positions]
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=grouped)


def merged_heads(attended: Tensor) -> Tensor:
    """(B, H, L, d) → (B, L, H·d)."""
    return attended.transpose(1, 2).flatten(2)


def continued_mask(
    count: int, start: int, *, separate: int = 0, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """Additive mask (n, start + n) of n positions that follow `start` others: each sees all before it and itself.

    None if n = 1: that one sees everything, and attention without a mask is faster. The last `separate` positions
    do not see each other: each is then as if it alone followed the others.
    """
    if count == 1:
        return None
    mask = torch.full((count, start + count), float("-inf"), dtype=dtype, device=device).triu_(start + 1)
    if separate:
        mask[-separate:, -separate:].fill_(float("-inf"))
        mask[-separate:, -separate:].fill_diagonal_(0)
    return mask
