"""Speed of a training step compared with the published loop: `python -m benchmarks.training_speed`.

Both train the same RandAR (default: RandAR-L at 256×256, random weights and tokens), each in a process of its
own, with float32 weights:

- published: the published step, restated plainly in `benchmarks.reference.published_training`;
- this package: a step of `RandARTrainer`, as scripts/train_randar.py takes it.

Both compute products in bfloat16 on a machine that is fast in it, else in float32. `--published-dtype bfloat16`
computes the published step in bfloat16, as its configuration does, on every machine. On a machine with a GPU,
CUDA_VISIBLE_DEVICES= (empty) measures the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from benchmarks.options import RunOptions
from benchmarks.reference.published_training import PublishedTraining
from benchmarks.result import NO_AXES, Result
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.speed.index_speed import apart
from benchmarks.speed.throughput import SIZES
from probes.index import process_memory
from randar_features.data.token_store import TokenStore
from randar_features.hub import choose_device
from randar_features.models import RandAR, RandARConfig
from randar_features.options.types import Count
from randar_features.precision import fastest_dtype, name_of
from randar_features.timing import matrix_peak
from randar_features.training.distributed import HardwareConfig, keep_freed_memory
from randar_features.training.flops import peak_flops, training_flops
from randar_features.training.generator.recipe import TrainingConfig
from randar_features.training.generator.trainer import RandARTrainer

CLASSES = 1000
RECIPE: dict[str, Any] = {"learning_rate": 4e-4, "weight_decay": 0.05, "gradient_clip": 1.0, "ema_decay": 0.9999}
WAYS = ("published", "this package")


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions):
    """Seconds of a training step, compared with the published loop.

    Attributes:
        model: size of the model: randar-l, randar-xl or randar-tiny.
        layers: number of blocks, to measure a shallower model; none: as many as the model has.
        batch_size: images in a step; none: 256 on a GPU, 4 on a CPU.
        micro_batch_size: images in one forward pass, of both programs; none: 64 on a GPU, all on a CPU.
        repeats: number of steps after one to warm up; the fastest counts.
        compile: compile this package's blocks with torch.compile.
        gradient_checkpointing: compute this package's blocks again for the gradients, to save memory.
        published_dtype: number format of the published loop; none: that of this package.
    """

    model: str = "randar-l"
    layers: Count | None = None
    batch_size: Count | None = None
    micro_batch_size: Count | None = None
    repeats: Count = 3
    compile: bool = False
    gradient_checkpointing: bool = False
    published_dtype: Literal["float32", "bfloat16"] | None = None

    def resolved(self) -> Config:
        """The options with a number in the place of each None that stands for one; ValueError for what cannot be."""
        if self.model not in SIZES:
            raise ValueError(f"model is {self.model!r}, expected one of {', '.join(SIZES)}")
        cuda = choose_device(None).type == "cuda"
        batch_size = self.batch_size or (256 if cuda else 4)
        return replace(
            self,
            layers=self.layers or SIZES[self.model]["num_layers"],
            batch_size=batch_size,
            micro_batch_size=self.micro_batch_size or (min(64, batch_size) if cuda else batch_size),
        )

    def tokens(self) -> RandomTokens:
        """Data for four different steps."""
        sizes, batch_size = self.sizes, self.batch_size or 0
        return RandomTokens(4 * batch_size, sizes["num_tokens"], sizes["vocab_size"])

    @property
    def sizes(self) -> dict[str, Any]:
        """Fields of `RandARConfig`."""
        return {**SIZES[self.model], "num_layers": self.layers, "num_classes": CLASSES}


class RandomTokens(TokenStore):
    """Random tokens in memory, enough for a few steps."""

    def __init__(self, count: int, num_tokens: int, vocab_size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(vocab_size, (count, 1, num_tokens), generator=generator, device="cpu")
        self.labels = torch.randint(CLASSES, (count,), generator=generator, device="cpu")
        self.manifest = {
            "vocab_size": vocab_size,
            "label_names": [str(index) for index in range(CLASSES)],
            "tokenizer": None,
        }

    @property
    def content(self) -> str:
        """A name, since there is no store."""
        return "random"

    @property
    def num_crops(self) -> int:
        """One."""
        return self.tokens.shape[1]

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.tokens.shape[2]

    @override
    def batch(self, indices: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
        return self.tokens[indices, crops], self.labels[indices]


def make_trainer(config: Config, *, model_options: Mapping[str, Any] | None = None, **options: Any) -> RandARTrainer:
    """This package's trainer on random tokens; further `options` of its configuration and of its model's."""
    sizes, store = config.sizes, config.tokens()
    model = {name: sizes[name] for name in ("num_layers", "num_heads", "dim")} | dict(model_options or {})
    hardware = HardwareConfig(
        micro_batch_size=config.micro_batch_size,
        compile=config.compile,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    recipe = RECIPE | {"hardware": hardware, "batch_size": len(store) // 4, "schedule": "constant", "warmup_steps": 0}
    return RandARTrainer(TrainingConfig(model=model, **recipe | options), store, store)


def our_step(config: Config) -> Callable[[int], float]:
    """A function that takes step s and gives its loss."""
    if choose_device(None).type == "cpu":
        keep_freed_memory()
    trainer = make_trainer(config)
    return lambda step: trainer.train_step(step)["loss"]


def published_step(config: Config) -> Callable[[int], float]:
    """The published loop's step, as `our_step`."""
    device = choose_device(None)
    dtype = getattr(torch, config.published_dtype) if config.published_dtype else fastest_dtype(device)
    with device:
        model = RandAR(RandARConfig(**config.sizes)).train()
    training = PublishedTraining(model, dtype=dtype, micro_batch_size=config.micro_batch_size, **RECIPE)
    store = config.tokens()
    batches = torch.arange(len(store), device="cpu").chunk(4)

    def step(number: int) -> float:
        rows = batches[number % 4]
        tokens, classes = store.batch(rows, torch.zeros_like(rows))
        dropped = torch.rand(len(classes), device="cpu") < 0.1
        classes = torch.where(dropped, CLASSES, classes)
        return training.train_step(tokens.to(device), classes.to(device))[0]

    return step


def measure_way(way: str, config: Config) -> dict[str, Any]:
    """Seconds and processor seconds of the fastest step, losses, and the most memory that was in use, in bytes."""
    torch.manual_seed(0)
    cuda = choose_device(None).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    step = (published_step if way == "published" else our_step)(config)
    losses, wall, processor = [], [], []
    for number in range(config.repeats + 1):
        start, start_processor = time.perf_counter(), time.process_time()
        losses.append(step(number))  # waits for the device
        if cuda:
            torch.cuda.synchronize()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    memory = torch.cuda.max_memory_allocated() if cuda else process_memory(peak=True)
    return {
        "seconds": min(wall[1:]),
        "processor_seconds": min(processor[1:]),
        "memory_bytes": memory,
        "losses": losses,
    }


def measured(way: str, config: Config) -> dict[str, Any]:
    """`measure_way` of a resolved configuration, with `images_per_second` and `mfu`."""
    values, images = measure_way(way, config), len(config.tokens()) // 4
    rate = images / values["seconds"]
    return values | {"images_per_second": rate, "mfu": rate * training_flops(RandARConfig(**config.sizes)) / peak()}


def peak() -> float:
    """FLOP/s of matrix products on the device in the format of training."""
    device = choose_device(None)
    dtype = fastest_dtype(device)
    return peak_flops(device, dtype) if device.type == "cuda" else matrix_peak(dtype, device)


def measure(config: Config, out: Path) -> Measurement:
    """Both ways, one after the other: their ratio, and the share of the machine's peak that each reaches.

    `speedup_at_peak`: how many times faster than the published step one would be that computes nothing but
    the model's products, all at the rate of a large matrix product. More cannot be had in this number format.
    """
    config = config.resolved()
    ways = {way: apart(measured, way, config) for way in WAYS}
    images, flops = len(config.tokens()) // 4, training_flops(RandARConfig(**config.sizes))
    fastest = peak()
    published, ours = (ways[way] for way in WAYS)
    entries = {
        **{f"{way}_{name}": value for way, values in ways.items() for name, value in values.items()},
        "speedup": published["seconds"] / ours["seconds"],
        "speedup_of_processor_time": published["processor_seconds"] / ours["processor_seconds"],
        "speedup_at_peak": published["seconds"] / (images * flops / fastest),
        "memory_share": ours["memory_bytes"] / published["memory_bytes"],
        "flops_per_image": flops,
        "peak_flops_per_second": fastest,
    }
    return Measurement(
        protocol="seconds of a training step, beside the published one",
        axes=NO_AXES,
        results=[Result.of(entries)],
        details={"training_dtype": name_of(fastest_dtype(choose_device(None))), "resolved": asdict(config)},
    )


run = Task("training_speed", Config, measure)

if __name__ == "__main__":
    run_as_command("training_speed")
