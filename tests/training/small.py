"""Tiny data and trainers: a step takes milliseconds."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from randar_features.data.pixels import PixelCache, cache_pixels
from randar_features.data.token_store import TokenStore
from randar_features.training.distributed import HardwareConfig
from randar_features.training.generator.recipe import TrainingConfig
from randar_features.training.generator.trainer import RandARTrainer
from randar_features.training.loop import UNREPEATABLE, LoopConfig, run
from randar_features.training.tokenizer.recipe import TokenizerTrainingConfig
from randar_features.training.tokenizer.trainer import TokenizerTrainer
from tests.tokens import write_tokens

VOCAB_SIZE = 12
NUM_CLASSES = 3
CONFIG = LoopConfig(log_every=1, evaluate_every=4, checkpoint_every=4, log_writers=[])
# With dropout, since a resumed run has to draw the same masks.
MODEL = {"num_layers": 2, "num_heads": 2, "dim": 16, "ffn_multiple_of": 16, "residual_dropout": 0.2}
NETWORK = {
    "channels": 32,
    "channel_multipliers": [1],
    "blocks_per_level": 1,
    "latent_channels": 8,
    "vocab_size": VOCAB_SIZE,
    "stem_patch": 4,
    "attention": False,
}


# Processes that begin with PyTorch and what trains imported, which would take seconds in each, and nothing done.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["tests.training.small", "torch._dynamo", "pyarrow"])


def random_tokens(count: int = 20, num_tokens: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB_SIZE, (count, 2, num_tokens))


def write_store(folder: Path, tokens: np.ndarray, labels: np.ndarray | None = None, **manifest: Any) -> TokenStore:
    """A token store in the format on disk; the labels go round the classes if they are not given."""
    labels = np.arange(len(tokens)) % NUM_CLASSES if labels is None else labels
    settings: dict[str, Any] = {
        "views": ["centre crop", "mirror image"],
        "crop_range": 1.0,
        "image_size": 12,
        "tokenizer": "0123456789abcdef",
        "dtype": "float32",
        "vocab_size": VOCAB_SIZE,
        "label_names": [f"class {index}" for index in range(NUM_CLASSES)],
        "shard_size": 8,
    }
    return write_tokens(folder, tokens, labels, **settings | manifest)


def hardware(**options: Any) -> HardwareConfig:
    """As wanted, in float32 on every machine."""
    return HardwareConfig(**{"mixed_precision": "no"} | options)


def small_config(**options: Any) -> TrainingConfig:
    """A short recipe; `options` replace its own."""
    config: dict[str, Any] = {
        "model": MODEL,
        "total_steps": 10,
        "batch_size": 4,
        "warmup_steps": 2,
        "muon_learning_rate": 0.01,
        "evaluation_images": 4,
        "evaluation_orders": 2,
        "hardware": hardware(),
    }
    return TrainingConfig(**config | options)


def small_trainer(folder: Path, tokens: np.ndarray | None = None, **options: Any) -> RandARTrainer:
    """A RandAR trainer on `tokens`, random ones if None, that are written to `folder`."""
    store = write_store(folder, random_tokens() if tokens is None else tokens)
    return RandARTrainer(small_config(**options), store, store)


def random_images(count: int = 10, side: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def small_pixels(folder: Path, images: Tensor | None = None) -> PixelCache:
    images = random_images() if images is None else images
    cache = cache_pixels(images, folder, image_size=images.shape[-1])
    assert cache is not None
    return cache


def small_tokenizer_trainer(folder: Path, images: Tensor | None = None, **options: Any) -> TokenizerTrainer:
    """A tokenizer trainer on 8×8 pixels, so 2×2 tokens; quantisation starts at step 3."""
    pixels = small_pixels(folder, images)
    config: dict[str, Any] = {
        "network": NETWORK,
        "image_size": 8,
        "total_steps": 10,
        "batch_size": 4,
        "warmup_steps": 2,
        "continuous_steps": 3,
        "evaluation_images": 4,
    }
    return TokenizerTrainer(TokenizerTrainingConfig(**config | options), pixels, pixels)


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal, tensors to the bit."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


class Killed(BaseException):
    """What a test raises where a process would end."""


def kill_at(trainer: Any, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `trainer` die in that step, when its gradients are there and its weights are not yet updated."""

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    original = trainer.train_step

    def train_step(number: int) -> dict[str, float]:
        if number == step:
            monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", die)
        return original(number)

    monkeypatch.setattr(trainer, "train_step", train_step)


def equal_after_a_kill(
    make: Callable[[], Any], whole: tuple[Any, Path], folder: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that dies in that step and is resumed gives what `whole`, a trainer and its run, gave, to the bit."""
    killed = make()
    kill_at(killed, step, monkeypatch)
    with pytest.raises(Killed):
        run(killed, folder, CONFIG)
    monkeypatch.undo()
    resumed = make()
    torch.manual_seed(step)  # what else draws from the global generator does not matter
    assert run(resumed, folder, CONFIG)
    assert same(resumed.state_dict(), whole[0].state_dict())
    assert read_log(folder) == read_log(whole[1])
    for path in (whole[1] / "model").iterdir():
        assert (folder / "model" / path.name).read_bytes() == path.read_bytes()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Lines of a run's log without the time of day and the speed."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in UNREPEATABLE} for line in lines]
