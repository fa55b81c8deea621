"""Tokens from classes, or from some tokens the others."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from randar_features.generation.classes import ClassesLike, NamedClasses, resolve
from randar_features.generation.complete import as_classes, as_known, complete
from randar_features.generation.recipe import GuidanceLike, recipe_of
from randar_features.generation.sampling import Sampling, SeedLike, image_seeds
from randar_features.generation.schedule import check_steps
from randar_features.generation.upscale import upscale_tokens
from randar_features.layers import KVCache
from randar_features.models import ImageTransformer


class DecodingSettings(TypedDict, total=False):
    """Arguments of `generate` that editing hands on to it."""

    steps: int | None
    schedule: str | None
    order: str | Tensor | None
    temperature: float
    top_k: int
    top_p: float
    cache: KVCache | None


@torch.no_grad()
def generate(
    transformer: ImageTransformer | NamedClasses,
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
) -> Tensor:
    """Image tokens for classes, decoded as was published with the model: by RandAR and ARPG in any order and any
    number of parallel steps, by LlamaGen token after token, by PAR in groups of four.

    Computed in the format of the weights, float32 unless `load_model` was told another, or of the caller's autocast.

    Args:
        transformer: a model's transformer, or the model. Dropout is off while it generates.
        classes: (B,) class indices, C for the null class; of a model also its classes' names.
        steps: S in 1 … N, spread over the tokens by the `schedule`; −1 for one token a step; None for
            the recommended number, at N = 256 88 with RandAR and 64 with ARPG, and as many a token elsewhere; one
            token a step with a model trained in raster order.
            With known tokens the steps are for the others, and a number above theirs means one token a step.
            LlamaGen always takes N steps, PAR 4 + (N − 4) / 4.
        guidance: scale of the classifier-free guidance: one number for all steps, or a pair (where no token is
            done, where all are) that it goes through linearly; what counts as done is as published: the tokens
            before the step with RandAR, with ARPG the step's own too. None for the recommended one: (1, 4) with
            RandAR, (1, 4.5) with ARPG, 2 with LlamaGen and PAR. 0 draws without the class, 1 with the class alone,
            0.5 half way between; no second branch runs at 0 and at 1. The pair may fall as well as rise.
        order: None: as the model was trained. With RandAR and ARPG "random" (each image its own), "raster",
            "spiral" (outwards), "centre_out", "hierarchical" (square and quincunx lattices, coarse to fine),
            "spread" (each step's locations near what is known and far from each other), "confidence" (each step
            takes the locations the model is surest of; asks all open ones at every step, so it costs about N/2
            more tokens a step), or (N,) or (B, N) permutations of the raster locations. LlamaGen and PAR have an
            order of their own.
        temperature, top_k, top_p: see `Sampling`; top_k = 1 is the greedy choice.
        generator: a `torch.Generator`, a seed, (B,) seeds of the images, or None for torch's default
            generator. The same seeds give the same tokens whatever the batch (see `sampling`); the pixels
            that a tokenizer decodes them to agree to the rounding of its convolutions, some 3e-6.
        tokens, known: tokens (B, N) in raster order to continue from, and which of them are given,
            boolean (N,) or (B, N); the others' values are ignored. LlamaGen and PAR go on from the first tokens
            of their order alone.
        scale: 2 for twice the resolution, as `upscale_tokens` with its defaults.
        cache: from `generation.new_cache`, to allocate once for many calls: of as many sequences as run at once, B,
            with guidance 2·B, at twice the resolution 3·B of 4N tokens; None allocates one for this call.
        schedule: how `steps` are spread: "randar" (`decoding_schedule`), "arccos" or "cosine" (`share_schedule`,
            ARPG's); None for the model's first choice.

    Returns:
        Tokens (B, N) int64 in raster order; (B, 4N) with scale = 2.
    """
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    resolved, indices = resolve(transformer, classes)
    if scale == 2:
        if tokens is not None or known is not None:
            raise ValueError("known tokens cannot be given with scale=2; give them to upscale_tokens")
        return upscale_tokens(
            resolved,
            indices,
            steps=steps,
            guidance=guidance,
            order=order,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            generator=generator,
            cache=cache,
            schedule=schedule,
        )
    if scale != 1:
        raise ValueError(f"scale must be 1 or 2, got {scale}")
    classes = as_classes(indices, resolved)
    return complete(
        resolved,
        classes,
        seeds=image_seeds(generator, len(classes), classes.device),
        steps=check_steps(steps, resolved.config.num_tokens),
        schedule=schedule,
        guidance=recipe_of(resolved).guide(guidance),
        order=order,
        sampling=sampling,
        tokens=tokens,
        known=as_known(tokens, known, resolved, len(classes)),
        cache=cache,
    ).tokens
