"""Common parts of `generate` and `edit`: their settings, the model ready to decode, and the processes of torchrun."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from randar_features.generation.recipe import recipe_of
from randar_features.generation.sampling import Sampling
from randar_features.generation.schedule import as_scale
from randar_features.models import ImageTransformer
from randar_features.options.shared import DType, ModelOptions, Order, Schedule
from randar_features.options.types import Natural, Positive, Share

SETTINGS = ("steps", "schedule", "guidance", "order", "temperature", "top_k", "top_p")


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(ModelOptions):
    """How images are drawn.

    Attributes:
        out: folder of the images.
        overwrite: draw existing images again.
        seeds: FIRST:END, such as 0:8 for the seeds 0 to 7, or one seed.
        steps: number of decoding steps; -1: one token in each step; none: as recommended for the model.
        schedule: how tokens are spread over the steps; none: as published with the model.
        guidance: one scale for all steps, or the first and the last; none: as recommended for the model.
        order: order of the tokens; none: the order of the model's training, random or raster.
        temperature: temperature of the sampling; near 0 it is greedy.
        top_k: sample among this many of the most likely codes; 0: all; 1: greedy.
        top_p: sample among the most likely codes with this total probability.
        dtype: number format of the weights and products; auto: the fastest of this machine.
    """

    out: Path
    overwrite: bool = False
    seeds: str = "0:8"
    steps: int | None = None
    schedule: Schedule | None = None
    guidance: tuple[float, ...] | None = None
    order: Order | None = None
    temperature: Positive = 1.0
    top_k: Natural = 0
    top_p: Share = 1.0
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        seed_range(self.seeds)
        Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
        if self.guidance is not None and len(self.guidance) > 2:
            raise ValueError(f"--guidance: expected one scale, or the first and the last, got {len(self.guidance)}")
        if self.guidance:
            as_scale((self.guidance[0], self.guidance[-1]))


def seed_range(text: str) -> range:
    """The seeds that a text means: "3:8" is 3 to 7, "3" is 3 alone; ValueError for anything else."""
    first, colon, end = text.partition(":")
    try:
        found = range(int(first), int(end) if colon else int(first) + 1)
    except ValueError:
        found = range(0)
    if not found or found.start < 0 or found[-1] >= 2**63:
        raise ValueError(f"--seeds: {text!r} is no range of seeds such as 0:8, or one seed, from 0 to 2^63 - 1")
    return found


def settings_of(options: DecodingOptions, transformer: ImageTransformer) -> dict[str, Any]:
    """The arguments of `rf.generate`, with the model's own guidance and order where none is given."""
    settings = {name: getattr(options, name) for name in SETTINGS}
    guidance = recipe_of(transformer).guidance if options.guidance is None else list(options.guidance)
    settings["guidance"] = guidance[0] if isinstance(guidance, list) and len(guidance) == 1 else guidance
    if options.order is None and not transformer.fixed_order:
        settings["order"] = transformer.trained_order
    if options.schedule is None:
        del settings["schedule"]
    return settings


def wait_for_all(ranks: int) -> None:
    """Wait until every process of torchrun is here; their shares of the images may differ by hours."""
    if ranks > 1:
        torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=7))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
