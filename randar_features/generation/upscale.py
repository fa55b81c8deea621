"""Twice the resolution from the same weights, without training (RandAR, arXiv 2412.01827, section 3.4)."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from randar_features import sequence
from randar_features.generation.classes import ClassesLike, resolve
from randar_features.generation.complete import (
    arrange,
    as_classes,
    check_cache,
    check_order,
    complete,
    in_format,
    stated_format,
)
from randar_features.generation.decode import DecodingTask
from randar_features.generation.recipe import GuidanceLike, recipe_of
from randar_features.generation.recording import draw
from randar_features.generation.sampling import (
    Sampling,
    SeedLike,
    Stream,
    image_seeds,
    is_number,
    random_order,
    substream,
)
from randar_features.generation.schedule import as_scale, check_steps, decoding_schedule
from randar_features.hub import Model
from randar_features.layers.kv_cache import KVCache
from randar_features.layers.rope import fine_grid_rotary_table
from randar_features.models import ImageTransformer, RandAR
from randar_features.models.base import check_tokens, evaluating
from randar_features.precision import DType, computing_in

SPATIAL_GUIDANCE = (1.5, 2.5)


@torch.no_grad()
def upscale_tokens(
    transformer: ImageTransformer | Model,
    classes: ClassesLike,
    *,
    steps: int | None = None,
    guidance: GuidanceLike = None,
    spatial_guidance: float | tuple[float, float] = SPATIAL_GUIDANCE,
    spatial_drop: float = 0.5,
    order: str | Tensor | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: SeedLike = None,
    tokens: Tensor | None = None,
    cache: KVCache | None = None,
    schedule: str | None = None,
    dtype: DType = None,
) -> Tensor:
    """Generate the tokens of a 2G×2G image: first an ordinary G×G image, then the locations between its tokens.

    The small image takes the even rows and columns. The other tokens are decoded after it, in parallel steps, with the
    rotary angles of the fine grid. The class and the small image guide them: logits = none + w·(full − spatial) +
    v·(spatial − none), where "none" lacks a random share of the small image.

    Args:
        transformer, classes, temperature, top_k, top_p, generator, dtype: as for `generate`.
        steps: S in 1 … 4N for both images; −1 for one token a step; None for the recommended number of each.
        guidance: w, (start, end) or one number; 1: no guidance at all.
        spatial_guidance: v, (start, end) or one number; 1: only the class guides.
        spatial_drop: share in [0, 1] of the small image's tokens that "none" lacks, drawn for each image.
        order: as for `generate`, over the fine grid. Locations of even row and column always come first.
        tokens: a small image (B, N) to start from, instead of a generated one.
        cache: from `new_cache`, for 3·B sequences of 4N tokens.
        schedule: None or "randar".

    Returns:
        Tokens (B, 4N) int64 in raster order of the fine grid.
    """
    resolved, indices = resolve(transformer, classes)
    check_upscaling(resolved, spatial_drop, schedule)
    classes = as_classes(indices, resolved)
    seeds, num_tokens = image_seeds(generator, len(classes), classes.device), resolved.config.num_tokens
    steps = check_steps(steps, 4 * num_tokens)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    order = check_order(order, 4 * num_tokens, len(classes), resolved.trained_order)
    recipe = recipe_of(resolved)
    by_class, spatial = recipe.guide(guidance), as_scale(spatial_guidance)
    guide = replace(by_class, spatial=spatial)
    check_cache(cache, resolved, guide.branches * len(classes), 4 * num_tokens, dtype)
    counts = decoding_schedule(4 * num_tokens, steps or recipe.recommended_steps(4 * num_tokens), num_tokens)
    locations = fine_orders(order, seeds, counts, num_tokens)
    coarse = coarse_orders(locations, num_tokens)
    if tokens is not None and check_tokens(resolved, tokens) != len(classes):
        raise ValueError(f"{len(tokens)} small images for {len(classes)} classes")
    with in_format(resolved, dtype) as model:
        if tokens is None:
            by_step = isinstance(order, str) and order in ("spread", "confidence")  # each step decides what is next
            own = order if by_step else coarse
            tokens = complete(
                model, classes, seeds=seeds, steps=steps, guidance=by_class, order=own, sampling=sampling, cache=cache
            ).tokens
        task = DecodingTask(
            classes=classes,
            order=locations,
            known=tokens.to(classes.device, torch.int64).gather(1, coarse),
            schedule=counts,
            guidance=guide,
            sampling=sampling,
            seeds=substream(seeds, Stream.FINE_TOKENS),
            rotary=fine_rotary(model),
            dropped=random_share(substream(seeds, Stream.SPATIAL_DROP), num_tokens, spatial_drop),
            by_confidence=isinstance(order, str) and order == "confidence",
        )
        with evaluating(model), computing_in(None, model.device):
            return draw(model, task, cache).tokens


def check_upscaling(transformer: ImageTransformer, spatial_drop: float, schedule: str | None) -> None:
    """ValueError for a model that cannot go to twice the resolution, or settings that do not go with it."""
    if not (is_number(spatial_drop) and 0 <= spatial_drop <= 1):
        raise ValueError(f"spatial_drop must be a share in [0, 1], got {spatial_drop!r}")
    if not isinstance(transformer, RandAR):
        raise ValueError(
            "twice the resolution takes a RandAR, which is told where a token is to be by an instruction of any "
            f"angle; got {type(transformer).__name__}"
        )
    if transformer.config.free_instructions:
        raise ValueError(
            "twice the resolution takes instructions of any angle; this model was made with free_instructions=True, "
            f"and has learned those of its {transformer.config.num_tokens} locations alone"
        )
    if schedule not in (None, "randar"):
        raise ValueError(f"at twice the resolution the schedule is RandAR's own; got {schedule!r}: leave it out")


def check_settings(
    transformer: ImageTransformer,
    guidance: GuidanceLike,
    *,
    steps: int | None = None,
    schedule: str | None = None,
    order: str | Tensor | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    dtype: DType = None,
) -> None:
    """The errors of `upscale_tokens` for settings that a model cannot be drawn with."""
    check_upscaling(transformer, 0.0, schedule)
    num_tokens = 4 * transformer.config.num_tokens
    check_steps(steps, num_tokens)
    check_order(order, num_tokens, 1, transformer.trained_order)
    Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    recipe_of(transformer).guide(guidance)
    stated_format(transformer, dtype)


def fine_orders(order: str | Tensor, seeds: Tensor, schedule: Sequence[int], num_tokens: int) -> Tensor:
    """Orders over the fine grid, the N locations of even row and column first: (B, 4N)."""
    side = 2 * sequence.grid_side(num_tokens)
    even = torch.zeros(side, side, dtype=torch.bool, device="cpu")
    even[::2, ::2] = True
    known = even.flatten().to(seeds.device).expand(len(seeds), -1)
    every = torch.arange(len(seeds), device=seeds.device)
    return arrange(order, seeds, every, schedule, known)


def coarse_orders(fine: Tensor, num_tokens: int) -> Tensor:
    """The first N locations of fine orders (B, 4N) as locations of the small image: (B, N)."""
    side = sequence.grid_side(num_tokens)
    even = fine[:, :num_tokens]
    return even // (2 * side) // 2 * side + even % (2 * side) // 2


def fine_rotary(transformer: ImageTransformer) -> Tensor:
    """Angles of the class token and the fine grid: (1 + 4N, d/2, 2) float32."""
    config = transformer.config
    table = fine_grid_rotary_table(config.grid, config.head_dim, config.rope_base)
    return table.to(transformer.device)


def random_share(seeds: Tensor, count: int, share: float) -> Tensor:
    """⌊share·count⌋ of `count` places, drawn for each seed: (B, count) boolean."""
    return random_order(seeds, count) < math.floor(share * count)
