"""LlamaGen (Sun et al., arXiv 2406.06525): a decoder-only transformer over image tokens in raster order.

    [class] [x1] [x2] … [xN]

Attention is causal; each token is predicted at the position before its own.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from randar_features.layers.block import run
from randar_features.layers.config import TransformerConfig
from randar_features.models.base import FeaturePass, ImageTransformer, Indices


class LlamaGenConfig(TransformerConfig):
    """Sizes of a LlamaGen, see `TransformerConfig`."""


class LlamaGen(ImageTransformer):
    """Raster order; features at the image tokens, of images shown once or twice."""

    reads: ClassVar = {"image": ("single", "repeat")}
    fixed_order = True

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self._make_layers()
        self.predicting = slice(0, config.num_tokens)
        """Positions at which the tokens are predicted: the first N."""
        self.initialize()

    @override
    def predicting_states(self, tokens: Tensor, classes: Indices | int | None, order: Indices | None) -> Tensor:
        x, rotary = self.embed(tokens, classes, order)
        return run(self.blocks, x[:, :-1], rotary[:, :-1], "causal")  # the last token is nobody's past

    @override
    def feature_pass(
        self, tokens: Tensor, classes: Indices | None, order: Indices | None, *, context: str, reads: Sequence[str]
    ) -> FeaturePass:
        x, rotary = self.embed(tokens, classes, order, context)
        length = x.shape[1]
        return FeaturePass(x, rotary, "causal", {"image": slice(length - self.config.num_tokens, length)})
