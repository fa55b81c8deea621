"""RandAR (Pang et al., arXiv 2412.01827): a decoder-only transformer over image tokens in any order.

    [class] [P1] [x1] [P2] [x2] … [PN] [xN]

The tokens x1, x2, … stand in any order π of the N locations. A position-instruction token P before each of them says
where it is, and there it is predicted. Attention is causal along the sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from randar_features import sequence
from randar_features.layers.block import run
from randar_features.layers.config import TransformerConfig
from randar_features.layers.rope import rotate
from randar_features.models.base import FeaturePass, ImageTransformer, Indices


@dataclass(frozen=True, kw_only=True)
class RandARConfig(TransformerConfig):
    """Sizes of a RandAR, see `TransformerConfig`, and how it states a location.

    `free_instructions`: each location has a learned vector of its own, in place of one vector that is rotated. The
    authors found it slightly worse (github.com/ziqipang/RandAR, issue 13), and it has no twice the resolution.
    """

    free_instructions: bool = False

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.free_instructions, bool):
            raise ValueError(f"free_instructions = {self.free_instructions!r} must be True or False")


class RandAR(ImageTransformer):
    """Any order; features at the image tokens or at the instructions, of images shown once or twice."""

    reads: ClassVar = {"image": sequence.CONTEXTS, "instruction": sequence.CONTEXTS}
    config: RandARConfig
    layers: nn.ModuleList
    output: nn.Linear

    def __init__(self, config: RandARConfig) -> None:
        super().__init__(config)
        vectors = config.num_tokens if config.free_instructions else 1
        self.pos_instruct_embeddings = nn.Parameter(torch.empty(vectors, config.dim))
        self._make_layers()
        self.predicting = slice(1, 2 * config.num_tokens, 2)
        """Positions at which the tokens are predicted: the N instructions."""
        self.initialize()

    def instructions(self, rotary: Tensor | None = None) -> Tensor:
        """Position-instruction tokens of all raster locations, (N, D); of other locations by their `rotary`.

        One learned vector, its heads turned by the angles of the location. Attention turns its queries and keys by
        the same angles again, which the authors intend.
        """
        if self.config.free_instructions:
            return self.pos_instruct_embeddings
        rotary = self.rotary[1:] if rotary is None else rotary
        heads = self.pos_instruct_embeddings.view(1, 1, self.config.num_heads, -1)
        return rotate(heads.expand(1, len(rotary), -1, -1), rotary[None])[0].flatten(1)

    @override
    def lay_out(self, first: Tensor, image: Tensor, order: Tensor, nowhere: Tensor) -> tuple[Tensor, Tensor]:
        instructions = self.instructions()[order].expand(image.shape[0], -1, -1)
        locations = sequence.with_instructions(nowhere, order, order)
        return sequence.with_instructions(first, image, instructions), locations

    @override
    def predicting_states(self, tokens: Tensor, classes: Indices | int | None, order: Indices | None) -> Tensor:
        x, rotary = self.embed(tokens, classes, order)
        end = self.predicting.stop  # the last token is nobody's past
        return run(self.blocks, x[:, :end], rotary[:, :end], "causal", positions=self.predicting)

    @override
    def sequence_length(self, context: str = "single") -> int:
        return sequence.sequence_length(self.config.num_tokens, context)

    @override
    def feature_pass(
        self, tokens: Tensor, classes: Indices | None, order: Indices | None, *, context: str, reads: Sequence[str]
    ) -> FeaturePass:
        x, rotary = self.embed(tokens, classes, order, context)
        positions = {read: sequence.read_positions(self.config.num_tokens, context, read) for read in reads}
        return FeaturePass(x, rotary, "causal", positions)
