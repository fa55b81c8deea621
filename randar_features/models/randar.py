"""RandAR (Pang et al., arXiv 2412.01827): a decoder-only transformer over image tokens in any order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from randar_features import sequence
from randar_features.layers.rope import rotate
from randar_features.models.causal import CausalTransformer
from randar_features.models.config import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class RandARConfig(TransformerConfig):
    """Sizes of a RandAR, see `TransformerConfig`."""


class RandAR(CausalTransformer):
    """A position-instruction token in front of each image token says where it is; there it is predicted."""

    reads = sequence.READS

    def build(self, config: TransformerConfig) -> None:
        """As `ImageTransformer.build`."""
        self.pos_instruct_embeddings = nn.Parameter(torch.empty(1, config.dim))
        super().build(config)

    def instructions(self, rotary: Tensor | None = None) -> Tensor:
        """Position-instruction tokens of all raster locations: (N, D); of other locations by their `rotary`."""
        rotary = self.rotary[1:] if rotary is None else rotary
        heads = self.pos_instruct_embeddings.view(1, 1, self.config.num_heads, -1)
        return rotate(heads.expand(1, len(rotary), -1, -1), rotary[None])[0].flatten(1)

    def arrange(self, first: Tensor, tokens: Tensor, asking: Tensor) -> Tensor:
        """[class, P1, x1, …, Pn, xn, P of the next]."""
        return sequence.with_instructions(first, tokens, asking)

    def asking_rows(self, rotary: Tensor) -> Tensor:
        """The instructions of all locations."""
        return self.instructions(rotary[1:])

    def asked(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """The instruction of each location, at that location."""
        return order, order

    def length_of(self, num_tokens: int, context: str = "single") -> int:
        """As `ImageTransformer.length_of`."""
        return sequence.sequence_length(num_tokens, context)

    def tokens_before(self, start: int) -> int:
        """As `ImageTransformer.tokens_before`."""
        return max(start - 1, 0) // 2

    def settled_length(self, done: int, in_order: bool) -> int:
        """As `ImageTransformer.settled_length`: in order, the first instruction is already where it belongs."""
        return self.length_of(done) + in_order

    def predicting_rows(self) -> slice:
        """The N instructions."""
        return slice(1, 2 * self.config.num_tokens, 2)

    def read_rows(self, context: str, read: str) -> slice:
        """As `CausalTransformer.read_rows`."""
        return sequence.read_rows(self.config.num_tokens, context, read)
