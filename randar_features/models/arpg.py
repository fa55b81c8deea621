"""ARPG (Li et al., arXiv 2503.10568): queries for any locations, apart from the tokens that are known.

    content   [class] [x1] [x2] … [xN]     causal self-attention, the first half of the blocks
    queries   [q1] [q2] … [qN]             see the content alone, the second half of the blocks

The tokens stand in any order of the locations. A query, the same vector everywhere, stands at the location that is to
be predicted and sees the content before it.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from randar_features import sequence
from randar_features.layers.attention import Mask, Memory, Positions, SelfAttention, attend, merged_heads
from randar_features.layers.block import FeedForward, PreNormBlock, RMSNorm, run
from randar_features.layers.config import TransformerConfig
from randar_features.layers.embedding import check_classes
from randar_features.layers.rope import rotate
from randar_features.models.base import FeaturePass, ImageTransformer, Indices, order_of


class ARPGConfig(TransformerConfig):
    """Sizes of an ARPG, see `TransformerConfig`; half of the (even) number of layers are for the queries."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_layers % 2:
            raise ValueError(f"num_layers = {self.num_layers} must be even: one half for content, one for queries")


def heads_of(x: Tensor, head_dim: int) -> Tensor:
    """(B, L, H·d) → (B, L, H, d)."""
    return x.unflatten(-1, (-1, head_dim))


class ContentAttention(SelfAttention):
    """Self-attention with a projection each of queries, keys and values."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim, kv_dim = config.head_dim, config.kv_heads * config.head_dim
        self.to_q = nn.Linear(config.dim, config.dim, bias=False)
        self.to_k = nn.Linear(config.dim, kv_dim, bias=False)
        self.to_v = nn.Linear(config.dim, kv_dim, bias=False)
        self.proj = nn.Linear(config.dim, config.dim, bias=False)
        self.dropout = nn.Dropout(config.residual_dropout)

    @override
    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = (heads_of(part(x), self.head_dim) for part in (self.to_q, self.to_k, self.to_v))
        return rotate(queries, rotary).transpose(1, 2), rotate(keys, rotary).transpose(1, 2), values.transpose(1, 2)

    @override
    def merge(self, attended: Tensor) -> Tensor:
        return self.dropout(self.proj(merged_heads(attended)))


class QueryAttention(nn.Module):
    """Attention of queries to keys and values that all query blocks share."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.to_q = nn.Linear(config.dim, config.dim, bias=False)
        self.proj = nn.Linear(config.dim, config.dim, bias=False)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(self, x: Tensor, rotary: Tensor, mask: Mask, positions: Positions | None, memory: Memory) -> Tensor:
        """`x` (B, M, D) → (B, M, D), or at the given positions alone; the mask says what each sees of `memory`."""
        queries = rotate(heads_of(self.to_q(x), self.head_dim), rotary).transpose(1, 2)
        return self.dropout(self.proj(merged_heads(attend(queries, *memory, mask, positions))))


class ARPGBlock(PreNormBlock):
    """A block of either half."""

    def __init__(self, config: TransformerConfig, attention: nn.Module) -> None:
        super().__init__()
        self.attn = attention
        self.ffn = FeedForward(config)
        self.attn_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    @override
    def parts(self) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
        return self.attn_norm, self.attn, self.ffn_norm, self.ffn


class TwoHalves(nn.Module):
    """The content blocks, what makes their output into keys and values, and the query blocks."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        half, self.head_dim = config.num_layers // 2, config.head_dim
        self.self_dec = nn.ModuleList(ARPGBlock(config, ContentAttention(config)) for _ in range(half))
        self.cross_dec = nn.ModuleList(ARPGBlock(config, QueryAttention(config)) for _ in range(half))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.to_k = nn.Linear(config.dim, config.kv_heads * config.head_dim, bias=False)
        self.to_v = nn.Linear(config.dim, config.kv_heads * config.head_dim, bias=False)

    def remember(self, x: Tensor, rotary: Tensor) -> Memory:
        """The keys and values that content (B, L, D) gives the queries."""
        x = self.norm(x)
        keys, values = (heads_of(part(x), self.head_dim) for part in (self.to_k, self.to_v))
        return Memory(rotate(keys, rotary).transpose(1, 2), values.transpose(1, 2))


class ARPG(ImageTransformer):
    """Any order. Layers 0 … L/2 − 1 are the content's, L/2 … L − 1 the queries'.

    Features at the "image" tokens of the content, of images shown once or twice; at a "query" at every location, after
    the whole image; or "leave_one_out", at queries that each see the whole image but the token at their own location.
    """

    reads: ClassVar = {"image": sequence.CONTEXTS, "query": ("single",), "leave_one_out": ("single",)}
    reads_together = False

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        # Codes, the query (published as mask), classes, no class, and a spare one.
        self.embeddings = nn.Embedding(config.vocab_size + 1 + config.num_classes + 2, config.dim)
        self.layers: TwoHalves = TwoHalves(config)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.initialize()

    @property
    @override
    def code_embedding(self) -> nn.Embedding:
        return self.embeddings

    @property
    @override
    def output_layer(self) -> nn.Module:
        return self.head

    @property
    @override
    def blocks(self) -> list[nn.Module]:
        return [*self.layers.self_dec, *self.layers.cross_dec]

    @override
    def final_norm(self, read: str) -> nn.Module:
        return self.layers.norm if read == "image" else self.norm  # the content's is before the shared keys and values

    @override
    def layers_of(self, read: str) -> range:
        half = self.config.num_layers // 2
        return range(half) if read == "image" else range(half, self.config.num_layers)

    def cls_embedding(self, classes: Indices | int | None, batch: int) -> Tensor:
        """What `ClassEmbedding` gives the other models, from the one table."""
        null = self.config.num_classes
        indices = check_classes(null if classes is None else classes, batch, null)
        return self.embeddings(indices.to(self.device) + self.config.vocab_size + 1)

    def queries(self, order: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Queries (B, M, D) for the locations (B or 1, M), and their angles."""
        query = self.embeddings.weight[self.config.vocab_size :][:1]
        return query.expand(batch, order.shape[1], -1), self.rotary[order + 1]

    def content(self, x: Tensor, rotary: Tensor) -> Memory:
        """What the content (B, L, D) gives the queries; each token sees those before it."""
        return self.layers.remember(run(self.layers.self_dec, x, rotary, "causal"), rotary)

    def answer(self, x: Tensor, rotary: Tensor, mask: Mask, memory: Memory) -> Tensor:
        """Queries (B, M, D) through their blocks."""
        return run(self.layers.cross_dec, x, rotary, mask, windows=[memory] * len(self.layers.cross_dec))

    @override
    def predicting_states(self, tokens: Tensor, classes: Indices | int | None, order: Indices | None) -> Tensor:
        order = order_of(self, order, tokens.shape[0])
        x, rotary = self.embed(tokens, classes, order)
        memory = self.content(x[:, :-1], rotary[:, :-1])  # the last token is nobody's past
        x, rotary = self.queries(order, tokens.shape[0])
        return self.answer(x, rotary, "causal", memory)

    @override
    def feature_pass(
        self, tokens: Tensor, classes: Indices | None, order: Indices | None, *, context: str, reads: Sequence[str]
    ) -> FeaturePass:
        (read,) = reads
        order = order_of(self, order, tokens.shape[0])
        num_tokens = self.config.num_tokens
        if read == "image":
            x, rotary = self.embed(tokens, classes, order, context)
            positions = slice(x.shape[1] - num_tokens, x.shape[1])
            return FeaturePass(x, rotary, "causal", {read: positions})
        if read == "query":
            mask, memory = None, self.content(*self.embed(tokens, classes, order))
        else:
            mask = sequence.leave_one_out_mask(num_tokens, self.device)
            # The order and its reverse, laid out in the order: [class, x1 … xN] [x1 … xN]; one class, as in training.
            forward, backward = (self.content(*self.embed(tokens, classes, one)) for one in (order, order.flip(1)))
            pairs = zip(forward, backward, strict=True)
            memory = Memory(*(torch.cat([a, b[:, :, 1:].flip(2)], dim=2) for a, b in pairs))
        x, rotary = self.queries(order, tokens.shape[0])
        return FeaturePass(x, rotary, mask, {read: slice(0, num_tokens)}, memory)
