"""PAR (Wang et al., arXiv 2412.15119): groups of distant tokens in parallel, in one fixed order.

    [class] [t1] … [t4] [s1] [s2] [s3] [t5] … [tN]      in the order of `sequence.group_order`

The first four tokens are predicted one by one, each at the position before its own. From position 4 on, groups of
four positions see each other, and each predicts the token of its own quadrant in the next group; the special tokens
s1 … s3 complete the first group.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from randar_features import sequence
from randar_features.layers.attention import Positions
from randar_features.layers.block import run
from randar_features.layers.config import TransformerConfig
from randar_features.models.base import FeaturePass, ImageTransformer, Indices
from randar_features.sequence import GROUP


class PARConfig(TransformerConfig):
    """Sizes of a PAR, see `TransformerConfig`; the grid's side must be even."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sequence.group_order(self.num_tokens)


class PAR(ImageTransformer):
    """The order of groups; features at the image tokens, of images shown once or twice."""

    reads: ClassVar = {"image": ("single", "repeat")}
    fixed_order = True

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self._make_layers()
        self.spe_tok_embeddings = nn.ModuleDict({"special_embeddings": nn.Embedding(GROUP - 1, config.dim)})
        self.initialize()

    @property
    def special_tokens(self) -> Tensor:
        """The three special tokens, (3, D); they are at no location."""
        return self.spe_tok_embeddings.get_parameter("special_embeddings.weight")

    def own_order(self) -> Tensor:
        """The order of groups, (1, N)."""
        return sequence.group_order(self.config.num_tokens, self.device)

    @override
    def lay_out(self, first: Tensor, image: Tensor, order: Tensor, nowhere: Tensor) -> tuple[Tensor, Tensor]:
        x = sequence.with_specials(first, image, self.special_tokens.expand(image.shape[0], -1, -1))
        return x, sequence.with_specials(nowhere, order, nowhere.expand(-1, GROUP - 1))

    @override
    def predicting_states(self, tokens: Tensor, classes: Indices | int | None, order: Indices | None) -> Tensor:
        x, rotary = self.embed(tokens, classes, order)
        end = self.config.num_tokens  # the last group is nobody's past
        mask = sequence.group_mask(end, self.device)
        return run(self.blocks, x[:, :end], rotary[:, :end], mask)

    @override
    def sequence_length(self, context: str = "single") -> int:
        return super().sequence_length(context) + GROUP - 1

    @override
    def feature_pass(
        self, tokens: Tensor, classes: Indices | None, order: Indices | None, *, context: str, reads: Sequence[str]
    ) -> FeaturePass:
        x, rotary = self.embed(tokens, classes, order, context)
        length, num_tokens = x.shape[1], self.config.num_tokens
        positions: Positions = slice(length - num_tokens, length)
        if context == "single":  # the special tokens are left out
            every = torch.arange(length, device=self.device)
            positions = torch.cat([every[1 : 1 + GROUP], every[2 * GROUP :]])
        return FeaturePass(x, rotary, sequence.group_mask(length, self.device), {"image": positions})
