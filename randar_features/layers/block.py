"""Pre-norm transformer block."""

from __future__ import annotations

from torch import Tensor, nn

from randar_features.layers.attention import Attention
from randar_features.layers.feed_forward import FeedForward
from randar_features.layers.kv_cache import CacheWindow
from randar_features.layers.norm import RMSNorm


class Block(nn.Module):
    """h = x + attention(attention_norm(x)); out = h + feed_forward(ffn_norm(h))."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        num_kv_heads: int,
        ffn_multiple_of: int,
        norm_eps: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention = Attention(dim=dim, num_heads=num_heads, num_kv_heads=num_kv_heads, dropout=dropout)
        self.feed_forward = FeedForward(dim=dim, multiple_of=ffn_multiple_of, dropout=dropout)
        self.attention_norm = RMSNorm(dim, norm_eps)
        self.ffn_norm = RMSNorm(dim, norm_eps)

    def forward(
        self, x: Tensor, rotary: Tensor, rows: slice | None = None, window: CacheWindow | None = None
    ) -> Tensor:
        """`x` (B, L, D) → (B, L, D); with `rows` only those rows' outputs, at their share of the cost.

        With a `window` the L tokens stand behind those in the layer's cache.
        """
        attended = self.attention(self.attention_norm(x), rotary, rows, window)
        x = attended + (x if rows is None else x[:, rows])
        return x + self.feed_forward(self.ffn_norm(x))
