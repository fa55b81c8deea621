"""Causal self-attention with rotary positions and grouped queries."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from randar_features.layers.kv_cache import CacheWindow
from randar_features.layers.rope import rotate


class Attention(nn.Module):
    """Multi-head causal attention; `num_kv_heads` < `num_heads` shares keys and values between queries.

    `wqkv` stacks the rows of queries, keys and values in that order. Softmax scale 1/√d.
    """

    def __init__(self, *, dim: int, num_heads: int, num_kv_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim = dim // num_heads
        self.wqkv = nn.Linear(dim, (num_heads + 2 * num_kv_heads) * self.head_dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, rotary: Tensor, rows: slice | None = None, window: CacheWindow | None = None
    ) -> Tensor:
        """`x` (B, L, D) and `rotary` (B or 1, L, d/2, 2) → (B, L or rows, D), causal along L.

        With a `window` the L tokens stand behind the cached ones, and see what the window's mask allows.
        """
        queries, keys, values = self.project(x, rotary)
        if window is not None:
            return self.merge(self.attend_cached(queries, *window.extend(keys, values), window.mask, rows))
        attended = F.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, enable_gqa=self.num_kv_heads != self.num_heads
        )
        return self.merge(attended if rows is None else attended[:, :, rows])

    def attend_cached(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rows: slice | None
    ) -> Tensor:
        """(B, H, n, d) queries over (B, Hkv, start + n, d) keys and values → (B, H, n or rows, d)."""
        if rows is not None:
            queries, mask = queries[:, :, rows], None if mask is None else mask[rows]
        grouped = self.num_kv_heads != self.num_heads
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=grouped)

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (B, H, L, d) and keys (B, Hkv, L, d), and values (B, Hkv, L, d)."""
        heads = self.wqkv(x).unflatten(-1, (-1, self.head_dim))  # (B, L, H + 2·Hkv, d)
        turned = rotate(heads[:, :, : -self.num_kv_heads], rotary).transpose(1, 2)
        queries, keys = turned.split([self.num_heads, self.num_kv_heads], dim=1)
        return queries, keys, heads[:, :, -self.num_kv_heads :].transpose(1, 2)

    def merge(self, attended: Tensor) -> Tensor:
        """(B, H, L, d) → (B, L, D) through `wo`."""
        return self.dropout(self.wo(attended.transpose(1, 2).flatten(2)))
