"""The configuration of a generator's training: the model, the recipe, the intervals, the hardware."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from randar_features.data.token_store import TokenStore
from randar_features.models import ARCHITECTURES
from randar_features.options.types import (
    Count,
    Decay,
    Natural,
    NonNegative,
    Positive,
    Seed32,
    Share,
    check_ranges,
    typed,
)
from randar_features.training.auxiliary.config import AuxiliaryConfig
from randar_features.training.distributed import HardwareConfig, format_name
from randar_features.training.loop import LoopConfig


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The model, the recipe, the intervals of the loop, and how the hardware computes it.

    Attributes:
        model: `type`, one of randar, llamagen, par and arpg, and fields of its configuration, such as num_layers;
            vocabulary, tokens and classes come from the data.
        total_steps: training steps until the run is done.
        batch_size: images in a step, over all processes.
        learning_rate: highest learning rate, after the warm-up.
        muon_learning_rate: learning rate of Muon, which trains the matrices of the blocks; none: AdamW trains all.
        adam_betas: decay of AdamW's means of the gradient and of its square.
        weight_decay: weight decay of AdamW and Muon.
        schedule: shape of the learning rate after the warm-up.
        warmup_steps: steps in which the learning rate rises from 0.
        final_multiplier: share of the highest learning rate at the end of the schedule.
        gradient_clip: largest norm of the gradient; larger gradients are scaled down to it.
        skip_gradient_norm: skip a step whose gradient has a larger norm; none: skip no step.
        skip_after: first step to which `skip_gradient_norm` applies.
        order: random: as the architecture is trained, for RandAR and ARPG a new order per image; raster: row by row.
        class_dropout: share of images whose class is replaced by the null class.
        ema_decay: decay of the average of the weights, which is evaluated and exported; 0: no average.
        seed: seed of all random choices.
        initial: folder of a model of the same sizes to start from; none: fresh weights.
        auxiliary: losses in addition to next-token prediction, all off by default.
        evaluation_images: number of validation images in an evaluation.
        evaluation_orders: number of orders in which an evaluation shows each image.
    """

    model: dict[str, Any]
    total_steps: Count = 2000
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    muon_learning_rate: Positive | None = None
    adam_betas: list[Decay] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: NonNegative = 0.05
    schedule: Literal["cosine", "constant", "linear"] = "cosine"
    warmup_steps: Natural = 100
    final_multiplier: Share = 0.02
    gradient_clip: Positive = 1.0
    skip_gradient_norm: Positive | None = 10.0
    skip_after: Natural = 100
    order: Literal["random", "raster"] = "random"
    class_dropout: Share = 0.1
    ema_decay: Decay = 0.999
    seed: Seed32 = 0
    evaluation_images: Count = 256
    evaluation_orders: Count = 8
    initial: str | None = None
    auxiliary: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)

    def __post_init__(self) -> None:
        check_ranges(self)
        if len(self.adam_betas) != 2:
            raise ValueError(f"adam_betas = {self.adam_betas}, expected two numbers, as [0.9, 0.95]")


def recorded(config: TrainingConfig, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """The configuration as JSON holds it, with the number format that was used, `dtype`.

    Options that came later are left out where they are off, so that a run that was begun before goes on.
    """
    values = asdict(config)
    if dtype is not None:
        values["hardware"]["mixed_precision"] = format_name(dtype)
    if config.initial is None:
        del values["initial"]
    if config.auxiliary == AuxiliaryConfig():
        del values["auxiliary"]
    return values


def model_type(config: TrainingConfig) -> str:
    """The architecture's name; ValueError if there is none of that name."""
    kind = config.model.get("type", "randar")
    if kind not in ARCHITECTURES:
        raise ValueError(f"model: unknown type {kind!r}, expected one of {', '.join(ARCHITECTURES)}")
    return kind


def model_config(config: TrainingConfig, store: TokenStore) -> Any:
    """Sizes of the model for the tokens of `store`; ValueError for options that `config.model` cannot have."""
    from_data = {
        "vocab_size": store.vocab_size,
        "num_tokens": store.num_tokens,
        "num_classes": store.num_classes,
    }
    if given := from_data.keys() & config.model.keys():
        raise ValueError(f"model: {', '.join(sorted(given))} come from the tokens, do not give them")
    sizes = {name: value for name, value in config.model.items() if name != "type"}
    kind = ARCHITECTURES[model_type(config)][1]
    return kind(**typed(kind, sizes | from_data, "model"))
