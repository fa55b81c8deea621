"""LlamaGen (Sun et al., arXiv 2406.06525): a decoder-only transformer over image tokens in raster order."""

from __future__ import annotations

from dataclasses import dataclass

from randar_features.models.causal import CausalTransformer
from randar_features.models.config import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class LlamaGenConfig(TransformerConfig):
    """Sizes of a LlamaGen, see `TransformerConfig`."""


class LlamaGen(CausalTransformer):
    """[class, x1, …, xN], causal; each token is predicted at the row in front of its own."""

    contexts = ("single", "repeat")
    fixed_order = True
