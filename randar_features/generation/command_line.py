"""What the generation and editing scripts share: their common arguments, and the model ready to decode."""

from __future__ import annotations

import argparse
import datetime
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from randar_features.generation.complete import ORDERS
from randar_features.generation.recipe import SCHEDULES, recipe_of
from randar_features.hub import Model, load_model
from randar_features.layers import pack_weights
from randar_features.models import ImageTransformer

SETTINGS = ("steps", "schedule", "guidance", "order", "temperature", "top_k", "top_p")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, seeds, output and the settings of `generate`."""
    parser.add_argument("--model", default="randar-tiny", help="a name, or a folder that training wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the images")
    parser.add_argument("--overwrite", action="store_true", help="make also the images that are there")
    parser.add_argument("--seeds", type=seed_range, default=range(8), help="first:behind the last, or one; default 0:8")
    parser.add_argument("--steps", type=int, help="default: as recommended; -1: one token a step")
    parser.add_argument("--schedule", choices=SCHEDULES, help="how the steps are spread; default: as published")
    parser.add_argument(
        "--guidance",
        type=float,
        nargs="+",
        metavar="SCALE",
        help="one scale, or the first and the last; default: as recommended",
    )
    parser.add_argument("--order", choices=ORDERS, help="default: as the model was trained, random or raster")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0, help="0: all codes; 1: the greedy choice")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--device", help="default: CUDA where there is one")
    parser.add_argument("--weights", choices=("float32", "float16", "bfloat16"), default="float32")


def settings_of(args: argparse.Namespace, transformer: ImageTransformer) -> dict[str, Any]:
    """The arguments of `generate` among the parsed ones, the model's own guidance and order where none is given."""
    settings = {name: getattr(args, name) for name in SETTINGS}
    guidance = args.guidance or recipe_of(transformer).guidance
    settings["guidance"] = guidance[0] if isinstance(guidance, list) and len(guidance) == 1 else guidance
    if args.order is None and not transformer.fixed_order:
        settings["order"] = transformer.trained_order
    if args.schedule is None:
        del settings["schedule"]
    return settings


def load_for_decoding(name: str, device: str | None, weights: str) -> Model:
    """The model in a number format; on a CPU with packed weights (`pack_weights`) where that is possible.

    `device` None: the process's own GPU (LOCAL_RANK, as torchrun sets it) where there is one, else the CPU.
    """
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    dtype: torch.dtype = getattr(torch, weights)
    if device != "cpu" or not can_pack(dtype):
        return load_model(name, device, dtype)
    model = load_model(name, device)
    return replace(model, transformer=pack_weights(model.transformer, dtype))


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch packs weights in a number format: on ARM, for one, it may lack the kernels."""
    if dtype == torch.float16:
        return "fbgemm" in torch.backends.quantized.supported_engines
    return dtype == torch.float32 and torch.backends.mkldnn.is_available()


def rank_and_ranks() -> tuple[int, int]:
    """This process's number and that of all processes, as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def wait_for_all(ranks: int) -> None:
    """Until every process of torchrun is here; shares of images may differ by hours."""
    if ranks > 1:
        torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=7))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def seed_range(text: str) -> range:
    """ "3:8" is 3 … 7, "3" is 3 alone; an error of argparse for anything else, or nothing."""
    first, colon, end = text.partition(":")
    try:
        found = range(int(first), int(end) if colon else int(first) + 1)
    except ValueError:
        found = range(0)
    if not found or found.start < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no range of seeds such as 0:8, or a single one")
    return found
