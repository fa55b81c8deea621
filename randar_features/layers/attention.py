"""Multi-head attention with rotary positions and grouped queries; what may see what is an argument."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from randar_features.layers.kv_cache import CacheWindow
from randar_features.layers.rope import rotate

Mask = Tensor | Literal["causal"] | None
"""What n queries may see of m entries: "causal": row i the entries 0 … i (n = m); (n, m) boolean, True where
seen, or additive; None: everything."""
Rows = slice | Tensor


class Memory(NamedTuple):
    """Keys and values that stand ready, (B, Hkv, m, d) each."""

    keys: Tensor
    values: Tensor


class SelfAttention(nn.Module):
    """Attention of a sequence to itself, softmax scale 1/√d; subclasses hold the projections under their names."""

    def forward(
        self,
        x: Tensor,
        rotary: Tensor,
        mask: Mask = "causal",
        rows: Rows | None = None,
        window: CacheWindow | None = None,
    ) -> Tensor:
        """`x` (B, L, D) and `rotary` (B or 1, L, d/2, 2) → (B, L or rows, D).

        With a `window` the L tokens stand behind the cached ones, and the mask says what they see of all.
        """
        queries, keys, values = self.project(x, rotary)
        if window is not None:
            keys, values = window.extend(keys, values)
        return self.merge(attend(queries, keys, values, mask, rows))

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (B, H, L, d) and keys (B, Hkv, L, d), and values (B, Hkv, L, d)."""
        raise NotImplementedError

    def merge(self, attended: Tensor) -> Tensor:
        """(B, H, L, d) → (B, L, D) through the output projection."""
        raise NotImplementedError


class Attention(SelfAttention):
    """`wqkv` stacks the rows of queries, keys and values in that order; the output projection is `wo`.

    `num_kv_heads` < `num_heads` shares keys and values between queries.
    """

    def __init__(self, *, dim: int, num_heads: int, num_kv_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim = dim // num_heads
        self.wqkv = nn.Linear(dim, (num_heads + 2 * num_kv_heads) * self.head_dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `SelfAttention.project`, in one product."""
        heads = self.wqkv(x).unflatten(-1, (-1, self.head_dim))  # (B, L, H + 2·Hkv, d)
        # Split, not sliced: the gradient of slices is the sum of zero-filled copies of the whole.
        turning, values = heads.split([self.num_heads + self.num_kv_heads, self.num_kv_heads], dim=2)
        queries, keys = rotate(turning, rotary).transpose(1, 2).split([self.num_heads, self.num_kv_heads], dim=1)
        return queries, keys, values.transpose(1, 2)

    def merge(self, attended: Tensor) -> Tensor:
        """(B, H, L, d) → (B, L, D) through `wo`."""
        return self.dropout(self.wo(merged_heads(attended)))


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask, rows: Rows | None = None) -> Tensor:
    """(B, H, n, d) queries over (B, Hkv, m, d) keys and values → (B, H, n or rows, d)."""
    grouped = queries.shape[1] != keys.shape[1]
    if isinstance(mask, str):  # the fast kernel for this has no form for some rows alone
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=grouped)
        return attended if rows is None else attended[:, :, rows]
    if rows is not None:
        queries, mask = queries[:, :, rows], None if mask is None else mask[rows]
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=grouped)


def merged_heads(attended: Tensor) -> Tensor:
    """(B, H, L, d) → (B, L, H·d)."""
    return attended.transpose(1, 2).flatten(2)
