"""What the generators share: angles, the class and the tokens in an order, checks, the cache.

The models differ in their sequence (`arrange`, `asking_rows`, `asked`, `length_of`), in what sees what and in where
a token is predicted; each says these in its own file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from randar_features import sequence
from randar_features.layers import KVCache
from randar_features.layers.cross_entropy import linear_cross_entropy
from randar_features.layers.rope import grid_rotary_table
from randar_features.models.config import TransformerConfig
from randar_features.models.passes import Places, Reading

Indices = Tensor | Sequence[int]


class ImageTransformer(nn.Module):
    """`model(tokens, classes, order)` → logits; state-dict names are those of the published weights.

    Attributes:
        contexts: how an image may be shown to be encoded, see `sequence`.
        reads: at which of its tokens features may be read.
        reads_together: whether one pass has all reads.
        fixed_order: whether it knows one order only, its `own_order`.
        trained_order: "random", as the architecture is trained, or "raster", where it leaves a choice; how `generate`
            decodes where no order is asked for, what a model's likelihood is measured in, and how it reads features.
    """

    contexts: ClassVar[tuple[str, ...]] = sequence.CONTEXTS
    reads: ClassVar[tuple[str, ...]] = ("image",)
    reads_together: ClassVar[bool] = True
    fixed_order: ClassVar[bool] = False
    trained_order: str = "random"
    norm: nn.Module

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.token_dropout = nn.Dropout(config.token_dropout)
        self.build(config)
        self.rotary: Tensor
        self.register_buffer("rotary", self.rotary_table(), persistent=False)
        self.initialize()

    def build(self, config: TransformerConfig) -> None:
        """Make the layers, under their published names."""
        raise NotImplementedError

    @property
    def code_embedding(self) -> nn.Embedding:
        """Whose first V rows are the codes' vectors."""
        raise NotImplementedError

    @property
    def output_layer(self) -> nn.Module:
        """The layer that gives the logits."""
        raise NotImplementedError

    @property
    def blocks(self) -> list[nn.Module]:
        """All blocks, in the order of their layer indices."""
        raise NotImplementedError

    @property
    def cached_layers(self) -> int:
        """How many layers keep keys and values while decoding."""
        return self.config.num_layers

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.rotary.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.code_embedding.weight.dtype

    def rotary_table(self) -> Tensor:
        """Angles of the class token and of all raster locations: (1 + N, d/2, 2) float32."""
        return grid_rotary_table(self.config.grid, self.config.head_dim, self.config.rope_base)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
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
        nn.init.zeros_(self.output_layer.get_parameter("weight"))

    def forward(
        self,
        tokens: Tensor,
        classes: Indices | int | None = None,
        order: Indices | None = None,
        *,
        loss: bool = False,
    ) -> Tensor:
        """Teacher-forced logits (B, N, V) float32, in decoding order, or their mean cross-entropy.

        Args:
            tokens: (B, N) codes in raster order, of any integer dtype.
            classes: (B,) class indices or one for all, C or None for the null class.
            order: (N,) or (B, N) permutations of the raster locations; None: the model's own.
            loss: give the mean cross-entropy in nats per token, (), for which the logits need not be in memory.

        `classes` and `order` may be tensors, lists or NumPy arrays, on any device.

        Raises:
            ValueError: one of these does not fit the model. What is on an accelerator is checked for shape
                and dtype only, since a look at the values would wait for the device.
        """
        states = self.predicting_states(tokens, classes, order)
        return self.cross_entropy(states, tokens, order) if loss else self.logits(states)

    def predicting_states(self, tokens: Tensor, classes: Indices | int | None, order: Indices | None) -> Tensor:
        """What `logits` is given of a teacher-forced pass, (B, N, D)."""
        raise NotImplementedError

    def cross_entropy(self, states: Tensor, tokens: Tensor, order: Indices | None) -> Tensor:
        """Mean cross-entropy, in nats, of `logits(states)` against raster tokens (B, N) in an order."""
        order = self.check_order(order, len(tokens))
        targets = sequence.to_order(tokens.to(self.device, torch.long), order)
        weight = self.output_layer.get_parameter("weight")
        return linear_cross_entropy(self.norm(states).flatten(0, 1), weight, targets.flatten())

    def continue_from(
        self, cache: KVCache, start: int, x: Tensor, rotary: Tensor, *, read: int, separate: bool = False
    ) -> Tensor:
        """Run n rows of a sequence behind the first `start` in the cache, and predict at the last ones.

        Args:
            cache: of at least B sequences of start + n tokens.
            start: how many of the cached tokens are seen; new ones overwrite what stands behind them.
            x: embeddings (B, n, D); rotary: their angles (B or 1, n, d/2, 2); as `lay_out` gives them.
            read: logits are taken at the last `read` rows.
            separate: these rows do not see each other.

        Returns:
            Logits (B, read, V) float32.
        """
        raise NotImplementedError

    def new_cache(self, rows: int, length: int | None = None) -> KVCache:
        """A key-value cache for `rows` sequences of `length` tokens; None: as one image needs."""
        length = self.length_of(self.config.num_tokens) if length is None else length
        return KVCache(rows=rows, length=length, **self.cache_layout)

    @property
    def cache_layout(self) -> dict[str, Any]:
        """What a key-value cache of this model must be like, besides large enough."""
        return {
            "num_layers": self.cached_layers,
            "num_kv_heads": self.config.kv_heads,
            "head_dim": self.config.head_dim,
            "dtype": self.dtype,
            "device": self.device,
        }

    # The sequence.

    def arrange(self, first: Tensor, tokens: Tensor, asking: Tensor) -> Tensor:
        """The class's row (B, 1, …), the n tokens' rows (B, n, …) and those of `asking` as one sequence."""
        return torch.cat([first, tokens], dim=1)

    def asking_rows(self, rotary: Tensor) -> Tensor:
        """The embeddings (E, D) of what else than class and tokens stands in a sequence over a grid."""
        return rotary.new_empty(0, self.config.dim)

    def asked(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows of `asking_rows`, and at which locations, go with the first M of an order (B, M): (B, M') each.

        Location −1 is nowhere, as the class token is.
        """
        return order[:, :0], order[:, :0]

    def length_of(self, num_tokens: int, context: str = "single") -> int:
        """Length of the sequence with so many tokens of an image, shown as the context says."""
        return sequence.sequence_length(num_tokens, context, 1)

    def tokens_before(self, start: int) -> int:
        """How many of the first tokens the rows from `start` on do not need, to be laid out without them."""
        return max(start - 1, 0)

    def settled_length(self, done: int, in_order: bool) -> int:
        """How many rows stand at their place behind a pass that knew `done` tokens and asked for more.

        `in_order`: the tokens asked for are those that come next in the order.
        """
        return self.length_of(done)

    def places(self, rotary: Tensor | None = None) -> Places:
        """Of the model's grid, or of another by its angles (1 + N, d/2, 2)."""
        rotary = self.rotary if rotary is None else rotary
        return Places(rotary, self.asking_rows(rotary))

    def lay_out(
        self, first: Tensor, image: Tensor, order: Tensor, places: Places | None = None
    ) -> tuple[Tensor, Tensor]:
        """A sequence's embeddings (B, L, D) and rotary angles (B or 1, L, d/2, 2).

        Args:
            first: the class's embedding (B, 1, D).
            image: (B, n, D) embeddings of the tokens that are known.
            order: (B or 1, n + m) where these are, and the next m to ask for.
            places: None: the model's grid.
        """
        places = places or self.places()
        rows, locations = self.asked(order)
        x = self.arrange(first, image, places.asking[rows].expand(len(image), -1, -1))
        nowhere = torch.full_like(order[:, :1], -1)
        return x, places.rotary[self.arrange(nowhere, order[:, : image.shape[1]], locations) + 1]

    def embed(
        self,
        tokens: Tensor,
        classes: Indices | int | None = None,
        order: Indices | None = None,
        context: str = "single",
    ) -> tuple[Tensor, Tensor]:
        """The embeddings and angles, as `lay_out`, of whole images; arguments as in `forward`."""
        batch = self.check_tokens(tokens)
        order = self.check_order(order, batch)
        tokens = sequence.to_order(tokens.to(self.device, torch.long), order)
        image = self.token_dropout(self.code_embedding(tokens))
        first = self.embed_classes(classes, batch)[:, None]
        return self.lay_out(first, sequence.shown(image, context), sequence.shown(order, context))

    def embed_classes(self, classes: Indices | int | None, batch: int) -> Tensor:
        """Class indices (B,) or one for all, C = null class, None = null class for all → (B, D)."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """Final norm and output layer: (…, D) → (…, V) float32."""
        raise NotImplementedError

    # Features.

    def contexts_of(self, read: str) -> tuple[str, ...]:
        """The contexts that go with a read."""
        return self.contexts

    def recommended_context(self, read: str) -> str:
        """The fullest of them in orders that the model was trained in: of "raster" alone not the reversed one."""
        contexts = self.contexts_of(read)
        return contexts[-1] if self.trained_order == "random" else [name for name in contexts if name != "reverse"][-1]

    def layers_of(self, read: str) -> range:
        """The blocks whose output has features of a read."""
        return range(self.config.num_layers)

    def middle_layer(self, read: str) -> int:
        """The block in the middle of those, from which features are read where nothing better is known."""
        layers = self.layers_of(read)
        return layers[(len(layers) - 1) // 2]

    def final_norm(self, read: str) -> nn.Module:
        """The norm behind the last of those."""
        raise NotImplementedError

    def check_view(self, context: str | None, read: str) -> str:
        """`context`, or for None the recommended one; ValueError that says why if the model lacks it or the read."""
        name = type(self).__name__
        if read not in self.reads:
            raise ValueError(f"read must be one of {', '.join(self.reads)} with {name}; got {read!r}")
        contexts = self.contexts_of(read)
        if context is not None and context not in contexts:
            sequence.check_choice("context", context, sequence.CONTEXTS)
            raise ValueError(
                f"context must be one of {', '.join(contexts)} with {name} and read={read!r}, got {context!r}: "
                f"{self.why_not(context, read)}"
            )
        return context or self.recommended_context(read)

    def why_not(self, context: str, read: str) -> str:
        """The reason why a context does not go with a read."""
        return f"{type(self).__name__} was trained in one order, and has never seen an image the other way round"

    def reading(
        self, tokens: Tensor, classes: Indices | None, order: Indices | None, *, context: str, reads: Sequence[str]
    ) -> Reading:
        """The pass in which these reads are found; one read alone unless `reads_together`."""
        raise NotImplementedError

    # Checks.

    def own_order(self) -> Tensor:
        """The order where none is given, (1, N): raster."""
        return sequence.raster_order(self.config.num_tokens, self.device)

    def training_order(
        self, batch: int, generator: torch.Generator, device: torch.device | str | None = None
    ) -> Tensor:
        """The orders of a training step on `device`: (B, N) int64, drawn for each image, or the only one, (1, N)."""
        if self.fixed_order:
            return self.own_order().to(device)
        return sequence.random_orders(batch, self.config.num_tokens, generator).to(device)

    def several_orders(self, count: int, seed: int = 0) -> Tensor:
        """`sequence.antithetic_orders`, (count, N); of a fixed order that one alone, ValueError for more."""
        drawn = sequence.antithetic_orders(count, self.config.num_tokens, seed)
        if not self.fixed_order:
            return drawn
        if count > 1:
            raise ValueError(f"{count} orders were asked for, but {type(self).__name__} knows one order only")
        return self.own_order().cpu()

    def check_order(self, order: Indices | None, batch: int) -> Tensor:
        """`order` as (B or 1, N) int64 on the model's device; None gives its own. ValueError if it cannot be."""
        if order is None:
            return self.own_order()
        order = torch.as_tensor(order)
        on_host = sequence.can_look_at(order)
        check = sequence.check_order if on_host else sequence.order_rows
        order = check(order, self.config.num_tokens, batch)
        if self.fixed_order and on_host and (order != self.own_order().cpu()).any():
            raise ValueError(
                f"{type(self).__name__} was trained in one order and knows no other: leave the order out (None)"
            )
        return order.to(self.device)

    def check_tokens(self, tokens: Tensor) -> int:
        """The batch size of `tokens` (B, N), or ValueError if they do not fit this model."""
        expected, vocab = self.config.num_tokens, self.config.vocab_size
        if tokens.dim() != 2 or tokens.shape[1] != expected or tokens.is_floating_point() or tokens.dtype == torch.bool:
            raise ValueError(
                f"tokens must be integers of shape (B, {expected}); got {tuple(tokens.shape)}, {tokens.dtype}"
            )
        # Elsewhere the embedding itself refuses bad codes.
        if sequence.can_look_at(tokens):
            lowest, highest = (int(bound) for bound in torch.aminmax(tokens.long()))
            if lowest < 0 or highest >= vocab:
                raise ValueError(
                    f"tokens must lie in 0 … {vocab - 1}; got {lowest} … {highest}. "
                    "Were they made by another tokenizer?"
                )
        return tokens.shape[0]
