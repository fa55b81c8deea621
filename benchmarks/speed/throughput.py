"""Speed of feature extraction compared with a straightforward implementation: `python -m benchmarks.throughput`.

Both encode the same images with the same weights and give the features of the middle layer of a RandAR
(default: RandAR-L at 256×256, random weights):

- straightforward: float32, one explicit causal mask, attention by matrix products and softmax, rotation on
  real pairs, every layer, logits computed, as one calls the published model;
- this package: `encode_tokens`, in the fastest number format of the machine.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.options import DeviceOptions, DType, RunOptions
from benchmarks.reference import plain
from benchmarks.result import NO_AXES, Result, resolved_dtype
from benchmarks.run import Measurement, Task, run_as_command
from randar_features import encode_tokens, sequence
from randar_features.hub import choose_device
from randar_features.layers.block import Block
from randar_features.models import RandAR, RandARConfig, middle_layer
from randar_features.options.types import Count
from randar_features.precision import autocast, name_of
from randar_features.timing import matrix_peak, seconds

SIZES = {
    "randar-l": {"num_layers": 24, "num_heads": 16, "dim": 1024, "vocab_size": 16384, "num_tokens": 256},
    "randar-xl": {"num_layers": 36, "num_heads": 20, "dim": 1280, "vocab_size": 16384, "num_tokens": 256},
    "randar-tiny": {"num_layers": 4, "num_heads": 4, "dim": 192, "vocab_size": 512, "num_tokens": 64},
}


def straightforward(model: RandAR, tokens: Tensor, layer: int, context: str) -> Tensor:
    """Features (B, N, D) in raster order the plain way; computes every layer and the logits besides."""
    x, rotary = model.embed(tokens, None, None, context)
    length, config = x.shape[1], model.config
    sees = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
    wanted = x
    for index, states in enumerate(plain.stream(dict(model.named_parameters()), x, rotary, config.num_heads, sees)):
        x = states
        if index == layer:
            wanted = x
    model.output(plain.norm(x, model.norm.get_parameter("weight"), config.norm_eps))
    states = wanted[:, sequence.read_positions(config.num_tokens, context, "image")]
    return sequence.to_raster(states, sequence.read_order(sequence.raster_order(config.num_tokens, x.device), context))


def forward_flops(model: RandAR, *, layers: int, context: str, logits: bool = False, causal: bool = True) -> float:
    """Multiply-adds times two of one image through `layers` blocks; of the last one only what its readers need.

    `logits`: every layer in full, the output layer at every row. `causal`: attention counted as half.
    """
    config = model.config
    length = sequence.sequence_length(config.num_tokens, context)
    block = cast(Block, model.layers[0])
    projections = block.attention.wqkv.weight.numel()
    after = block.attention.wo.weight.numel() + sum(p.numel() for p in block.feed_forward.parameters())
    attention = 2 * length * length * config.dim * (0.5 if causal else 1.0)
    whole = layers * (length * (projections + after) + attention)
    left_out = -length * model.output.weight.numel() if logits else (length - config.num_tokens) * after
    return 2 * (whole - left_out)


def random_model(sizes: dict[str, Any], device: torch.device | str, *, compile_blocks: bool = False) -> RandAR:
    """A float32 RandAR of some sizes, such as one of `SIZES`, with seeded random weights, none of them zero."""
    torch.manual_seed(0)
    with torch.device(device):
        model = RandAR(RandARConfig(**sizes, num_classes=1000)).eval().requires_grad_(False)
        torch.nn.init.normal_(model.output.weight, std=0.02)
    for block in model.blocks if compile_blocks else ():
        block.compile()
    return model


@torch.inference_mode()
def throughput(
    model: RandAR,
    *,
    batch_size: int,
    context: str,
    repeats: int,
    plain_batch: int,
    dtype: torch.dtype,
    peak: float,
) -> dict[str, Any]:
    """Images/s of both ways, their cosine similarity, and the share of the machine's measured matrix peak."""
    config, device = model.config, model.device
    tokens = torch.randint(config.vocab_size, (batch_size, config.num_tokens), device=device)
    layer = middle_layer(model)

    def ours() -> Tensor:
        with autocast(device, dtype):
            return encode_tokens(model, tokens, layers=layer, context=context)[:, 0].flatten(1, 2)

    def plain() -> Tensor:
        return straightforward(model, tokens[:plain_batch], layer, context)

    similarity = F.cosine_similarity(ours()[:plain_batch], plain(), dim=-1)
    fast, slow = seconds(ours, repeats, device) / batch_size, seconds(plain, repeats, device) / plain_batch
    flops = forward_flops(model, layers=layer + 1, context=context)
    plain_flops = forward_flops(model, layers=config.num_layers, context=context, logits=True, causal=False)
    return {
        "context": context,
        "layer": layer,
        "batch_size": batch_size,
        "dtype": name_of(dtype),
        "images_per_second": 1 / fast,
        "straightforward_batch_size": plain_batch,
        "straightforward_images_per_second": 1 / slow,
        "speedup": slow / fast,
        "least_cosine_similarity": similarity.min().item(),
        "gflops_per_image": flops / 1e9,
        "straightforward_gflops_per_image": plain_flops / 1e9,
        "achieved_gflops_per_second": flops / fast / 1e9,
        "straightforward_achieved_gflops_per_second": plain_flops / slow / 1e9,
        "matrix_peak_gflops_per_second": peak / 1e9,
        "share_of_peak": flops / fast / peak,
    }


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions, DeviceOptions):
    """Images per second of feature extraction, compared with a straightforward implementation.

    Attributes:
        model: size of the model.
        context: how the image is shown.
        batch_size: images in one forward pass; none: 64 on CUDA, else 4.
        plain_batch: batch size of the straightforward implementation; none: the same.
        repeats: number of runs; the fastest counts.
        dtype: number format of the products; auto: the fastest of this machine.
    """

    model: Literal["randar-l", "randar-xl", "randar-tiny"] = "randar-l"
    context: sequence.Context = "reverse"
    batch_size: Count | None = None
    plain_batch: Count | None = None
    repeats: Count = 3
    dtype: DType = "auto"


def measure(config: Config, out: Path) -> Measurement:
    """One result: both ways, their ratio, and the share of the machine's peak."""
    device = choose_device(config.device)
    batch = config.batch_size or (64 if device.type == "cuda" else 4)
    dtype = getattr(torch, resolved_dtype(config.dtype, device))
    found = throughput(
        random_model(SIZES[config.model], device),
        batch_size=batch,
        context=config.context,
        repeats=config.repeats,
        plain_batch=config.plain_batch or batch,
        dtype=dtype,
        peak=matrix_peak(dtype, device),
    )
    axes = {**NO_AXES, "encoder": config.model, "context": found.pop("context"), "layer": found.pop("layer")}
    rows = [Result.of(found)]
    return Measurement(protocol="images a second of features at the middle layer", axes=axes, results=rows)


run = Task("throughput", Config, measure)

if __name__ == "__main__":
    run_as_command("throughput")
