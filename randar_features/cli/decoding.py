"""Common parts of `generate` and `edit`: their settings, the model ready to decode, and the processes of torchrun."""

import datetime
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from randar_features.cli.options import DType, ModelOptions
from randar_features.generation.recipe import recipe_of
from randar_features.generation.sampling import Sampling
from randar_features.generation.schedule import as_scale
from randar_features.hub import Model, load_model
from randar_features.layers.packed_linear import pack_weights
from randar_features.models import ImageTransformer
from randar_features.options import Natural, Positive, Share
from randar_features.precision import compute_dtype, name_of

Order = Literal["random", "raster", "spiral", "centre_out", "hierarchical", "spread", "confidence"]
Schedule = Literal["randar", "arccos", "cosine"]
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


def load_for_decoding(name: str, device: str | None, dtype: DType) -> tuple[Model, str]:
    """The model, with weights packed in a number format (`pack_weights`) where that is possible, and the format's name.

    `device` None: this process's own GPU (LOCAL_RANK, as torchrun sets it) where there is one, else the CPU.
    """
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    own = compute_dtype(dtype, torch.device(device), torch.float32)
    if not can_pack(own, torch.device(device)):
        return load_model(name, device, own), name_of(own)
    model = load_model(name, device)
    return replace(model, transformer=pack_weights(model.transformer, own)), name_of(own)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether packed weights are faster and this build of PyTorch has the kernels, which it may lack on ARM."""
    if device.type != "cpu":
        return dtype == torch.bfloat16
    if dtype == torch.float16:
        return "fbgemm" in torch.backends.quantized.supported_engines
    return dtype == torch.bfloat16 or torch.backends.mkldnn.is_available()


def wait_for_all(ranks: int) -> None:
    """Wait until every process of torchrun is here; their shares of the images may differ by hours."""
    if ranks > 1:
        torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=7))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
