"""Gated feed-forward layer."""

from torch import Tensor, nn
from torch.nn import functional as F

from randar_features.layers.config import TransformerConfig


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
