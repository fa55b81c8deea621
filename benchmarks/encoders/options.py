"""Options that benchmarks of features share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.encoders.base import Encoder


@dataclass(frozen=True, kw_only=True)
class Views:
    """Which features of which encoders are measured.

    Attributes:
        encoder: names, as `load_encoder` takes them.
        outputs: of the encoders that have them; None, and of other encoders: all that can be used.
        contexts, reads, orders: of generators, as `load_encoder` takes them.
    """

    encoder: tuple[str, ...] = ("randar-tiny",)
    outputs: tuple[str, ...] | None = None
    contexts: tuple[str, ...] | None = None
    reads: tuple[str, ...] | None = None
    orders: int | None = None

    @property
    def of_generators(self) -> dict[str, Any]:
        """Arguments of `load_encoder`."""
        return {"contexts": self.contexts, "reads": self.reads, "orders": self.orders}

    def chosen(self, encoder: Encoder) -> list[str] | None:
        """Those of `outputs` that an encoder has; None, all, where it has none of them, unless it is the only one.

        Raises:
            ValueError: the only encoder lacks one of them.
        """
        if self.outputs is None or len(self.encoder) == 1:
            return None if self.outputs is None else encoder.choose(self.outputs)
        return [name for name in self.outputs if name in encoder.outputs] or None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where features are kept, and how.

    Attributes:
        seed: of every random choice.
        cache: folder that keeps features.
        dtype: float16 or float32, in which they are kept.
    """

    seed: int = 0
    cache: str = "runs/features"
    dtype: str = "float16"

    @property
    def store(self) -> dict[str, Any]:
        """Arguments of `extract`."""
        return {"folder": self.cache, "dtype": self.dtype}
