"""Common parts of the generators: angles, fresh weights, and the names of their parts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from randar_features import sequence
from randar_features.layers.attention import Mask, Memory, Positions
from randar_features.layers.block import Block, RMSNorm
from randar_features.layers.config import TransformerConfig
from randar_features.layers.cross_entropy import linear_cross_entropy
from randar_features.layers.embedding import ClassEmbedding
from randar_features.layers.rope import grid_rotary_table

Indices = Tensor | Sequence[int]


class FeaturePass(NamedTuple):
    """A pass through the blocks that have a read, and where in it the features of image tokens are read."""

    x: Tensor
    """(B, L, D) before the first of the blocks."""
    rotary: Tensor
    """(B or 1, L, d/2, 2)."""
    mask: Mask
    positions: Mapping[str, Positions]
    """The N positions of each read, in the order of `sequence.read_order`."""
    memory: Memory | None = None
    """What the blocks attend to in place of the sequence itself."""


class ImageTransformer(nn.Module):
    """`model(tokens, classes, order)` → logits; state-dict names are those of the published weights.

    A subclass makes its layers, says its sequence and which token sees which, and ends its construction with
    `initialize`. The parts that are here found by name are those of LlamaGen and what was made from it.

    Attributes:
        reads: at which tokens features may be read, and the contexts that go with each, the fullest last.
        reads_together: whether one pass has all reads.
        fixed_order: whether it knows one order only, its `own_order`.
        trained_order: "random", as the architecture is trained, or "raster", where it leaves a choice; in this order
            `generate` decodes where none is given, features are read, and the likelihood is measured.
        recommended_steps: parallel decoding steps for one image; None: as published for the architecture.
    """

    reads: ClassVar[Mapping[str, tuple[str, ...]]]
    reads_together: ClassVar[bool] = True
    fixed_order: ClassVar[bool] = False
    trained_order: str = "random"
    recommended_steps: int | None = None

    cls_embedding: Any  # a `ClassEmbedding`, or a method that does the same
    tok_embeddings: nn.Embedding
    layers: nn.Module
    norm: nn.Module
    output: nn.Module
    rotary: Tensor
    """(1 + N, d/2, 2) float32: angles of the class token, which are zero, and of the raster locations."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.token_dropout = nn.Dropout(config.token_dropout)
        self.register_buffer("rotary", _angles(config).to(torch.get_default_device()), persistent=False)

    def _make_layers(self) -> None:
        """The parts that are found by name, as LlamaGen has them."""
        config = self.config
        self.cls_embedding = ClassEmbedding(config.num_classes, config.dim)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.rotary.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self.code_embedding.weight.dtype

    @property
    def code_embedding(self) -> nn.Embedding:
        """The embedding whose first V vectors are the codes'."""
        return self.tok_embeddings

    @property
    def output_layer(self) -> nn.Module:
        """The layer that gives the logits."""
        return self.output

    @property
    def blocks(self) -> list[nn.Module]:
        """All blocks, in the order of their layer indices."""
        return list(self.layers.children())

    def final_norm(self, read: str) -> nn.Module:
        """The norm after the last of the blocks that have features of a read."""
        return self.norm

    def logits(self, x: Tensor) -> Tensor:
        """Final norm and output layer: (…, D) → (…, V) float32."""
        return self.output_layer(self.norm(x)).float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        # Angles stay float32 whatever the weights become: half precision would move far locations.
        self.rotary = _angles(self.config).to(self.rotary.device)
        return self

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights: N(0, 0.02²), norms 1, and a zero output layer."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02, generator=generator)
            elif name.endswith("norm.weight"):
                nn.init.ones_(parameter)
        nn.init.zeros_(self.output_layer.get_parameter("weight"))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep the inputs of the blocks alone, and compute the blocks again for the gradients (arXiv 1604.06174)."""
        for block in self.blocks:
            vars(block).pop("forward", None)
            if enable:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]

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
        return token_cross_entropy(self, states, tokens, order) if loss else self.logits(states)

    def embed(
        self,
        tokens: Tensor,
        classes: Indices | int | None = None,
        order: Indices | None = None,
        context: str = "single",
    ) -> tuple[Tensor, Tensor]:
        """The sequence's embeddings (B, L, D) and angles (B or 1, L, d/2, 2); the arguments as in `forward`."""
        order = order_of(self, order, check_tokens(self, tokens))
        tokens = sequence.to_order(tokens.to(self.device, torch.long), order)
        image = sequence.shown(self.token_dropout(self.code_embedding(tokens)), context)
        first = self.cls_embedding(classes, tokens.shape[0])[:, None]
        x, locations = self.lay_out(first, image, sequence.shown(order, context), torch.full_like(order[:, :1], -1))
        return x, self.rotary[locations + 1]

    def lay_out(self, first: Tensor, image: Tensor, order: Tensor, nowhere: Tensor) -> tuple[Tensor, Tensor]:
        """The whole sequence (B, L, D), and the location of each of its tokens (B or 1, L), −1 where it has none.

        Args:
            first: the class token (B, 1, D).
            image: the image tokens of all showings (B, M, D).
            order: their locations (B or 1, M).
            nowhere: the location of a token that has none, (B or 1, 1).
        """
        return torch.cat([first, image], dim=1), torch.cat([nowhere, order], dim=1)

    def predicting_states(self, tokens: Tensor, classes: Indices | int | None, order: Indices | None) -> Tensor:
        """What `logits` is given of a teacher-forced pass, (B, N, D); the arguments as in `forward`."""
        raise NotImplementedError

    def feature_pass(
        self, tokens: Tensor, classes: Indices | None, order: Indices | None, *, context: str, reads: Sequence[str]
    ) -> FeaturePass:
        """The pass that has these reads of images (B, N); one read alone unless `reads_together`."""
        raise NotImplementedError

    def sequence_length(self, context: str = "single") -> int:
        """Tokens of an image's sequence, shown as the context says; queries are none of them."""
        return sequence.sequence_length(self.config.num_tokens, context, tokens_per_location=1)

    def layers_of(self, read: str) -> range:
        """The blocks whose output has features of a read."""
        return range(self.config.num_layers)

    def own_order(self) -> Tensor:
        """The order where none is given, (1, N): raster."""
        return sequence.raster_order(self.config.num_tokens, self.device)


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Dropout off inside; afterwards the mode of each part is as before."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def token_cross_entropy(model: ImageTransformer, states: Tensor, tokens: Tensor, order: Indices | None) -> Tensor:
    """Mean cross-entropy, in nats, of `model.logits(states)` against raster tokens (B, N) in an order."""
    order = order_of(model, order, len(tokens))
    targets = sequence.to_order(tokens.to(model.device, torch.long), order)
    weight = model.output_layer.get_parameter("weight")
    return linear_cross_entropy(model.norm(states).flatten(0, 1), weight, targets.flatten())


def check_tokens(transformer: ImageTransformer, tokens: Tensor) -> int:
    """The batch size of `tokens` (B, N); TypeError for no tensor, ValueError if they do not fit this model."""
    expected, vocab = transformer.config.num_tokens, transformer.config.vocab_size
    if not isinstance(tokens, Tensor):
        raise TypeError(f"tokens must be a tensor of integers (B, {expected}); got {type(tokens).__name__}")
    if tokens.dim() != 2 or tokens.shape[1] != expected or not sequence.are_whole(tokens):
        raise ValueError(f"tokens must be integers of shape (B, {expected}); got {tuple(tokens.shape)}, {tokens.dtype}")
    # Elsewhere the embedding itself refuses bad codes.
    if sequence.can_look_at(tokens):
        lowest, highest = (int(bound) for bound in torch.aminmax(tokens.long()))
        if lowest < 0 or highest >= vocab:
            raise ValueError(
                f"tokens must lie in 0 … {vocab - 1}; got {lowest} … {highest}. Were they made by another tokenizer?"
            )
    return tokens.shape[0]


def order_of(transformer: ImageTransformer, order: Indices | None, batch: int) -> Tensor:
    """`order` as (B or 1, N) int64 on the model's device; None gives its own. ValueError if it cannot be."""
    if order is None:
        return transformer.own_order()
    order = sequence.check_order_shape(order, transformer.config.num_tokens, batch)
    if on_host := sequence.can_look_at(order):
        sequence.check_order(order, transformer.config.num_tokens)
    if transformer.fixed_order and on_host and (order != transformer.own_order().cpu()).any():
        raise ValueError(
            f"{type(transformer).__name__} was trained in one order and knows no other: leave the order out (None)"
        )
    return order.to(transformer.device)


def several_orders(transformer: ImageTransformer, count: int, seed: int = 0) -> Tensor:
    """`sequence.antithetic_orders`, (count, N); of a fixed order that one alone, ValueError for more."""
    drawn = sequence.antithetic_orders(count, transformer.config.num_tokens, seed)
    if not transformer.fixed_order:
        return drawn
    if count > 1:
        raise ValueError(f"{count} orders are too many: {type(transformer).__name__} knows one order only")
    return transformer.own_order().cpu()


def context_of(transformer: ImageTransformer, context: str | None, read: str) -> str:
    """`context`, or for None the recommended one; ValueError that says why if the model lacks it or the read.

    Recommended is the fullest context whose orders the model was trained in: of "raster" alone not the reversed.
    """
    name = type(transformer).__name__
    if read not in transformer.reads:
        raise ValueError(f"read must be one of {', '.join(transformer.reads)} with {name}; got {read!r}")
    contexts = transformer.reads[read]
    if context is None:
        return [each for each in contexts if transformer.trained_order == "random" or each != "reverse"][-1]
    if context in contexts:
        return context
    sequence.check_choice("context", context, sequence.CONTEXTS)
    reason = f"{name} was trained in one order, and has never seen an image the other way round"
    if len(contexts) == 1:
        reason = "a query sees the whole image after a single showing"
    raise ValueError(
        f"context must be one of {', '.join(contexts)} with {name} and read={read!r}, got {context!r}: {reason}"
    )


def middle_layer(transformer: ImageTransformer, read: str = "image") -> int:
    """The block in the middle of those with features of a read, where nothing better is known: 11 of 24."""
    layers = transformer.layers_of(read)
    return layers[(len(layers) - 1) // 2]


def _angles(config: TransformerConfig) -> Tensor:
    return grid_rotary_table(config.grid, config.head_dim, config.rope_base)
