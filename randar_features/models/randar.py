"""RandAR (Pang et al., arXiv 2412.01827): a decoder-only transformer over image tokens in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from randar_features import sequence
from randar_features.layers import Block, ClassEmbedding, KVCache, RMSNorm
from randar_features.layers.kv_cache import lower_right_causal_mask
from randar_features.layers.rope import grid_rotary_table, rotate

COUNTS = (
    "num_layers", "num_heads", "dim", "vocab_size", "num_tokens", "num_classes", "num_kv_heads", "ffn_multiple_of",
)  # fmt: skip
Indices = Tensor | Sequence[int]


@dataclass(frozen=True, kw_only=True)
class RandARConfig:
    """Sizes of a RandAR; dropout rates act in training mode only.

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
        kv_heads = self.num_kv_heads or self.num_heads
        if self.dim % self.num_heads or self.head_dim % 4:
            raise ValueError(
                f"dim = {self.dim} must divide into num_heads = {self.num_heads} heads of a width that divides by 4"
            )
        if self.num_heads % kv_heads:
            raise ValueError(f"num_heads = {self.num_heads} must be a multiple of num_kv_heads = {kv_heads}")
        sequence.grid_side(self.num_tokens)

    def _check_counts(self) -> None:
        for name in COUNTS:
            count = getattr(self, name)
            absent = name == "num_kv_heads" and count is None
            if not absent and (not isinstance(count, int) or count < 1):
                raise ValueError(f"{name} = {count!r} must be an integer of at least 1")

    @property
    def head_dim(self) -> int:
        """Channels of a head, d = D / H."""
        return self.dim // self.num_heads

    @property
    def middle_layer(self) -> int:
        """The block in the middle, from which features are read where nothing better is known: 11 of 24."""
        return (self.num_layers - 1) // 2

    @property
    def grid(self) -> int:
        """Side G of the token grid."""
        return sequence.grid_side(self.num_tokens)


class RandAR(nn.Module):
    """`model(tokens, classes, order)` → logits; state-dict names are those of the published weights."""

    contexts: tuple[str, ...] = sequence.CONTEXTS
    reads: tuple[str, ...] = sequence.READS

    def __init__(self, config: RandARConfig) -> None:
        super().__init__()
        self.config = config
        self.pos_instruct_embeddings = nn.Parameter(torch.empty(1, config.dim))
        self.cls_embedding = ClassEmbedding(config.num_classes, config.dim)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.token_dropout = nn.Dropout(config.token_dropout)
        self.layers = nn.ModuleList(
            Block(
                dim=config.dim,
                num_heads=config.num_heads,
                num_kv_heads=config.num_kv_heads or config.num_heads,
                ffn_multiple_of=config.ffn_multiple_of,
                norm_eps=config.norm_eps,
                dropout=config.residual_dropout,
            )
            for _ in range(config.num_layers)
        )
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.rotary: Tensor
        self.register_buffer("rotary", self.rotary_table(), persistent=False)
        self.initialize()

    def rotary_table(self) -> Tensor:
        """Angles of the class token and of all raster locations: (1 + N, d/2, 2) float32."""
        return grid_rotary_table(self.config.grid, self.config.head_dim, self.config.rope_base)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RandAR:
        super()._apply(fn, recurse)
        # Angles stay float32 whatever the weights become: half precision would move far locations.
        self.rotary = self.rotary_table().to(self.rotary.device)
        return self

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights: N(0, 0.02²), norms 1, and a zero output layer."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02, generator=generator)
            elif name.endswith("norm.weight"):
                nn.init.ones_(parameter)
        nn.init.zeros_(self.output.weight)

    def forward(self, tokens: Tensor, classes: Indices | int | None = None, order: Indices | None = None) -> Tensor:
        """Teacher-forced logits (B, N, V) float32, in decoding order.

        Args:
            tokens: (B, N) codes in raster order, of any integer dtype.
            classes: (B,) class indices or one for all, C or None for the null class.
            order: (N,) or (B, N) permutations of the raster locations; None: raster.

        `classes` and `order` may be tensors, lists or NumPy arrays, on any device.

        Raises:
            ValueError: one of these does not fit the model. What is on an accelerator is checked for shape
                and dtype only, since a look at the values would wait for the device.
        """
        x, rotary = self.embed(tokens, classes, order)
        for block in self.layers[:-1]:
            x = block(x, rotary)
        x = self.layers[-1](x, rotary, rows=sequence.read_rows(self.config.num_tokens, "single", "instruction"))
        return self.logits(x)

    def new_cache(self, rows: int, length: int | None = None) -> KVCache:
        """A key-value cache for `rows` sequences of `length` tokens; None: one image's, 1 + 2N."""
        return KVCache(
            num_layers=self.config.num_layers,
            rows=rows,
            num_kv_heads=self.config.num_kv_heads or self.config.num_heads,
            length=sequence.sequence_length(self.config.num_tokens) if length is None else length,
            head_dim=self.config.head_dim,
            dtype=self.tok_embeddings.weight.dtype,
            device=self.tok_embeddings.weight.device,
        )

    def continue_from(
        self, cache: KVCache, start: int, x: Tensor, rotary: Tensor, *, read: int, mask: Tensor | None = None
    ) -> Tensor:
        """Run n tokens behind the first `start` in the cache, write them there, and predict at the last ones.

        Args:
            cache: of at least B rows and start + n tokens.
            start: how many of the cached tokens are seen; the n new ones overwrite what stands behind them.
            x: embeddings (B, n, D); rotary: their angles (B or 1, n, d/2, 2).
            read: logits are taken at the last `read` tokens.
            mask: additive (n, start + n); None: causal.

        Returns:
            Logits (B, read, V) float32.
        """
        batch, count = x.shape[:2]
        if mask is None:
            mask = lower_right_causal_mask(count, start, dtype=x.dtype, device=x.device)
        *windows, last = cache.windows(rows=batch, start=start, mask=mask)
        for block, window in zip(self.layers[:-1], windows, strict=True):
            x = block(x, rotary, window=window)
        return self.logits(self.layers[-1](x, rotary, rows=slice(count - read, count), window=last))

    def embed(
        self,
        tokens: Tensor,
        classes: Indices | int | None = None,
        order: Indices | None = None,
        context: str = "single",
    ) -> tuple[Tensor, Tensor]:
        """The sequence's embeddings (B, L, D) and rotary angles (B or 1, L, d/2, 2); arguments as in `forward`."""
        batch = self.check_tokens(tokens)
        tokens = tokens.to(self.rotary.device, torch.long)
        order = self.check_order(order, batch)
        image = self.token_dropout(self.tok_embeddings(sequence.to_order(tokens, order)))
        instructions = self.instructions()[order].expand(batch, -1, -1)
        pairs = sequence.interleave(sequence.shown(instructions, context), sequence.shown(image, context))
        condition = self.cls_embedding(classes, batch)[:, None]
        locations = sequence.shown(order, context)
        return torch.cat([condition, pairs], dim=1), self.rotary_of(sequence.interleave(locations, locations))

    def instructions(self, rotary: Tensor | None = None) -> Tensor:
        """Position-instruction tokens of all raster locations: (N, D); of other locations by their `rotary`."""
        rotary = self.rotary[1:] if rotary is None else rotary
        heads = self.pos_instruct_embeddings.view(1, 1, self.config.num_heads, -1)
        return rotate(heads.expand(1, len(rotary), -1, -1), rotary[None])[0].flatten(1)

    def rotary_of(self, locations: Tensor) -> Tensor:
        """Angles of [class, locations (B, M)]: (B, 1 + M, d/2, 2)."""
        return self.rotary[torch.nn.functional.pad(locations + 1, (1, 0))]

    def logits(self, x: Tensor) -> Tensor:
        """Final norm and output layer: (…, D) → (…, V) float32."""
        return self.output(self.norm(x)).float()

    def check_tokens(self, tokens: Tensor) -> int:
        """The batch size of `tokens` (B, N), or ValueError if they do not fit this model."""
        expected, vocab = self.config.num_tokens, self.config.vocab_size
        if tokens.dim() != 2 or tokens.shape[1] != expected or tokens.is_floating_point() or tokens.dtype == torch.bool:
            raise ValueError(
                f"tokens must be integers of shape (B, {expected}); got {tuple(tokens.shape)}, {tokens.dtype}"
            )
        # On an accelerator a check would wait for the device; there the embedding itself refuses bad codes.
        if tokens.device.type == "cpu" and tokens.numel():
            lowest, highest = (int(bound) for bound in torch.aminmax(tokens.long()))
            if lowest < 0 or highest >= vocab:
                raise ValueError(
                    f"tokens must lie in 0 … {vocab - 1}; got {lowest} … {highest}. "
                    "Were they made by another tokenizer?"
                )
        return tokens.shape[0]

    def check_order(self, order: Indices | None, batch: int) -> Tensor:
        """`order` as (B or 1, N) int64 on the model's device; None gives raster."""
        if order is None:
            return sequence.raster_order(self.config.num_tokens, self.rotary.device)
        order = torch.as_tensor(order)
        # Whether it permutes is not asked on an accelerator, which would wait for the device.
        check = sequence.check_order if order.device.type == "cpu" else sequence.order_rows
        return check(order, self.config.num_tokens, batch).to(self.rotary.device)

    def training_order(
        self, batch: int, generator: torch.Generator, device: torch.device | str | None = None
    ) -> Tensor:
        """The orders of a training step, drawn for each image: (B, N) int64 on `device`."""
        return sequence.random_orders(batch, self.config.num_tokens, generator).to(device)
