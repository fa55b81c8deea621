"""Small tokenizers with seeded random weights, quick enough to run in every test."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from randar_features.tokenizers import ImageTokenizer, LlamaGenTokenizer, MaskGITTokenizer, NetworkTokenizer


def small_llamagen(**changes: Any) -> LlamaGenTokenizer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "channels": 32,
        "channel_multipliers": (1, 2, 2),
        "blocks_per_level": 1,
        "latent_channels": 16,
        "vocab_size": 100,
    }
    return LlamaGenTokenizer(**(sizes | changes)).eval()


def small_maskgit(**changes: Any) -> MaskGITTokenizer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "channels": 32,
        "channel_multipliers": (1, 2, 2),
        "blocks_per_level": 1,
        "vocab_size": 100,
        "code_dim": 16,
    }
    tokenizer = MaskGITTokenizer(**(sizes | changes)).eval()
    with torch.no_grad():  # rows of the latents' size, so that more than a handful are ever nearest
        tokenizer.quantize.embedding.weight.mul_(0.3)
    return tokenizer


def small_network(**changes: Any) -> NetworkTokenizer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "network": "test_resnet",
        "stages": (1, 2),
        "channels": 32,
        "channel_multipliers": (1, 2),
        "latent_channels": 16,
        "stem_patch": 2,
        "vocab_size": 100,
        "code_dim": 16,
    }
    return NetworkTokenizer(**(sizes | changes)).eval()


BUILDERS: dict[str, Callable[..., ImageTokenizer]] = {
    "llamagen": small_llamagen,
    "llamagen_stem_patch": partial(small_llamagen, stem_patch=2, channel_multipliers=(1, 2)),
    "maskgit": small_maskgit,
    "network": small_network,
}


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
