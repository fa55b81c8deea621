"""Measures of a generator itself: the likelihood of real images, and the speed of drawing new ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.options import RunOptions
from benchmarks.result import AXES, Result, data_hash
from benchmarks.run import Measurement, Task
from probes import bootstrap_interval
from randar_features import Model, generate, load_model, log_likelihood
from randar_features.data.token_store import TokenStore
from randar_features.generation.recipe import recipe_of
from randar_features.generation.schedule import ONE_BY_ONE, group_schedule
from randar_features.models import ImageTransformer
from randar_features.options.types import Count, Seed
from randar_features.timing import seconds
from randar_features.training.batches import spread
from randar_features.training.generator.objective import evaluation_orders

AXES_OF_MODELS = {name: None for name in AXES if name != "encoder"}


@dataclass(frozen=True, kw_only=True)
class LossConfig(RunOptions):
    """What the loss on held-out images depends on besides the weights.

    Attributes:
        model: as `load_model` takes it.
        tokens: folder of a `TokenStore`, held out from training.
        images: how many, evenly spread through the store, in their first crop.
        orders: antithetic ones, the same for all images; a model of one order is measured in that one.
        seed: of the bootstrap.
    """

    model: str
    tokens: str
    images: Count = 1000
    orders: Count = 4
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class SpeedConfig(RunOptions):
    """What the speed of generation depends on besides weights and machine.

    Attributes:
        models: as `load_model` takes them, of the same number of tokens.
        batch: images at once.
        repeats: measurements after one to warm up; the shortest counts.
        seed: of classes and draws.
    """

    models: tuple[str, ...]
    batch: Count = 16
    repeats: Count = 3
    seed: Seed = 0


def image_losses(
    transformer: ImageTransformer, tokens: Tensor, classes: Tensor, orders: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nats per token of each image, (n,), with its class and with the null class: the mean over tokens and orders.

    Args:
        tokens: (n, N) codes in raster order; classes: (n,), -1 where not known, for which the null class stands in.
        orders: how many, see `training.generator.objective.evaluation_orders`.
    """
    several = evaluation_orders(transformer, orders)[:, None]
    null = transformer.config.num_classes
    known = torch.where(classes < 0, null, classes)
    of_class, of_null = (
        -log_likelihood(transformer, tokens, given, several).double().mean(1).cpu().numpy() for given in (known, None)
    )
    return of_class, of_null


def measure_loss(config: LossConfig, out: Path) -> Measurement:
    """One row: nats per token with the class, an interval over images, and with the null class; and parameters."""
    model, store = load_model(config.model), TokenStore(Path(config.tokens))
    picked = spread(len(store), config.images)
    tokens, classes = store.batch(picked, torch.zeros_like(picked))
    of_class, of_null = image_losses(model.transformer, tokens, classes, config.orders)
    row = {
        "encoder": model.name,
        "validation_loss": of_class.mean(),
        "interval": bootstrap_interval(of_class, seed=config.seed),
        "validation_loss_null": of_null.mean(),
        "parameters": sum(parameter.numel() for parameter in model.transformer.parameters()),
        "loss_orders": len(evaluation_orders(model.transformer, config.orders)),
    }
    data = {"evaluation": f"{data_hash(config.tokens)} {len(picked)} images evenly spread"}
    weights = {model.name: model.weights_hash}
    return Measurement(
        protocol="nats per token of held-out images",
        axes=AXES_OF_MODELS,
        data=data,
        weights=weights,
        results=[Result.of(row)],
        interval="percentile bootstrap over images",
    )


run_loss = Task("loss", LossConfig, measure_loss)


def steps_for(transformer: ImageTransformer, length: int) -> int | None:
    """The `steps` with which `generate` takes exactly `length` for an image; None if the model cannot."""
    recipe, num_tokens = recipe_of(transformer), transformer.config.num_tokens
    if recipe.fixed is not None:
        return length if len(recipe.schedule(None, num_tokens, 0, None)) == length else None
    for steps in (ONE_BY_ONE, *range(1, num_tokens + 1)):
        if len(recipe.schedule(None, num_tokens, 0, steps)) == length:
            return steps
    return None


def step_counts(num_tokens: int) -> dict[str, int]:
    """The numbers of steps at which models are compared: one token a step, and as many steps as PAR needs."""
    return {"single": num_tokens, "parallel": len(group_schedule(num_tokens))}


def images_per_second(model: Model, steps: int, config: SpeedConfig) -> float:
    """Images whose tokens are drawn in a second, with the guidance and the schedule published with the model."""
    generator = torch.Generator().manual_seed(config.seed)
    classes = torch.randint(model.transformer.config.num_classes, (config.batch,), generator=generator, device="cpu")

    def draw() -> Tensor:
        return generate(model.transformer, classes, steps=steps, generator=config.seed)

    return config.batch / seconds(draw, config.repeats, model.device)


def measure_speed(config: SpeedConfig, out: Path) -> Measurement:
    """One row a model: images a second in each of `step_counts` that it can, None otherwise."""
    models = [load_model(name) for name in config.models]
    rows: list[dict[str, Any]] = []
    for model in models:
        row: dict[str, Any] = {"encoder": model.name}
        for name, length in step_counts(model.transformer.config.num_tokens).items():
            steps = steps_for(model.transformer, length)
            row |= {f"{name}_images_per_second": steps and images_per_second(model, steps, config)}
            row |= {f"{name}_steps": length if steps else None}
        rows.append(row)
    protocol = f"tokens drawn in batches of {config.batch}, guidance as published with each, the shortest of "
    protocol += f"{config.repeats}; single: one token a step; parallel: in the steps that PAR needs"
    weights = {model.name: model.weights_hash for model in models}
    results = [Result.of(row) for row in rows]
    return Measurement(protocol=protocol, axes=AXES_OF_MODELS, weights=weights, results=results)


run_speed = Task("generation", SpeedConfig, measure_speed)
