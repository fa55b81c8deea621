"""What generators take: tokens, orders, contexts and reads; errors say what does not fit, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from randar_features import sequence

if TYPE_CHECKING:
    from randar_features.models.base import ImageTransformer, Indices


def check_tokens(transformer: ImageTransformer, tokens: Tensor) -> int:
    """The batch size of `tokens` (B, N); TypeError for no tensor, ValueError if they do not fit this model."""
    expected, vocab = transformer.config.num_tokens, transformer.config.vocab_size
    if not isinstance(tokens, Tensor):
        raise TypeError(f"tokens must be a tensor of integers (B, {expected}); got {type(tokens).__name__}")
    if tokens.dim() != 2 or tokens.shape[1] != expected or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(f"tokens must be integers of shape (B, {expected}); got {tuple(tokens.shape)}, {tokens.dtype}")
    # Elsewhere the embedding itself refuses bad codes.
    if sequence.can_look_at(tokens):
        lowest, highest = (int(bound) for bound in torch.aminmax(tokens.long()))
        if lowest < 0 or highest >= vocab:
            raise ValueError(
                f"tokens must lie in 0 … {vocab - 1}; got {lowest} … {highest}. Were they made by another tokenizer?"
            )
    return tokens.shape[0]


def check_order(transformer: ImageTransformer, order: Indices | None, batch: int) -> Tensor:
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


def check_context(transformer: ImageTransformer, context: str | None, read: str) -> str:
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
