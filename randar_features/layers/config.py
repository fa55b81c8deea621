"""Sizes of a generator: the same fields for all of them."""

import math
from dataclasses import dataclass

from randar_features import sequence

# The most that each may be: far above any published model, and low enough that a damaged configuration is refused
# at once instead of building for hours.
COUNTS = {
    "num_layers": 1_000,
    "num_heads": 1_000,
    "dim": 100_000,
    "vocab_size": 100_000_000,
    "num_tokens": 1_000_000,
    "num_classes": 100_000_000,
    "num_kv_heads": 1_000,
    "ffn_multiple_of": 100_000,
}


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
        self._check_numbers()
        if self.dim % self.num_heads or self.head_dim % 4:
            raise ValueError(
                f"dim = {self.dim} must divide into num_heads = {self.num_heads} heads of a width that divides by 4"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_heads = {self.num_heads} must be a multiple of num_kv_heads = {self.kv_heads}")
        sequence.grid_side(self.num_tokens)

    def _check_counts(self) -> None:
        for name, most in COUNTS.items():
            count = getattr(self, name)
            absent = name == "num_kv_heads" and count is None
            if not absent and (type(count) is not int or not 1 <= count <= most):
                raise ValueError(f"{name} = {count!r} must be an integer, 1 to {most}")

    def _check_numbers(self) -> None:
        for name, low, high in (
            ("norm_eps", 0.0, 1.0),
            ("rope_base", 1.0, 1e12),
            ("token_dropout", 0.0, 1.0),
            ("residual_dropout", 0.0, 1.0),
        ):
            value = getattr(self, name)
            dropout = name.endswith("dropout")
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not (low <= value <= high if dropout else low < value <= high):
                least = "at least" if dropout else "above"
                raise ValueError(f"{name} = {value!r} must be a finite number {least} {low:g} and at most {high:g}")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values, Hkv."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_dim(self) -> int:
        """Channels of a head, d = D / H."""
        return self.dim // self.num_heads

    @property
    def grid(self) -> int:
        """Side G of the token grid."""
        return sequence.grid_side(self.num_tokens)
