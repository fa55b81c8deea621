"""Training of RandAR on image tokens: next-token prediction, a fresh random order for each image."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from randar_features import sequence
from randar_features.data.token_store import TokenStore
from randar_features.files import write_json, written_whole
from randar_features.models import RandAR, RandARConfig
from randar_features.training.batches import batch_indices, step_generator
from randar_features.training.config import build_config
from randar_features.training.ema import WeightAverage
from randar_features.training.loop import LoopConfig
from randar_features.training.lr_schedule import cosine_multiplier
from randar_features.training.optimizer import build_optimizer


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Fields of `RandARConfig` under `model` (vocabulary, tokens and classes come from the data), and the recipe."""

    model: dict[str, Any]
    total_steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 1e-3
    muon_learning_rate: float | None = None
    weight_decay: float = 0.05
    warmup_steps: int = 100
    final_multiplier: float = 0.02
    gradient_clip: float = 1.0
    class_dropout: float = 0.1
    ema_decay: float = 0.999
    seed: int = 0
    evaluation_images: int = 256
    evaluation_orders: int = 8
    loop: LoopConfig = field(default_factory=LoopConfig)


def next_token_loss(model: RandAR, tokens: Tensor, classes: Tensor | None, order: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token of raster tokens (B, N) under an order."""
    logits = model(tokens, classes, order)
    return F.cross_entropy(logits.flatten(0, 1), sequence.to_order(tokens, order).flatten())


def model_config(config: TrainingConfig, store: TokenStore) -> RandARConfig:
    """Sizes of the model for the tokens of `store`; ValueError for options that `config.model` cannot have."""
    names = store.manifest["label_names"]
    from_data = {
        "vocab_size": store.manifest["vocab_size"],
        "num_tokens": store.manifest["shape"][2],
        "num_classes": len(names) if names else int(store.labels.max()) + 1,
    }
    if given := from_data.keys() & config.model.keys():
        raise ValueError(f"model: {', '.join(sorted(given))} come from the tokens, do not give them")
    return build_config(RandARConfig, config.model | from_data, "model")


class RandARTrainer:
    """Trains a `RandAR` on a `TokenStore`; see `training.loop.run`.

    Every draw of a step (images, views, orders, dropped classes, dropout) follows from the seed and the step.
    """

    def __init__(self, config: TrainingConfig, train: TokenStore, validation: TokenStore) -> None:
        self.config, self.train, self.validation = config, train, validation
        self.total_steps = config.total_steps
        if train.manifest["tokenizer"] != validation.manifest["tokenizer"]:
            raise ValueError(
                f"training tokens were made by tokenizer {train.manifest['tokenizer']}, "
                f"validation tokens by {validation.manifest['tokenizer']}: make both with one"
            )
        self.model_config = model_config(config, train)
        self.model = RandAR(self.model_config).train()
        self.model.initialize(torch.Generator().manual_seed(config.seed))
        self.optimizer = build_optimizer(
            self.model,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            muon_learning_rate=config.muon_learning_rate,
        )
        self.average = WeightAverage(self.model, config.ema_decay)

    def train_step(self, step: int) -> dict[str, float]:
        """One update on batch `step`."""
        config, generator = self.config, step_generator(self.config.seed, step)
        indices = batch_indices(step, batch_size=config.batch_size, size=len(self.train), seed=config.seed)
        views = torch.randint(self.train.num_views, (len(indices),), generator=generator)
        tokens, classes = self.train.batch(indices, views)
        order = sequence.random_orders(len(tokens), tokens.shape[1], generator)
        dropped = torch.rand(len(tokens), generator=generator) < config.class_dropout
        classes = torch.where(dropped | (classes < 0), self.model_config.num_classes, classes)
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))  # for the dropout layers
        loss = next_token_loss(self.model, tokens, classes, order)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
        multiplier = cosine_multiplier(
            step + 1, warmup=config.warmup_steps, total=self.total_steps, floor=config.final_multiplier
        )
        self.optimizer.step(multiplier)
        self.average.update(self.model)
        return {"loss": loss.item(), "gradient_norm": norm.item(), "lr_multiplier": multiplier}

    def averaged(self) -> RandAR:
        """A copy of the model with the averaged weights, in evaluation mode."""
        model = RandAR(self.model_config)
        model.load_state_dict(self.average.values)
        return model.eval()

    def evaluate(self) -> dict[str, float]:
        """`validation_loss` of the averaged weights."""
        model = self.averaged()
        return validation_loss(
            model, self.validation, images=self.config.evaluation_images, orders=self.config.evaluation_orders
        )

    def pictures(self) -> dict[str, Tensor]:
        """None yet."""
        return {}

    def rates(self, steps: int, seconds: float) -> dict[str, float]:
        """`images_per_second`."""
        return {"images_per_second": steps * self.config.batch_size / seconds}

    def settings(self) -> dict[str, Any]:
        """The configuration."""
        return asdict(self.config)

    def state_dict(self) -> dict[str, Any]:
        """Weights, their average, and the optimizer's state: all that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])

    def export(self, folder: Path) -> None:
        """Write the averaged weights in float16 and their configuration, as `load_model` reads them."""
        weights = {name: value.half().contiguous() for name, value in self.average.values.items()}
        with written_whole(folder / "model.safetensors") as file:
            file.write(save(weights))
        about = {
            "transformer": {"type": "randar", **asdict(self.model_config)},
            "training": asdict(self.config),
            "tokenizer_hash": self.train.manifest["tokenizer"],
        }
        write_json(folder / "config.json", about)


@torch.no_grad()
def validation_loss(model: RandAR, store: TokenStore, *, images: int, orders: int) -> dict[str, float]:
    """Nats per token with the class and with the null class, over `orders` antithetic orders and the first view.

    `images` images, evenly spread through the store, so that all classes take part.
    """
    picked = torch.linspace(0, len(store) - 1, min(images, len(store))).long()
    tokens, classes = store.batch(picked, torch.zeros_like(picked))
    known = torch.where(classes < 0, model.config.num_classes, classes)
    losses: dict[str, list[Tensor]] = {"validation_loss": [], "validation_loss_null": []}
    for order in sequence.antithetic_orders(orders, tokens.shape[1]):
        losses["validation_loss"].append(next_token_loss(model, tokens, known, order[None]))
        losses["validation_loss_null"].append(next_token_loss(model, tokens, None, order[None]))
    return {name: torch.stack(values).mean().item() for name, values in losses.items()}
