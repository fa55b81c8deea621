"""One causal stream of blocks: what LlamaGen, PAR and RandAR share beyond `ImageTransformer`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from randar_features import sequence
from randar_features.layers import Block, ClassEmbedding, KVCache, Mask, RMSNorm, Rows
from randar_features.layers.kv_cache import lower_right_causal_mask
from randar_features.models.base import ImageTransformer, Indices
from randar_features.models.config import TransformerConfig
from randar_features.models.passes import Reading, run


class CausalTransformer(ImageTransformer):
    """One stream of blocks over the whole sequence, as in LlamaGen, PAR and RandAR, each under the same names."""

    def build(self, config: TransformerConfig) -> None:
        """As `ImageTransformer.build`."""
        self.cls_embedding = ClassEmbedding(config.num_classes, config.dim)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(
            Block(
                dim=config.dim,
                num_heads=config.num_heads,
                num_kv_heads=config.kv_heads,
                ffn_multiple_of=config.ffn_multiple_of,
                norm_eps=config.norm_eps,
                dropout=config.residual_dropout,
            )
            for _ in range(config.num_layers)
        )
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def code_embedding(self) -> nn.Embedding:
        """As `ImageTransformer.code_embedding`."""
        return self.tok_embeddings

    @property
    def output_layer(self) -> nn.Module:
        """As `ImageTransformer.output_layer`."""
        return self.output

    @property
    def blocks(self) -> list[nn.Module]:
        """As `ImageTransformer.blocks`."""
        return list(self.layers)

    def final_norm(self, read: str) -> nn.Module:
        """As `ImageTransformer.final_norm`."""
        return self.norm

    def embed_classes(self, classes: Indices | int | None, batch: int) -> Tensor:
        """As `ImageTransformer.embed_classes`."""
        return self.cls_embedding(classes, batch)

    def logits(self, x: Tensor) -> Tensor:
        """As `ImageTransformer.logits`."""
        return self.output(self.norm(x)).float()

    def predicting_rows(self) -> slice:
        """The N rows of an image's sequence at which its tokens are predicted: the first N."""
        return slice(0, self.config.num_tokens)

    def read_rows(self, context: str, read: str) -> Rows:
        """The N rows of an image's last copy that belong to a read."""
        length = self.length_of(self.config.num_tokens, context)
        return slice(length - self.config.num_tokens, length)

    def mask(self, count: int, start: int = 0, *, separate: int = 0) -> Mask:
        """What `count` rows behind the first `start` see of all start + count; the last `separate` not each other."""
        if not start and not separate:
            return "causal"
        return lower_right_causal_mask(count, start, separate=separate, dtype=self.dtype, device=self.device)

    def predicting_states(self, tokens: Tensor, classes: Indices | int | None, order: Indices | None) -> Tensor:
        """As `ImageTransformer.predicting_states`."""
        x, rotary = self.embed(tokens, classes, order)
        rows = self.predicting_rows()
        mask = self.mask(rows.stop)
        return run(self.blocks, x[:, : rows.stop], rotary[:, : rows.stop], mask, rows=rows)

    def continue_from(
        self, cache: KVCache, start: int, x: Tensor, rotary: Tensor, *, read: int, separate: bool = False
    ) -> Tensor:
        """As `ImageTransformer.continue_from`."""
        batch, count = x.shape[:2]
        mask = self.mask(count, start, separate=read if separate else 0)
        windows = cache.windows(rows=batch, start=start)
        return self.logits(run(self.blocks, x, rotary, mask, rows=slice(count - read, count), windows=windows))

    def reading(
        self, tokens: Tensor, classes: Indices | None, order: Indices | None, *, context: str, reads: Sequence[str]
    ) -> Reading:
        """As `ImageTransformer.reading`."""
        x, rotary = self.embed(tokens, classes, order, context)
        return Reading(
            x=x,
            rotary=rotary,
            mask=self.mask(x.shape[1]),
            layers=self.layers_of(reads[0]),
            rows={read: self.read_rows(context, read) for read in reads},
            order=sequence.read_order(self.check_order(order, len(tokens)), context),
        )
