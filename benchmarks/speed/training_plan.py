"""Estimated time and memory of a training run: `randar bench training_plan --recipe randar_l.yaml --gpus 8`.

Parameters, memory of each GPU and days, before you rent anything. Weights, gradients, optimizer and average are
counted; the memory that the forward pass keeps for the backward pass is measured on a few tokens and scaled. Days are
operations / (peak · MFU). MFU is a guess, which `training_speed` or the log of a run can replace.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.options import RunOptions
from benchmarks.result import NO_AXES, Result
from benchmarks.run import Measurement, Task, run_as_command
from randar_features.data.token_store import TokenStore
from randar_features.hub.weights import build_empty
from randar_features.layers.cross_entropy import CHUNK_BYTES
from randar_features.models import ARCHITECTURES
from randar_features.options.parse import positional, read_options
from randar_features.options.types import Count, Positive
from randar_features.precision import autocast
from randar_features.training.flops import PEAKS, data_sheet_peak, training_flops
from randar_features.training.generator.objective import next_token_loss
from randar_features.training.generator.recipe import TrainingConfig, model_config, model_type
from randar_features.training.recipes import recipe_file

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions):
    """Estimated memory and time of a training run.

    Attributes:
        recipe: YAML file of training options, or the name of a shipped one, such as randar_l.yaml.
        overrides: key=value, for example hardware.gradient_checkpointing=true.
        gpus: number of GPUs, over all nodes.
        gpu: name of the GPUs, such as H100, A100 or RTX 4090.
        mfu: share of the GPU's peak of products that training reaches.
        vocab_size: number of codes.
        num_tokens: number of tokens of an image.
        num_classes: number of classes.
        images: number of training images, to count epochs.
    """

    recipe: str
    overrides: tuple[str, ...] = positional(())
    gpus: Count = 8
    gpu: str = "H100"
    mfu: Positive = 0.4
    vocab_size: Count = 16384
    num_tokens: Count = 256
    num_classes: Count = 1000
    images: Count = 1_281_167


def plan(config: Config, recipe: TrainingConfig) -> dict[str, float]:
    """Parameters, GiB of each GPU by what they hold, TFLOP an image, days, epochs.

    Raises:
        ValueError: a GPU of unknown peak, more than the peak, or a batch that does not divide among the GPUs.
    """
    if config.mfu > 1:
        raise ValueError(f"mfu is a share of the peak, above 0 and at most 1; got {config.mfu}")
    peak = data_sheet_peak(config.gpu)
    if peak is None:
        raise ValueError(f"the peak of a {config.gpu!r} is not known, only of {', '.join(PEAKS)}")
    share, rest = divmod(recipe.batch_size, config.gpus)
    micro_batch = recipe.hardware.micro_batch_size or share
    if rest or not micro_batch or share % micro_batch:
        raise ValueError(f"a batch of {recipe.batch_size} in parts of {micro_batch} does not fit {config.gpus} GPUs")
    data = SimpleNamespace(vocab_size=config.vocab_size, num_tokens=config.num_tokens, num_classes=config.num_classes)
    sizes, kind = model_config(recipe, cast(TokenStore, data)), model_type(recipe)
    memory = state_bytes(sizes, kind, recipe, config.gpus)
    memory["activations"] = activation_bytes(sizes, kind, recipe, micro_batch)
    flops = training_flops(sizes, kind)
    seconds = recipe.total_steps * recipe.batch_size * flops / (config.gpus * peak * config.mfu)
    return {
        "parameters": memory["weights"] / 4 * (config.gpus if recipe.hardware.shard_weights else 1),
        **{f"{name}_gib": value / GIB for name, value in memory.items()},
        "total_gib": sum(memory.values()) / GIB,
        "tflop_per_image": flops / 1e12,
        "images_per_second": recipe.total_steps * recipe.batch_size / seconds,
        "days": seconds / 86400,
        "gpu_days": seconds / 86400 * config.gpus,
        "epochs": recipe.total_steps * recipe.batch_size / config.images,
    }


def state_bytes(sizes: Any, kind: str, recipe: TrainingConfig, gpus: int) -> dict[str, float]:
    """Bytes on each GPU of what stays from step to step, all float32."""
    model = build_empty(lambda: ARCHITECTURES[kind][0](sizes))
    named = dict(model.named_parameters())
    count = sum(parameter.numel() for parameter in named.values())
    by_muon = sum(p.numel() for n, p in named.items() if n.startswith("layers.") and p.dim() == 2)
    moments = 2 * count - (by_muon if recipe.muon_learning_rate is not None else 0)
    each = gpus if recipe.hardware.shard_weights else 1
    numbers = {"weights": count, "gradients": count, "optimizer": moments, "average": count}
    return {name: 4 * number / each for name, number in numbers.items()}


def activation_bytes(sizes: Any, kind: str, recipe: TrainingConfig, micro_batch: int) -> float:
    """Bytes that the forward pass of a micro batch keeps, with weights in half precision and the loss's buffers."""
    dtype = torch.float32 if recipe.hardware.mixed_precision == "no" else torch.bfloat16
    few, more, step = 4, 16, 2 if kind == "arpg" else 1
    kept = {
        (layers, tokens): kept_bytes(replace(sizes, num_layers=layers, num_tokens=tokens), kind, dtype)
        for layers in (step, 2 * step)
        for tokens in (few, more)
    }
    slope = {layers: (kept[layers, more] - kept[layers, few]) / (more - few) for layers in (step, 2 * step)}
    fixed = {layers: kept[layers, few] - few * slope[layers] for layers in (step, 2 * step)}
    a_block = (slope[2 * step] - slope[step]) / step  # bytes a token
    blocks = sizes.num_layers - step
    rows = micro_batch * sizes.num_tokens
    in_half = fixed[step] + (fixed[2 * step] - fixed[step]) / step * blocks
    if recipe.hardware.gradient_checkpointing:
        inputs = 4 * sizes.dim * (2 if kind == "randar" else 1)
        return in_half + rows * (slope[step] + a_block + inputs * blocks) + _loss_bytes(rows, sizes)
    return in_half + rows * (slope[step] + a_block * blocks) + _loss_bytes(rows, sizes)


def _loss_bytes(rows: int, sizes: Any) -> float:
    """The logits of a chunk, and their gradients in the format of the products."""
    return 2 * min(4 * rows * sizes.vocab_size, CHUNK_BYTES["cuda"])


def kept_bytes(sizes: Any, kind: str, dtype: torch.dtype) -> float:
    """Bytes of all tensors but the weights that one image's loss keeps for its gradient, on this CPU."""
    model = ARCHITECTURES[kind][0](sizes).train()
    tokens = torch.zeros(1, sizes.num_tokens, dtype=torch.long, device="cpu")
    with keeping(model) as kept, autocast(torch.device("cpu"), dtype):
        next_token_loss(model, tokens, None, model.own_order())
    return float(sum(kept.values()))


@contextmanager
def keeping(model: nn.Module) -> Iterator[Mapping[int, int]]:
    """Bytes of each storage that is kept for the backward pass, by its address; parameters and buffers are not."""
    own = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    alive, kept = [], {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            alive.append(tensor)  # or its address could be another's
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def measure(config: Config, out: Path) -> Measurement:
    """One result: times and memory, in the units that their names give."""
    peak = (data_sheet_peak(config.gpu) or 0) / 1e12
    found = plan(config, read_options(TrainingConfig, recipe_file(config.recipe), config.overrides))
    return Measurement(
        protocol=f"planned, not measured: {config.gpus} × {config.gpu}, {100 * config.mfu:g} % of {peak:g} TFLOP/s "
        "each (bfloat16, data sheet)",
        axes=NO_AXES,
        results=[Result.of(found)],
    )


run = Task("training_plan", Config, measure)

if __name__ == "__main__":
    run_as_command("training_plan")
