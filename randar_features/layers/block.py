"""Pre-norm transformer block, its norm and its gated feed-forward layer."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from randar_features.layers.attention import Attention, Mask, Positions
from randar_features.layers.config import TransformerConfig


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang & Sennrich, arXiv 1910.07467).

    The statistics are taken in float32 and the normalised value is cast back before the weight.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        if x.dtype == self.weight.dtype == torch.float32:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return F.rms_norm(x.float(), self.weight.shape, None, self.eps).type_as(x) * self.weight


def hidden_width(dim: int, multiple_of: int = 256) -> int:
    """⌊2·4D/3⌋ rounded up to a multiple."""
    width = 2 * 4 * dim // 3
    return multiple_of * ((width + multiple_of - 1) // multiple_of)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, arXiv 2002.05202): w2(silu(w1 x) · w3 x), no biases."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        hidden = hidden_width(config.dim, config.ffn_multiple_of)
        self.w1 = nn.Linear(config.dim, hidden, bias=False)
        self.w3 = nn.Linear(config.dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, config.dim, bias=False)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return self.dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)))


class PreNormBlock(nn.Module):
    """h = x + attention(norm(x)); out = h + feed_forward(norm(h)); subclasses hold the parts under their names."""

    def parts(self) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
        """The attention's norm, the attention, the feed-forward layer's norm, the feed-forward layer."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, rotary: Tensor, mask: Mask = "causal", positions: Positions | None = None, window: Any = None
    ) -> Tensor:
        """`x` (B, L, D) → (B, L, D), or at the given positions alone, at their share of the cost.

        `mask`: what the L tokens may see, see `attention.Mask`. `window`: what they attend to, as the attention
        takes it: a layer's cache, which they join, or the `Memory` of another pass.
        """
        attention_norm, attention, ffn_norm, feed_forward = self.parts()
        attended = attention(attention_norm(x), rotary, mask, positions, window)
        x = attended + (x if positions is None else x[:, positions])
        return x + feed_forward(ffn_norm(x))


class Block(PreNormBlock):
    """A block of LlamaGen, PAR and RandAR."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    @override
    def parts(self) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
        return self.attention_norm, self.attention, self.ffn_norm, self.feed_forward


def run(
    blocks: Iterable[nn.Module],
    x: Tensor,
    rotary: Tensor,
    mask: Mask,
    *,
    positions: Positions | None = None,
    windows: Sequence[Any] | None = None,
) -> Tensor:
    """(B, L, D) through the blocks, each with its own window; of the last block only the given positions."""
    *others, last = blocks
    windows = [None] * (len(others) + 1) if windows is None else windows
    for block, window in zip(others, windows, strict=False):
        x = block(x, rotary, mask, None, window)
    return last(x, rotary, mask, positions, windows[len(others)])
