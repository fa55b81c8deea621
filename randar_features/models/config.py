"""Sizes of a generator: the same fields for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from randar_features import sequence

COUNTS = (
    "num_layers", "num_heads", "dim", "vocab_size", "num_tokens", "num_classes", "num_kv_heads", "ffn_multiple_of",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of a generator; dropout rates act in training mode only.

    `num_tokens` N = G² tokens an image, `vocab_size` V codes, `num_classes` C without the null class.
    `num_kv_heads` None: as many as `num_heads`. ValueError for sizes that do not go together.
    """

    num_layers: int
    num_heads: int
    dim: int
    vocab_size: int
    num_tokens: int
    num_classes: int
    num_kv_heads: int | None = None
    ffn_multiple_of: int = 256
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    token_dropout: float = 0.1
    residual_dropout: float = 0.1

    def __post_init__(self) -> None:
        self._check_counts()
        if self.dim % self.num_heads or self.head_dim % 4:
            raise ValueError(
                f"dim = {self.dim} must divide into num_heads = {self.num_heads} heads of a width that divides by 4"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_heads = {self.num_heads} must be a multiple of num_kv_heads = {self.kv_heads}")
        sequence.grid_side(self.num_tokens)

    def _check_counts(self) -> None:
        for name in COUNTS:
            count = getattr(self, name)
            absent = name == "num_kv_heads" and count is None
            if not absent and (not isinstance(count, int) or count < 1):
                raise ValueError(f"{name} = {count!r} must be an integer of at least 1")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values, Hkv."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_dim(self) -> int:
        """Channels of a head, d = D / H."""
        return self.dim // self.num_heads

    @property
    def middle_layer(self) -> int:
        """The block in the middle, from which features are read where nothing better is known: 11 of 24."""
        return (self.num_layers - 1) // 2

    @property
    def grid(self) -> int:
        """Side G of the token grid."""
        return sequence.grid_side(self.num_tokens)
