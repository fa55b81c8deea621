"""Generate tokens from classes, or from known tokens the missing ones."""

from typing import TypedDict

import torch
from torch import Tensor

from randar_features.generation.classes import ClassesLike, resolve
from randar_features.generation.complete import (
    as_classes,
    as_known,
    check_cache,
    complete,
    plan,
    stated_format,
    without_class,
)
from randar_features.generation.recipe import GuidanceLike, recipe_of
from randar_features.generation.sampling import Sampling, SeedLike, image_seeds
from randar_features.generation.schedule import check_steps
from randar_features.generation.upscale import upscale_tokens
from randar_features.hub import Model
from randar_features.layers.kv_cache import KVCache
from randar_features.models import ImageTransformer
from randar_features.precision import DType
from randar_features.sequence import as_index


class DecodingSettings(TypedDict, total=False):
    """Arguments of `generate` that editing hands on to it."""

    steps: int | None
    schedule: str | None
    order: str | Tensor | None
    temperature: float
    top_k: int
    top_p: float
    cache: KVCache | None
    dtype: DType


def check_settings(
    transformer: ImageTransformer,
    classes: Tensor,
    known: Tensor,
    guidance: GuidanceLike,
    *,
    steps: int | None = None,
    schedule: str | None = None,
    order: str | Tensor | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    cache: KVCache | None = None,
    dtype: DType = None,
) -> None:
    """The errors of `generate` for settings that do not go with these classes (B,) and known tokens (B, N)."""
    Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    num_tokens, together = known.shape[1], known.sum(dim=1).unique(return_counts=True)[1].max()
    plan(transformer, known, order, schedule, check_steps(steps, num_tokens))
    stated_format(transformer, dtype)
    _, guide = without_class(classes, recipe_of(transformer).guide(guidance), transformer.config.num_classes)
    check_cache(cache, transformer, guide.branches * int(together), num_tokens, dtype)


@torch.no_grad()
def generate(
    transformer: ImageTransformer | Model,
    classes: ClassesLike,
    *,
    steps: int | None = None,
    guidance: GuidanceLike = None,
    order: str | Tensor | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: SeedLike = None,
    tokens: Tensor | None = None,
    known: Tensor | None = None,
    scale: int = 1,
    cache: KVCache | None = None,
    schedule: str | None = None,
    dtype: DType = None,
) -> Tensor:
    """Generate image tokens for classes, with the decoding that was published with the model.

    RandAR and ARPG decode in any order and any number of parallel steps. LlamaGen decodes token after token, PAR in
    groups of four. These two have one fixed order and can only continue from its first tokens.

    Args:
        transformer: a model's transformer, or the model. Dropout is off during generation.
        classes: (B,) class indices, C for the null class; if `transformer` is a model, also names of its classes.
        steps: number of steps for the unknown tokens, 1 … N; −1: one token in each step; None: as recommended. For
            N = 256 that is 88 with RandAR and 64 with ARPG, in proportion for other N, and one token in each step
            for a model trained in raster order, unless the model states its own `recommended_steps`. LlamaGen always
            takes N steps, PAR 4 + (N − 4) / 4.
        guidance: scale of the classifier-free guidance: one number, or a pair for no token and for all tokens. A step
            takes the scale for the share of tokens known before it (with ARPG: after it). 0 draws without the class,
            1 with the class alone. None: as recommended, (1, 4) with RandAR, (1, 4.5) with ARPG, 2 with LlamaGen and
            PAR.
        order: None: the order of training; or permutations (N,) or (B, N) of the raster locations; or one of

            - "random" (another one for each image), "raster", "spiral" (outwards), "centre_out", "hierarchical"
              (coarse to fine);
            - "spread": the locations of a step are near known ones and far from each other;
            - "confidence": each step predicts all unknown locations and keeps those that the model is surest of.
        temperature, top_k, top_p: see `Sampling`; top_k = 1 is the greedy choice.
        generator: a `torch.Generator`, a seed, (B,) seeds of the images, or None for torch's default generator. The
            same seeds give the same tokens for any batch size, see `sampling`.
        tokens, known: tokens (B, N) in raster order to continue from, and a boolean mask (N,) or (B, N) of those that
            are given; the values of the others are ignored.
        scale: 2: twice the resolution, as `upscale_tokens` with its defaults.
        cache: from `new_cache`, to allocate memory once for many calls. It needs room for B sequences, 2·B with
            guidance, or 3·B of 4N tokens at twice the resolution.
        schedule: how tokens are spread over the steps: "randar" (`decoding_schedule`), "arccos" or "cosine"
            (`share_schedule`, ARPG's); None: the model's first choice.
        dtype: number format, see `in_format`; None: as the transformer is, float32 unless it was loaded or packed in
            another.

    Returns:
        Tokens (B, N) int64 in raster order; (B, 4N) with scale = 2.
    """
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    resolved, indices = resolve(transformer, classes)
    if as_index("scale", scale) == 2:
        if tokens is not None or known is not None:
            raise ValueError("known tokens cannot be given with scale=2; give them to upscale_tokens")
        return upscale_tokens(
            resolved, indices, steps=steps, guidance=guidance, order=order, temperature=temperature, top_k=top_k,
            top_p=top_p, generator=generator, cache=cache, schedule=schedule, dtype=dtype,
        )  # fmt: skip
    if scale != 1:
        raise ValueError(f"scale must be 1 or 2, got {scale}")
    classes = as_classes(indices, resolved)
    steps, known = check_steps(steps, resolved.config.num_tokens), as_known(tokens, known, resolved, len(classes))
    return complete(
        resolved, classes, seeds=image_seeds(generator, len(classes), classes.device), steps=steps, schedule=schedule,
        guidance=recipe_of(resolved).guide(guidance), order=order, sampling=sampling, tokens=tokens, known=known,
        cache=cache, dtype=dtype,
    ).tokens  # fmt: skip
