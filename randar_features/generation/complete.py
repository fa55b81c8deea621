"""From checked input to a decoding task and its tokens; every way of generating goes through `complete`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor, nn

from randar_features import sequence
from randar_features.generation.decode import Decoded, DecodingTask, Guidance, decode
from randar_features.generation.sampling import Sampling, Stream, random_order, substream
from randar_features.generation.schedule import decoding_schedule, recommended_steps
from randar_features.layers import KVCache
from randar_features.models import RandAR

FIXED_ORDERS = {
    "raster": sequence.raster_order,
    "spiral": sequence.spiral_order,
    "centre_out": sequence.centre_out_order,
    "hierarchical": sequence.hierarchical_order,
}
ORDERS = ("random", *FIXED_ORDERS, "spread", "confidence")


def complete(
    transformer: RandAR,
    classes: Tensor,
    *,
    seeds: Tensor,
    steps: int | None,
    guidance: Guidance,
    order: str | Tensor | None,
    sampling: Sampling,
    tokens: Tensor | None,
    known: Tensor | None,
    cache: KVCache | None,
) -> Decoded:
    """`generate` on checked input. Images with as many known tokens run together."""
    batch, num_tokens = len(classes), transformer.config.num_tokens
    if tokens is None or known is None:
        tokens = torch.zeros(batch, num_tokens, dtype=torch.int64, device=classes.device)
        known = torch.zeros_like(tokens, dtype=torch.bool)
    tokens = tokens.to(classes.device, torch.int64)
    order = check_order(order, num_tokens, batch)
    counts = known.sum(dim=1).tolist()
    cache = cache or transformer.new_cache(guidance.branches * max(map(counts.count, counts)))
    result = Decoded(torch.empty_like(tokens), torch.empty_like(tokens))
    for count in sorted(set(counts)):
        index = torch.tensor([i for i, own in enumerate(counts) if own == count], device=classes.device)
        schedule = decoding_schedule(num_tokens - count, steps or recommended_steps(num_tokens - count))
        locations = arrange(order, seeds, index, schedule, known[index])
        task = DecodingTask(
            classes=classes[index],
            order=locations,
            known=tokens[index].gather(1, locations[:, :count]),
            schedule=schedule,
            guidance=guidance,
            sampling=sampling,
            seeds=substream(seeds[index], Stream.TOKENS),
            rotary=transformer.rotary,
            by_confidence=isinstance(order, str) and order == "confidence",
        )
        with evaluating(transformer):
            result.tokens[index], result.order[index] = decode(transformer, task, cache)
    return result


def arrange(order: str | Tensor, seeds: Tensor, index: Tensor, schedule: Sequence[int], known: Tensor) -> Tensor:
    """The orders of the images at `index`, known locations first: (b, N). `known` is theirs, (b, N)."""
    num_tokens, device = known.shape[1], seeds.device
    if isinstance(order, Tensor):
        orders = order.to(device).expand(len(seeds), -1)[index]
    elif order == "random":
        orders = random_order(substream(seeds[index], Stream.ORDER), num_tokens)
    elif order == "spread":
        rows = [spread_order(tuple(schedule), tuple(row)) for row in known.tolist()]
        orders = torch.cat(rows).to(device)
    else:
        name = "raster" if order == "confidence" else order
        orders = FIXED_ORDERS[name](num_tokens).to(device).expand(len(index), -1)
    return sequence.known_first(orders, known)


@lru_cache(maxsize=256)
def spread_order(schedule: tuple[int, ...], known: tuple[bool, ...]) -> Tensor:
    """`sequence.spread_order`, computed once for each schedule and known region."""
    return sequence.spread_order(len(known), schedule, torch.tensor(known))


def check_order(order: str | Tensor | None, num_tokens: int, batch: int) -> str | Tensor:
    """A name out of `ORDERS`, or (1 or B, N) permutations; ValueError otherwise."""
    if order is None:
        return "random"
    if isinstance(order, str):
        sequence.check_choice("order", order, ORDERS)
        return order
    return sequence.check_order(order, num_tokens, batch)


def as_classes(classes: Tensor | Sequence[int] | int, transformer: RandAR) -> Tensor:
    """(B,) int64 on the model's device; ValueError unless all are in 0 … C (C: the null class)."""
    if classes is None or isinstance(classes, str):
        null = transformer.config.num_classes
        raise ValueError(f"classes must be integers, {null} for the null class; got {classes!r}")
    classes = torch.as_tensor(classes)
    classes = classes[None] if classes.dim() == 0 else classes
    if classes.dim() != 1 or not len(classes) or classes.is_floating_point() or classes.dtype == torch.bool:
        raise ValueError(f"classes must be one integer an image; got {tuple(classes.shape)}, {classes.dtype}")
    lowest, highest, null = int(classes.min()), int(classes.max()), transformer.config.num_classes
    if not 0 <= lowest <= highest <= null:
        raise ValueError(
            f"classes must lie in 0 … {null - 1}, or be {null} for the null class; got {lowest} … {highest}"
        )
    return classes.to(transformer.rotary.device, torch.int64)


def as_known(tokens: Tensor | None, known: Tensor | None, transformer: RandAR, batch: int) -> Tensor | None:
    """Which tokens are given, (B, N) boolean on the model's device, or None if there are none."""
    if tokens is None and known is None:
        return None
    if tokens is None or known is None:
        raise ValueError("tokens and known go together: the tokens to continue from, and which of them are given")
    num_tokens = transformer.config.num_tokens
    if known.dtype != torch.bool or known.shape not in ((num_tokens,), (batch, num_tokens)):
        raise ValueError(
            f"known must be boolean of shape ({num_tokens},) or ({batch}, {num_tokens}); "
            f"got {tuple(known.shape)}, {known.dtype}"
        )
    if transformer.check_tokens(torch.where(known.to(tokens.device), tokens, 0)) != batch:
        raise ValueError(f"{len(tokens)} rows of tokens for {batch} classes")
    known = known.expand(batch, -1).to(transformer.rotary.device)
    if known.all(dim=1).any():
        raise ValueError("all tokens of an image are known: nothing is left to generate")
    return known


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout off inside, and the mode as before behind."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
