"""ARPG (Li et al., arXiv 2503.10568): queries for any locations, apart from the tokens that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from randar_features import sequence
from randar_features.layers import (
    FeedForward,
    KVCache,
    Mask,
    Memory,
    PreNormBlock,
    RMSNorm,
    Rows,
    SelfAttention,
    attend,
    check_classes,
    merged_heads,
)
from randar_features.layers.rope import rotate
from randar_features.models.base import ImageTransformer, Indices
from randar_features.models.config import TransformerConfig
from randar_features.models.passes import Reading, run

QUERY_READS = ("query", "leave_one_out")


@dataclass(frozen=True, kw_only=True)
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

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `SelfAttention.project`."""
        queries, keys, values = (heads_of(part(x), self.head_dim) for part in (self.to_q, self.to_k, self.to_v))
        return rotate(queries, rotary).transpose(1, 2), rotate(keys, rotary).transpose(1, 2), values.transpose(1, 2)

    def merge(self, attended: Tensor) -> Tensor:
        """(B, H, L, d) → (B, L, D) through `proj`."""
        return self.dropout(self.proj(merged_heads(attended)))


class QueryAttention(nn.Module):
    """Attention of queries to keys and values that all query blocks share."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.to_q = nn.Linear(config.dim, config.dim, bias=False)
        self.proj = nn.Linear(config.dim, config.dim, bias=False)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(self, x: Tensor, rotary: Tensor, mask: Mask, rows: Rows | None, window: Memory) -> Tensor:
        """`x` (B, M, D) → (B, M or rows, D); the mask says which of the `window`'s entries each query sees."""
        queries = rotate(heads_of(self.to_q(x), self.head_dim), rotary).transpose(1, 2)
        return self.dropout(self.proj(merged_heads(attend(queries, *window, mask, rows))))


class ARPGBlock(PreNormBlock):
    """A block of either half."""

    def __init__(self, config: TransformerConfig, attention: nn.Module) -> None:
        super().__init__()
        self.attn = attention
        self.ffn = FeedForward(dim=config.dim, multiple_of=config.ffn_multiple_of, dropout=config.residual_dropout)
        self.attn_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def parts(self) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
        """As `PreNormBlock.parts`."""
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
        """The keys and values (B, Hkv, L, d) that content rows (B, L, D) give the queries."""
        x = self.norm(x)
        keys, values = (heads_of(part(x), self.head_dim) for part in (self.to_k, self.to_v))
        return Memory(rotate(keys, rotary).transpose(1, 2), values.transpose(1, 2))


class ARPG(ImageTransformer):
    """Content [class, x1, …] in a causal first half; in the second half queries, which only look at that.

    A query stands at the location that is to be predicted and sees the content given before it. Layers 0 …
    L/2 − 1 are the content's, L/2 … L − 1 the queries'. Reads: at the "image" tokens of the content; at a
    "query" at every location behind the whole image; or "leave_one_out": at queries that each see the whole image
    but the token at their own location.
    """

    reads = ("image", *QUERY_READS)
    reads_together = False

    def build(self, config: TransformerConfig) -> None:
        """As `ImageTransformer.build`."""
        # Codes, the query (published as mask), classes, no class, and a spare one.
        self.embeddings = nn.Embedding(config.vocab_size + 1 + config.num_classes + 2, config.dim)
        self.layers = TwoHalves(config)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def code_embedding(self) -> nn.Embedding:
        """As `ImageTransformer.code_embedding`."""
        return self.embeddings

    @property
    def output_layer(self) -> nn.Module:
        """As `ImageTransformer.output_layer`."""
        return self.head

    @property
    def blocks(self) -> list[nn.Module]:
        """As `ImageTransformer.blocks`: the content's, then the queries'."""
        return [*self.layers.self_dec, *self.layers.cross_dec]

    def final_norm(self, read: str) -> nn.Module:
        """As `ImageTransformer.final_norm`; the content's is that in front of the shared keys and values."""
        return self.layers.norm if read == "image" else self.norm

    @property
    def cached_layers(self) -> int:
        """The content blocks, and the keys and values that the queries share."""
        return self.config.num_layers // 2 + 1

    def embed_classes(self, classes: Indices | int | None, batch: int) -> Tensor:
        """As `ImageTransformer.embed_classes`."""
        null = self.config.num_classes
        indices = check_classes(null if classes is None else classes, batch, null)
        return self.embeddings(indices.to(self.device) + self.config.vocab_size + 1)

    def logits(self, x: Tensor) -> Tensor:
        """As `ImageTransformer.logits`."""
        return self.head(self.norm(x)).float()

    def arrange(self, first: Tensor, tokens: Tensor, asking: Tensor) -> Tensor:
        """[class, x1, …, xn] and queries for the next."""
        return sequence.with_queries(first, tokens, asking)

    def asking_rows(self, rotary: Tensor) -> Tensor:
        """The query, the same everywhere."""
        return self.embeddings.weight[self.config.vocab_size :][:1]

    def asked(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """A query at each location."""
        return torch.zeros_like(order), order

    def queries(self, order: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Queries (B, M, D) for the locations (B or 1, M), and their angles."""
        return self.asking_rows(self.rotary).expand(batch, order.shape[1], -1), self.rotary[order + 1]

    def content(self, x: Tensor, rotary: Tensor) -> Memory:
        """What a content sequence (B, L, D), each row seeing those before it, gives the queries."""
        return self.layers.remember(run(self.layers.self_dec, x, rotary, "causal"), rotary)

    def predicting_states(self, tokens: Tensor, classes: Indices | int | None, order: Indices | None) -> Tensor:
        """As `ImageTransformer.predicting_states`."""
        order = self.check_order(order, len(tokens))
        x, rotary = self.embed(tokens, classes, order)
        memory = self.content(x[:, :-1], rotary[:, :-1])  # the last token is nobody's past
        x, rotary = self.queries(order, len(tokens))
        return self.answer(x, rotary, "causal", memory)

    def answer(self, x: Tensor, rotary: Tensor, mask: Mask, memory: Memory) -> Tensor:
        """Queries (B, M, D) through their blocks."""
        return run(self.layers.cross_dec, x, rotary, mask, windows=[memory] * len(self.layers.cross_dec))

    def continue_from(
        self, cache: KVCache, start: int, x: Tensor, rotary: Tensor, *, read: int, separate: bool = False
    ) -> Tensor:
        """As `ImageTransformer.continue_from`. The last `read` rows are queries, which leave nothing in the cache.

        Tokens of one step see each other, as published; those that are known from the start do as in training.
        """
        fed = x.shape[1] - read
        *windows, last = cache.windows(rows=len(x), start=start)
        mask: Mask = None if start else "causal"
        content = run(self.layers.self_dec, x[:, :fed], rotary[:, :fed], mask, windows=windows)
        memory = Memory(*last.extend(*self.layers.remember(content, rotary[:, :fed])))
        return self.logits(self.answer(x[:, fed:], rotary[:, fed:], None, memory))

    def contexts_of(self, read: str) -> tuple[str, ...]:
        """Queries need no second copy."""
        return self.contexts if read == "image" else ("single",)

    def layers_of(self, read: str) -> range:
        """The content's blocks or the queries'."""
        half = self.config.num_layers // 2
        return range(half) if read == "image" else range(half, self.config.num_layers)

    def why_not(self, context: str, read: str) -> str:
        """As `ImageTransformer.why_not`."""
        return "a query sees the whole image behind a single showing"

    def reading(
        self, tokens: Tensor, classes: Indices | None, order: Indices | None, *, context: str, reads: Sequence[str]
    ) -> Reading:
        """As `ImageTransformer.reading`."""
        (read,) = reads
        order = self.check_order(order, len(tokens))
        if read == "image":
            return self.content_reading(tokens, classes, order, context)
        mask: Mask = None
        if read == "query":
            memory = self.content(*self.embed(tokens, classes, order))
        else:
            memory = self.both_directions(tokens, classes, order)
            mask = sequence.leave_one_out_mask(self.config.num_tokens, self.device)
        x, rotary = self.queries(order, len(tokens))
        return Reading(
            x=x,
            rotary=rotary,
            mask=mask,
            layers=self.layers_of(read),
            rows={read: slice(0, self.config.num_tokens)},
            order=order,
            window=memory,
        )

    def content_reading(self, tokens: Tensor, classes: Indices | None, order: Tensor, context: str) -> Reading:
        """The pass in which the image tokens of the content are read."""
        x, rotary = self.embed(tokens, classes, order, context)
        return Reading(
            x=x,
            rotary=rotary,
            mask="causal",
            layers=self.layers_of("image"),
            rows={"image": slice(x.shape[1] - self.config.num_tokens, x.shape[1])},
            order=sequence.read_order(order, context),
        )

    def both_directions(self, tokens: Tensor, classes: Indices | None, order: Tensor) -> Memory:
        """Content in an order and in its reverse, both laid out in the order: [class, x1 … xN] [x1 … xN].

        The class stands there once, as in training.
        """
        forward = self.content(*self.embed(tokens, classes, order))
        backward = self.content(*self.embed(tokens, classes, order.flip(1)))
        return Memory(*(torch.cat([a, b[:, :, 1:].flip(2)], dim=2) for a, b in zip(forward, backward, strict=True)))
