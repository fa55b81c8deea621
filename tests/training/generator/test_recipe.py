"""The shipped recipes of generators, and what a configuration may say of the model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from randar_features.models import ARCHITECTURES
from randar_features.options.parse import read_options
from randar_features.training.distributed import HardwareConfig
from randar_features.training.generator.recipe import TrainingConfig, model_config, model_type
from randar_features.training.loop import LoopConfig
from randar_features.training.tokenizer.recipe import TokenizerTrainingConfig

CONFIGS = Path(__file__).parents[3] / "randar_features/training/recipes"
CONTENT = {path: yaml.safe_load(path.read_text()) for path in sorted(CONFIGS.glob("*.yaml"))}
GENERATORS = [path for path, content in CONTENT.items() if "model" in content]
IMAGENET: Any = SimpleNamespace(vocab_size=16384, num_tokens=256, num_classes=1000)
TINY: Any = SimpleNamespace(vocab_size=512, num_tokens=64, num_classes=200)


def parameters(config: TrainingConfig, store: Any) -> int:
    """Of the model, which is built without memory for its weights."""
    with torch.device("meta"):
        model = ARCHITECTURES[model_type(config)][0](model_config(config, store))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("path", GENERATORS, ids=lambda path: path.stem)
def test_every_shipped_recipe_builds_its_model(path: Path):
    config = read_options(TrainingConfig, path)
    large = path.stem.startswith("randar_")
    assert parameters(config, IMAGENET if large else TINY) > (3e8 if large else 1e6)
    share = config.hardware.micro_batch_size or config.batch_size
    assert config.batch_size % share == 0
    assert config.warmup_steps < config.total_steps


@pytest.mark.parametrize(("name", "millions"), [("randar_l", 342.9), ("randar_xl", 774.7)])
def test_the_published_models_and_their_recipe(name: str, millions: float):
    config = read_options(TrainingConfig, CONFIGS / f"{name}.yaml")
    assert round(parameters(config, IMAGENET) / 1e6, 1) == millions
    assert (config.batch_size, config.total_steps, config.warmup_steps) == (1024, 360_000, 50_000)
    assert (config.learning_rate, config.adam_betas, config.weight_decay) == (4e-4, [0.9, 0.95], 0.05)
    assert (config.gradient_clip, config.skip_gradient_norm, config.skip_after) == (1.0, 10.0, 100)
    assert (config.schedule, config.final_multiplier, config.class_dropout) == ("cosine", 0.05, 0.1)
    sizes = model_config(config, IMAGENET)
    assert (sizes.token_dropout, sizes.residual_dropout) == (0.1, 0.1)
    assert config.muon_learning_rate is None and config.order == "random"


def test_the_architectures_compare_at_one_size():
    counts = {}
    for kind in ARCHITECTURES:
        config = read_options(TrainingConfig, CONFIGS / "compare.yaml", [f"model.type={kind}"])
        counts[kind] = parameters(config, TINY)
    assert max(counts.values()) < 1.1 * min(counts.values())
    assert {"randar", "llamagen", "par", "arpg"} <= counts.keys()


def test_there_are_shipped_recipes():
    assert {"tiny", "randar_l", "randar_xl", "compare"} <= {path.stem for path in GENERATORS}


def test_an_unknown_architecture_is_named():
    with pytest.raises(ValueError, match="model: unknown type 'randr', expected one of randar, llamagen"):
        model_type(TrainingConfig(model={"type": "randr"}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adam_betas": [0.9]}, r"adam_betas = \[0\.9\], expected two numbers"),
        ({"batch_size": 0}, "batch_size = 0, expected int, at least 1"),
        ({"evaluation_orders": -1}, "evaluation_orders = -1, expected int, at least 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(model={}, **options)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (TrainingConfig, {"order": "spiral"}, "order = 'spiral', expected one of random, raster"),
        (TrainingConfig, {"total_steps": 1.5}, "total_steps = 1.5, expected int"),
        (TrainingConfig, {"batch_size": True}, "batch_size = True, expected int"),
        (TrainingConfig, {"learning_rate": "fast"}, "learning_rate = 'fast', expected float"),
        (TrainingConfig, {"adam_betas": 0.9}, "adam_betas = 0.9, expected a list of float"),
        (TrainingConfig, {"learning_rate": -1e-3}, r"^learning_rate = -0.001, expected float, above 0$"),
        (TrainingConfig, {"muon_learning_rate": float("inf")}, r"muon_learning_rate = inf, expected float, above 0"),
        (TrainingConfig, {"class_dropout": 1.1}, r"class_dropout = 1.1, expected float, from 0 to 1"),
        (TrainingConfig, {"ema_decay": 1.0}, r"ema_decay = 1.0, expected float, from 0 to below 1"),
        (
            TrainingConfig,
            {"adam_betas": [0.9, 1.5]},
            r"adam_betas = \[0.9, 1.5\], expected a list of float, from 0 to below 1",
        ),
        (TrainingConfig, {"adam_betas": [0.9]}, r"adam_betas = \[0.9\], expected two numbers"),
        (TrainingConfig, {"weight_decay": float("nan")}, r"weight_decay = nan, expected float, 0 or more"),
        (TrainingConfig, {"batch_size": 0}, r"batch_size = 0, expected int, at least 1"),
        (HardwareConfig, {"micro_batch_size": 0}, r"hardware.micro_batch_size = 0, expected int, at least 1"),
        (LoopConfig, {"keep_every": 0}, r"loop.keep_every = 0, expected int, at least 1"),
        (TokenizerTrainingConfig, {"commitment": -0.25}, r"commitment = -0.25, expected float, 0 or more"),
        (TokenizerTrainingConfig, {"codebook_decay": 1.0}, r"codebook_decay = 1.0, expected float, from 0 to below 1"),
    ],
)
def test_numbers_out_of_their_range_are_refused(kind: Any, options: dict[str, Any], message: str):
    given = {"model": {}, **options} if kind is TrainingConfig else options
    with pytest.raises(ValueError, match=message):
        kind(**given)
