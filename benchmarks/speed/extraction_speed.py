"""From JPEG files to features on disk: `python -m benchmarks extraction_speed`.

The files are of ImageNet's usual size, 500×375, parts of scikit-learn's two photographs. Measured in turn, several
times: the whole, as `randar extract` does it; and each of its parts alone: decoding by as many processes, the model
(tokenizer and transformer, which share a device) on images that are in memory, writing values that are there. The whole
cannot be faster than the slowest part, and without overlap it would take as long as all of them.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.options import DType, RunOptions
from benchmarks.result import NO_AXES, Result
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.speed.growth import Config as GrowthConfig
from benchmarks.speed.growth import write_images
from randar_features import extract_to_store, load_model
from randar_features.data import open_images
from randar_features.features.encode import encode
from randar_features.features.spec import model_specs
from randar_features.hub import Model
from randar_features.options.shared import ModelOptions
from randar_features.options.types import Count, Natural

WIDTH, HEIGHT, QUALITY = 500, 375, 90


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions, ModelOptions):
    """Images per second from JPEG files to a store, compared with each part alone.

    Attributes:
        images: number of files.
        batch_size: images in one forward pass.
        num_workers: processes that decode images; 0: this one.
        threads: threads of the model; none: PyTorch's default.
        repeats: number of runs of the whole and of each part, in turn; the median counts.
        dtype: number format of the products; auto: the fastest of this machine.
    """

    images: Count = 256
    batch_size: Count = 32
    num_workers: Natural = 1
    threads: Count | None = None
    repeats: Count = 3
    dtype: DType = "auto"


def write_files(folder: Path, count: int) -> None:
    """JPEG files of random parts of two photographs, scaled to one size."""
    generator = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        width = int(generator.integers(photograph.width // 2, photograph.width))
        height = min(width * HEIGHT // WIDTH, photograph.height)
        left = int(generator.integers(photograph.width - width))
        top = int(generator.integers(photograph.height - height + 1))
        part = photograph.crop((left, top, left + width, top + height))
        part.resize((WIDTH, HEIGHT)).save(folder / f"{number:06d}.jpg", quality=QUALITY)


def parts(config: Config, model: Model, folder: Path) -> dict[str, Callable[[Path], object]]:
    """The whole and its parts, each called with an empty folder."""
    source = open_images(folder)
    batch = next(source.batches(model.image_size, config.batch_size)).pixels
    specs = model_specs(model)
    calls = -(-config.images // len(batch))
    dim = len(specs) * model.transformer.config.dim

    options: Any = {"batch_size": config.batch_size, "num_workers": config.num_workers, "dtype": config.dtype}

    def whole(out: Path) -> None:
        extract_to_store(folder, out, model, progress=False, **options)

    def decode(out: Path) -> None:
        for _ in source.batches(model.image_size, config.batch_size, config.num_workers):
            pass

    @torch.no_grad()
    def compute(out: Path) -> None:
        for _ in range(calls):
            [values.mean(dim=(1, 2)).cpu() for values in encode(model, batch, specs, dtype=config.dtype).values()]

    return {
        "whole": whole,
        "decode": decode,
        "model": compute,
        "write": lambda out: write_images(config.images, GrowthConfig(dim=dim), out),
    }


def measure(config: Config, out: Path) -> Measurement:
    """One result: images/s of the whole and of each part, and their ratios."""
    if config.threads:
        torch.set_num_threads(config.threads)
    model = load_model(config.model, device=config.device)
    spent: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), config.images)
        every = parts(config, model, Path(folder))
        for _ in range(config.repeats + 1):
            for name, work in every.items():
                with tempfile.TemporaryDirectory() as empty:
                    start = time.perf_counter()
                    work(Path(empty))
                    spent.setdefault(name, []).append(time.perf_counter() - start)
    taken = {name: statistics.median(times[1:]) for name, times in spent.items()}  # the first warms up
    return Measurement(
        protocol=f"{config.images} JPEG files of {WIDTH}×{HEIGHT} to pooled features of its own layers on disk, "
        f"median of {config.repeats} runs in turn with those of the parts",
        axes=NO_AXES | {"encoder": model.name},
        results=[Result.of(rates(taken, config.images))],
        weights={model.name: model.weights_hash},
    )


def rates(taken: dict[str, float], images: int) -> dict[str, Any]:
    """Images/s, the whole as a share of the slowest part's speed, and as a multiple of all after one another."""
    alone = {name: seconds for name, seconds in taken.items() if name != "whole"}
    return {
        **{f"{name}_images_per_second": images / seconds for name, seconds in taken.items()},
        "share_of_slowest": max(alone.values()) / taken["whole"],
        "times_one_after_another": sum(alone.values()) / taken["whole"],
        "slowest": max(alone, key=alone.__getitem__),
    }


run = Task("extraction_speed", Config, measure)

if __name__ == "__main__":
    run_as_command("extraction_speed")
