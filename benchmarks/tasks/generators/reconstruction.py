"""How much a tokenizer loses: `randar bench reconstruction --data FOLDER --network inception`, the papers' rFID.

Images are compared with their reconstructions by a model's tokenizer. `generation` compares samples of a generator with
a training set.
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.result import NO_AXES, Result
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.tasks.generators.generation import main_first
from benchmarks.tasks.generators.judged_sets import (
    JudgeOptions,
    described,
    few,
    is_statistics,
    judged,
    measures,
    open_set,
    processes,
    protocol_of,
    read_statistics,
    save_statistics,
)
from randar_features import load_model
from randar_features.options.types import Count


@dataclass(frozen=True, kw_only=True)
class Config(JudgeOptions):
    """How much a tokenizer loses: images against their reconstructions.

    Attributes:
        data: images; published numbers use ImageNet's 50,000 validation images.
        split: split of the data.
        images: largest number of images, evenly spread; none: all.
        model: model whose tokenizer is measured: its name, a folder that training wrote, or owner/name on the Hub.
        reference: statistics of the same images, a file that --save-statistics wrote; none: they are computed.
        save_statistics: file for mu and sigma of the images.
    """

    data: str
    split: str | None = None
    images: Count | None = None
    model: str = "randar-tiny"
    reference: str | None = None
    save_statistics: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference is not None and not is_statistics(self.reference):
            raise ValueError(
                f"--reference {self.reference}: reconstructions are compared with the images of --data themselves; "
                "leave it out, or give statistics of these images that this task saved"
            )


def measure(config: Config, out: Path) -> Measurement:
    """One result."""
    model = load_model(config.model, config.device)
    size = config.resolution or model.image_size
    if size != model.image_size:
        raise ValueError(f"{model.name} reconstructs images of {model.image_size} pixels, got --resolution {size}")
    plain, through = config.judge(size), config.judge(size, through=model)
    source = open_set(config.data, config.split, config.images, config.cache, config.reading, size=size)
    name = f"{config.data} {config.split or 'all'} {config.images or 'all'}"
    if config.reference is not None:
        real = read_statistics(config.reference, plain, "reconstruction")
    else:
        real = judged(plain, source, config, name)
    fake = judged(through, source, config, name)
    if config.save_statistics is not None and processes().is_main_process:
        save_statistics(config.save_statistics, real, plain, "reconstruction")
    row = {"images": fake.moments.count, **measures(real, fake, plain, config)}
    return Measurement(
        protocol=f"reconstructions by the tokenizer against the same images; {protocol_of(plain, config)}",
        axes={**NO_AXES, "encoder": model.name, "resolution": size},
        data={"evaluation": described(config.data, config.split, config.images)},
        weights={model.name: model.weights_hash, plain.name: plain.described_weights},
        results=[Result.of(main_first(row))],
        warnings=[*real.warnings, *fake.warnings, *few(fake.moments.count or 0, len(fake.moments.mean))],
    )


run = Task("reconstruction", Config, measure)

if __name__ == "__main__":
    run_as_command("reconstruction")
