"""Compare losses in addition to next-token prediction: `train_objectives.py --tokens TOKENS --probe IMAGES --out RUNS`.

Trains each variant of the recipe, objectives.yaml, into RUNS/NAME, with the same images, seeds and first weights, then
writes RUNS/result.json with its card: the losses and the probe at the end of each.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.result import NO_AXES, Result, data_hash
from benchmarks.run import Measurement, Task
from randar_features.cli.training import RunOptions, train
from randar_features.data import open_images
from randar_features.data.token_store import TokenStore
from randar_features.features import encode_layer
from randar_features.options.command import run
from randar_features.options.parse import read_options
from randar_features.options.types import Count, nearest
from randar_features.training.auxiliary.teacher_maps import TeacherMaps
from randar_features.training.generator.online_probe import OnlineProbe
from randar_features.training.generator.recipe import TrainingConfig
from randar_features.training.generator.trainer import RandARTrainer
from randar_features.training.log import EVERY_LINE
from randar_features.training.recipes import RECIPES

PROTOCOL = (
    "each variant trained on the same images in the same order from the same weights; held-back nats a token; accuracy "
    "(%) of 20 nearest neighbours and of ridge regression on standardised mean-pooled features of one block, null class"
)
ALIGNED = ("auxiliary.alignment.weight=0.5", "auxiliary.alignment.layer=2")
DISTILLED = (
    "auxiliary.self_distillation.weight=0.5",
    "auxiliary.self_distillation.student_layer=1",
    "auxiliary.self_distillation.teacher_layer=2",
)
TWICE = ("auxiliary.second_showing=0.5",)
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "alignment": ALIGNED,
    "alignment_twice": ALIGNED + TWICE,
    "self_distillation": DISTILLED,
    "self_distillation_twice": DISTILLED + TWICE,
    "class_head_twice": ("auxiliary.class_head.weight=0.1", "auxiliary.class_head.layer=2", *TWICE),
    "alignment_self_distillation_twice": (
        *ALIGNED, *DISTILLED, "auxiliary.self_distillation.weight=0.25", *TWICE,
    ),
}  # fmt: skip
"""What each changes in the recipe."""


@dataclass(frozen=True, kw_only=True)
class ObjectivesOptions(RunOptions):
    """Compare losses in addition to next-token prediction, with equal images, seeds and first weights.

    Run it again to continue.

    Attributes:
        tokens: folder with `train`, `validation` and `teacher`.
        probe: labelled images, a folder or Parquet files.
        probe_split: split of those images; none: all of them.
        probe_images: number of these images; a quarter is the test set.
        recipe: options of all variants.
        variants: names of some; none: all.
        change: key=value, for all of them, as total_steps=600.
    """

    tokens: Path
    probe: str
    probe_split: str | None = None
    probe_images: Count = 4000
    recipe: Path = RECIPES / "objectives.yaml"
    variants: tuple[str, ...] | None = None
    change: tuple[str, ...] = ()


def compare(options: ObjectivesOptions) -> int:
    """Train each variant, and write the table of those that are done; status 75 if the time was up first."""
    deadline, start = options.deadline(), time.perf_counter()
    chosen = options.variants or [*VARIANTS]
    if unknown := [name for name in chosen if name not in VARIANTS]:
        raise ValueError(f"no variant {unknown[0]!r}: {nearest(unknown[0], [*VARIANTS])}")
    store = TokenStore(options.tokens / "train")
    images = open_images(options.probe, split=options.probe_split)
    probe = OnlineProbe.of_store(store, encode_layer, images, count=options.probe_images)
    task = Task("objectives", ObjectivesOptions, found)
    for name in chosen:
        config = read_options(TrainingConfig, options.recipe, [*VARIANTS[name], *options.change])
        teacher = TeacherMaps(options.tokens / "teacher", store) if config.auxiliary.alignment.weight else None
        validation = TokenStore(options.tokens / "validation")
        trainer = RandARTrainer(config, store, validation, teacher=teacher, probe=probe)
        own = replace(options, out=options.out / name)
        if status := train(trainer, own, deadline):
            return status
        task.write(options, options.out, found(options, options.out), time.perf_counter() - start)
    return 0


def found(options: ObjectivesOptions, out: Path) -> Measurement:
    """The last figures in the log of each variant that has one, the loss of held-back images first."""
    logs = {name: out / name / "log.jsonl" for name in VARIANTS}
    results = []
    for name, log in logs.items():
        figures: dict[str, Any] = {}
        for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
            figures |= {key: value for key, value in json.loads(line).items() if key not in EVERY_LINE}
        if "validation_loss" in figures:
            results.append(Result.of({"validation_loss": figures.pop("validation_loss"), "variant": name, **figures}))
    return Measurement(
        protocol=PROTOCOL,
        axes=NO_AXES,
        data={"tokens": data_hash(options.tokens / "train"), "probe": data_hash(options.probe)},
        results=results,
        details={name: changes for name, changes in VARIANTS.items() if logs[name].exists()},
    )


if __name__ == "__main__":
    raise SystemExit(run(compare, ObjectivesOptions))
