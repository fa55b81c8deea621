"""From checked input to a decoding task and its tokens; every way of generating goes through `complete`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from randar_features import sequence
from randar_features.generation.decode import Decoded, DecodingTask, Guidance
from randar_features.generation.recipe import recipe_of
from randar_features.generation.recording import draw, new_cache
from randar_features.generation.sampling import Sampling, Stream, random_order, substream
from randar_features.generation.schedule import Scale
from randar_features.generation.stepping import stepper_of
from randar_features.layers.embedding import check_classes
from randar_features.layers.kv_cache import KVCache
from randar_features.layers.packed_linear import check_packed, pack_weights, packed_format, product_dtype
from randar_features.models import ImageTransformer
from randar_features.models.base import check_tokens, evaluating, order_of
from randar_features.precision import DType, check_dtype, compute_dtype, computing_in, fitted

FIXED_ORDERS = {
    "raster": sequence.raster_order,
    "spiral": sequence.spiral_order,
    "centre_out": sequence.centre_out_order,
    "hierarchical": sequence.hierarchical_order,
}
ORDERS = ("random", *FIXED_ORDERS, "spread", "confidence")


def complete(
    transformer: ImageTransformer,
    classes: Tensor,
    *,
    seeds: Tensor,
    steps: int | None,
    guidance: Guidance,
    order: str | Tensor | None,
    sampling: Sampling,
    schedule: str | None = None,
    tokens: Tensor | None = None,
    known: Tensor | None = None,
    cache: KVCache | None = None,
    dtype: DType = None,
) -> Decoded:
    """`generate` on checked input. Images with the same number of known tokens run together.

    Orders, schedules and steps are checked before weights are packed in another number format.
    """
    batch, num_tokens = len(classes), transformer.config.num_tokens
    classes, guidance = without_class(classes, guidance, transformer.config.num_classes)
    if tokens is None or known is None:
        tokens = torch.zeros(batch, num_tokens, dtype=torch.int64, device=classes.device)
        known = torch.zeros_like(tokens, dtype=torch.bool)
    tokens = tokens.to(classes.device, torch.int64)
    counts = known.sum(dim=1).tolist()
    order, schedules = plan(transformer, known, order, schedule, steps)
    sequences = guidance.branches * max(map(counts.count, counts))
    check_cache(cache, transformer, sequences, num_tokens, dtype)
    result = Decoded(torch.empty_like(tokens), torch.empty_like(tokens))
    with in_format(transformer, dtype) as model, evaluating(model), computing_in(None, classes.device):
        cache = new_cache(model, sequences) if cache is None else cache
        for count, counted in schedules.items():
            index = torch.tensor([i for i, own in enumerate(counts) if own == count], device=classes.device)
            locations = arrange(order, seeds, index, counted, known[index])
            task = DecodingTask(
                classes=classes[index],
                order=locations,
                known=tokens[index].gather(1, locations[:, :count]),
                schedule=counted,
                guidance=guidance,
                sampling=sampling,
                seeds=substream(seeds[index], Stream.TOKENS),
                rotary=model.rotary,
                by_confidence=isinstance(order, str) and order == "confidence",
            )
            result.tokens[index], result.order[index] = draw(model, task, cache)
    return result


def plan(
    transformer: ImageTransformer, known: Tensor, order: str | Tensor | None, schedule: str | None, steps: int | None
) -> tuple[str | Tensor, dict[int, list[int]]]:
    """The order, and the tokens of each step for each number of `known` tokens (B, N); ValueError if there is none."""
    order, recipe, num_tokens = own_order(order, transformer, known), recipe_of(transformer), known.shape[1]
    counts = sorted(set(known.sum(dim=1).tolist()))
    return order, {count: recipe.schedule(schedule, num_tokens, count, steps) for count in counts}


def without_class(classes: Tensor, guidance: Guidance, null: int) -> tuple[Tensor, Guidance]:
    """A guidance of 0 as the null class in one branch; any other as it is."""
    if guidance.scale != Scale(0, 0) or guidance.spatial is not None:
        return classes, guidance
    return torch.full_like(classes, null), replace(guidance, scale=Scale(1.0, 1.0))


def arrange(order: str | Tensor, seeds: Tensor, index: Tensor, schedule: Sequence[int], known: Tensor) -> Tensor:
    """The orders of the images at `index`, known locations first: (b, N). `known` is theirs, (b, N)."""
    num_tokens, device = known.shape[1], seeds.device
    if isinstance(order, Tensor):
        orders = order.to(device).expand(len(seeds), -1)[index]
    elif order == "random":
        orders = random_order(substream(seeds[index], Stream.ORDER), num_tokens)
    elif order == "spread":
        orders = torch.cat([spread_order(tuple(schedule), tuple(own)) for own in known.tolist()]).to(device)
    else:
        name = "raster" if order == "confidence" else order
        orders = FIXED_ORDERS[name](num_tokens).to(device).expand(len(index), -1)
    return sequence.known_first(orders, known)


@lru_cache(maxsize=256)
def spread_order(schedule: tuple[int, ...], known: tuple[bool, ...]) -> Tensor:
    """`sequence.spread_order`, computed once for each schedule and known region."""
    return sequence.spread_order(len(known), schedule, torch.tensor(known, device="cpu"))


def own_order(order: str | Tensor | None, transformer: ImageTransformer, known: Tensor) -> str | Tensor:
    """`check_order`; for a model with one order that order, whose first tokens `known` (B, N) must then be."""
    batch, num_tokens = known.shape
    if not transformer.fixed_order:
        return check_order(order, num_tokens, batch, transformer.trained_order)
    name = type(transformer).__name__
    if isinstance(order, str):
        raise ValueError(f"{name} knows one order only, so that order={order!r} cannot be: leave it out (None)")
    own = order_of(transformer, order, batch)
    if not torch.equal(sequence.known_first(own.expand(batch, -1), known), own.expand(batch, -1)):
        raise ValueError(
            f"{name} draws its tokens in one order, each from those before it, and can go on from the first of them "
            "alone; to draw any others anew takes a model of any order, RandAR or ARPG"
        )
    return own


def known_orders(transformer: ImageTransformer) -> list[str | None]:
    """The orders that a model was trained for: all, or raster alone, or None where it has one order of its own."""
    if transformer.fixed_order:
        return [None]
    return list(ORDERS) if transformer.trained_order == "random" else [transformer.trained_order]


def check_order(order: str | Tensor | None, num_tokens: int, batch: int, default: str) -> str | Tensor:
    """A name out of `ORDERS`, `default` for None, or (1 or B, N) permutations; ValueError otherwise."""
    if order is None:
        return default
    if isinstance(order, str):
        sequence.check_choice("order", order, ORDERS)
        return order
    return sequence.check_order(order, num_tokens, batch)


def as_classes(
    classes: Tensor | Sequence[int] | int | None, transformer: ImageTransformer, batch: int | None = None
) -> Tensor:
    """(B,) int64 on the model's device; ValueError unless all are in 0 … C (C: the null class).

    With `batch` one class is for all of that many images, and None the null class for all.
    """
    null = transformer.config.num_classes
    classes = null if classes is None and batch is not None else classes
    if classes is None:
        raise ValueError(f"classes must be integers, {null} for the null class; got None")
    several = classes if sequence.has_several(classes) else [classes]
    if not isinstance(classes, Tensor) and any(isinstance(one, str) for one in several):
        raise ValueError(
            f"a transformer knows its classes by number alone, got {classes!r}: give the model itself in its place, "
            "which knows their names, or numbers"
        )
    try:
        given = sequence.as_tensor(classes).cpu()
    except TypeError:
        raise ValueError(f"classes must be one integer an image; got {classes!r}") from None
    given = given[None] if given.dim() == 0 else given
    if given.dim() == 1 and not len(given):
        raise ValueError("no images: classes is empty, expected one integer an image")
    if given.dim() != 1:
        raise ValueError(f"classes must be one integer an image; got {tuple(given.shape)}, {given.dtype}")
    if batch is not None and len(given) not in (1, batch):
        raise ValueError(f"{len(given)} classes for {batch} images: give one for all or one for each")
    return check_classes(given.expand(batch or len(given)), batch or len(given), null).to(transformer.device)


def as_known(tokens: Tensor | None, known: Tensor | None, transformer: ImageTransformer, batch: int) -> Tensor | None:
    """Which tokens are given, (B, N) boolean on the model's device, or None if there are none."""
    if tokens is None and known is None:
        return None
    if tokens is None or known is None:
        raise ValueError("tokens and known go together: the tokens to continue from, and which of them are given")
    if not (isinstance(tokens, Tensor) and isinstance(known, Tensor)):
        raise TypeError(f"tokens and known must be tensors; got {type(tokens).__name__} and {type(known).__name__}")
    num_tokens = transformer.config.num_tokens
    if known.dtype != torch.bool or known.shape not in ((num_tokens,), (batch, num_tokens)):
        raise ValueError(
            f"known must be boolean of shape ({num_tokens},) or ({batch}, {num_tokens}); "
            f"got {tuple(known.shape)}, {known.dtype}"
        )
    if tokens.dim() == 2 and len(tokens) != batch:
        raise ValueError(f"tokens of {len(tokens)} images for {batch} classes")
    given = tokens.shape == (batch, num_tokens)  # whatever the others are
    check_tokens(transformer, tokens.masked_fill(~known.to(tokens.device), 0) if given else tokens)
    known = known.expand(batch, -1).to(transformer.device)
    if known.all(dim=1).any():
        raise ValueError("all tokens of an image are known: nothing is left to generate")
    return known


def stated_format(transformer: ImageTransformer, dtype: DType) -> torch.dtype | None:
    """The format that `dtype` states, None if it states none; ValueError if the model cannot decode in it."""
    if check_dtype(dtype) is None:
        return None
    own = compute_dtype(dtype, transformer.device, product_dtype(transformer))
    check_packed(transformer, own)
    return own


def check_cache(
    cache: KVCache | None, transformer: ImageTransformer, sequences: int, num_tokens: int, dtype: DType
) -> None:
    """TypeError unless it is a key-value cache or None, ValueError unless that many sequences of N tokens fit it.

    What a model that is packed for the call alone needs is known after that: `Stepper` refuses such a cache.
    """
    if cache is not None and not isinstance(cache, KVCache):
        raise TypeError(
            f"cache must be a key-value cache, as generation.new_cache makes it, or None; got {type(cache).__name__}"
        )
    if cache is not None and stated_format(transformer, dtype) in (None, packed_format(transformer)):
        shape = stepper_of(transformer).cache_shape(transformer, sequences, num_tokens)
        cache.require(shape, product_dtype(transformer), transformer.device)


@contextmanager
def in_format(transformer: ImageTransformer, dtype: DType) -> Iterator[ImageTransformer]:
    """The transformer to decode with in a number format.

    For another format than its own it is a copy with packed weights (`pack_weights`), whose making takes about as
    long as one step: for many calls pack them once, and leave the format out.

    Args:
        transformer: the model.
        dtype: "float32", "bfloat16", "float16", the torch dtype of that name, "auto" for the fastest of this machine,
            or None: as the weights are, or as the caller's autocast has it.

    Raises:
        ValueError: the weights are packed in another format than this.
    """
    own, held = stated_format(transformer, dtype), product_dtype(transformer)
    if own is None:
        yield transformer
        return
    if packed_format(transformer) is None and own != held:
        transformer = fitted(transformer, own, held)
        transformer = transformer if own == torch.float32 else pack_weights(transformer, own)
    with computing_in(torch.float32, transformer.device):  # packed layers need no autocast
        yield transformer
