"""Pre-norm transformer block."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from randar_features.layers.attention import Attention, Mask, Rows
from randar_features.layers.feed_forward import FeedForward
from randar_features.layers.norm import RMSNorm


class PreNormBlock(nn.Module):
    """h = x + attention(norm(x)); out = h + feed_forward(norm(h)); subclasses hold the parts under their names."""

    def parts(self) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
        """The attention's norm, the attention, the feed-forward layer's norm, the feed-forward layer."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, rotary: Tensor, mask: Mask = "causal", rows: Rows | None = None, window: Any = None
    ) -> Tensor:
        """`x` (B, L, D) → (B, L, D); with `rows` only those rows' outputs, at their share of the cost.

        `mask`: what the L tokens may see, see `attention.Mask`. `window`: what they attend to beside or instead
        of themselves, as the attention takes it: a layer's cache, or keys and values that stand ready.
        """
        attention_norm, attention, ffn_norm, feed_forward = self.parts()
        attended = attention(attention_norm(x), rotary, mask, rows, window)
        x = attended + (x if rows is None else x[:, rows])
        return x + feed_forward(ffn_norm(x))


class Block(PreNormBlock):
    """A block of LlamaGen, PAR and RandAR."""

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

    def parts(self) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
        """As `PreNormBlock.parts`."""
        return self.attention_norm, self.attention, self.ffn_norm, self.feed_forward
