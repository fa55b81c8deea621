"""Tokens from classes, or from some tokens the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

from randar_features.generation.complete import as_classes, as_known, complete
from randar_features.generation.decode import Guidance
from randar_features.generation.sampling import Sampling, SeedLike, image_seeds
from randar_features.generation.schedule import as_scale, check_steps
from randar_features.generation.upscale import upscale_tokens
from randar_features.layers import KVCache
from randar_features.models import RandAR


class DecodingSettings(TypedDict, total=False):
    """Arguments of `generate` that editing hands on to it."""

    steps: int | None
    order: str | Tensor | None
    temperature: float
    top_k: int
    top_p: float
    cache: KVCache | None


@torch.no_grad()
def generate(
    transformer: RandAR,
    classes: Tensor | Sequence[int] | int,
    *,
    steps: int | None = None,
    guidance: float | tuple[float, float] = (1.0, 4.0),
    order: str | Tensor | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: SeedLike = None,
    tokens: Tensor | None = None,
    known: Tensor | None = None,
    scale: int = 1,
    cache: KVCache | None = None,
) -> Tensor:
    """Image tokens for classes, decoded in parallel steps (RandAR, arXiv 2412.01827, section 3.3).

    Args:
        transformer: the model. Dropout is off while it generates.
        classes: (B,) class indices, C for the null class.
        steps: S in 1 … N, spread over the tokens by `decoding_schedule`; −1 for one token a step; None for
            the recommended number, 88 at N = 256 and as many a token elsewhere. With known tokens the
            steps are for the others, and a number above theirs means one token a step.
        guidance: scale of the classifier-free guidance, (at the first token, behind the last) or one
            number for both. No unconditional branch runs where the end is at most 1.
        order: None or "random" (each image its own), "raster", "spiral" (outwards), "centre_out",
            "hierarchical" (square and quincunx lattices, coarse to fine), "spread" (each step's locations
            near what is known and far from each other), "confidence" (each step takes the locations the
            model is surest of; asks all open ones at every step, so it costs about N/2 more tokens a step),
            or (N,) or (B, N) permutations of the raster locations.
        temperature, top_k, top_p: see `Sampling`; top_k = 1 is the greedy choice.
        generator: a `torch.Generator`, a seed, (B,) seeds of the images, or None for torch's default
            generator. The same seeds give the same images whatever the batch (see `sampling`).
        tokens, known: tokens (B, N) in raster order to continue from, and which of them are given,
            boolean (N,) or (B, N); the others' values are ignored.
        scale: 2 for twice the resolution, as `upscale_tokens` with its defaults.
        cache: from `transformer.new_cache(rows)` with as many rows as sequences run at once (B, with guidance
            2·B, and 3·B at twice the resolution, whose `length` is 1 + 8N); None allocates one for this call.

    Returns:
        Tokens (B, N) int64 in raster order; (B, 4N) with scale = 2.
    """
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    if scale == 2:
        if tokens is not None or known is not None:
            raise ValueError("known tokens cannot be given with scale=2; give them to upscale_tokens")
        return upscale_tokens(
            transformer,
            classes,
            steps=steps,
            guidance=guidance,
            order=order,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            generator=generator,
            cache=cache,
        )
    if scale != 1:
        raise ValueError(f"scale must be 1 or 2, got {scale}")
    classes = as_classes(classes, transformer)
    num_tokens = transformer.config.num_tokens
    return complete(
        transformer,
        classes,
        seeds=image_seeds(generator, len(classes), classes.device),
        steps=check_steps(steps, num_tokens),
        guidance=Guidance(scale=as_scale(guidance)),
        order=order,
        sampling=sampling,
        tokens=tokens,
        known=as_known(tokens, known, transformer, len(classes)),
        cache=cache,
    ).tokens
