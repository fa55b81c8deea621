"""Train both bundled models on a GPU in a given time: `train_bundled.py --tokens TOKENS --work RUNS --out MODELS`.

One call, from tokens and teacher maps that are ready: `randar tokenize`, scripts/teacher_maps.py (with `--channels 16`
the maps of 80,000 images take 41 MB). A few steps tell how many fit into the time. RUNS holds checkpoints and logs,
MODELS the two folders that `load_model` reads. Run it again to continue.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from randar_features.cli.training import RunOptions, train
from randar_features.data.token_store import TokenStore
from randar_features.options.command import run
from randar_features.options.parse import read_options
from randar_features.options.types import Positive
from randar_features.store.files import read_json, write_json
from randar_features.training.auxiliary.teacher_maps import TeacherMaps
from randar_features.training.bundle import assemble_model
from randar_features.training.generator.recipe import TrainingConfig
from randar_features.training.generator.trainer import RandARTrainer
from randar_features.training.recipes import RECIPES

ALIGNED = (
    "auxiliary.second_showing=0.5",
    "auxiliary.alignment.weight=2.0",
    "auxiliary.alignment.removed_mean=0.0",
)
MODELS = {"randar-tiny": (), "randar-tiny-aligned": ALIGNED}
WARM_STEPS, TIMED_STEPS = 6, 20
USED = 0.9  # of the time: the rest is for evaluation, checkpoints and the export


@dataclass(frozen=True, kw_only=True)
class BundledOptions(RunOptions):
    """Train both bundled models in a given time.

    Attributes:
        out: folder of the two models.
        work: folder of the runs.
        tokens: folder with `train`, `validation` and `tokenizer`.
        aligned_tokens: the same for the aligned model, with `teacher`, the teacher's maps; none: `tokens`.
        minutes: for both models together.
        recipe: options of both; its total_steps is a limit.
        change: key=value, for both, as model.num_layers=4.
    """

    work: Path
    tokens: Path
    aligned_tokens: Path | None = None
    minutes: Positive = 8.0
    recipe: Path = RECIPES / "tiny_gpu.yaml"
    change: tuple[str, ...] = ()


def train_both(options: BundledOptions) -> int:
    """Train, and write the folders; status 75 if `max_minutes` were over first."""
    deadline = options.deadline()
    torch.set_float32_matmul_precision("high")
    inputs = {name: open_tokens(options, name) for name in MODELS}
    for name, changes in MODELS.items():
        folder, (store, validation, teacher) = options.work / name, inputs[name]
        config = read_options(TrainingConfig, options.recipe, [*changes, *options.change])
        if not (folder / "steps.json").exists():
            trial = RandARTrainer(config, store, validation, teacher=teacher)
            write_json(folder / "steps.json", fitting_steps(trial, 60 * options.minutes * USED / len(MODELS)))
        config = replace(config, total_steps=min(read_json(folder / "steps.json"), config.total_steps))
        trainer = RandARTrainer(config, store, validation, teacher=teacher)
        if status := train(trainer, replace(options, out=folder), deadline):
            return status
        assert store.tokenizer is not None  # `open_tokens` has looked
        parts = {"tokenizer": store.tokenizer, "transformer": folder / "model"}
        assemble_model(**parts, manifest=store.manifest, out=options.out / name)
    return 0


def open_tokens(options: BundledOptions, name: str) -> tuple[TokenStore, TokenStore, TeacherMaps | None]:
    """What a model is trained and validated on, and its teacher's maps if it has a teacher."""
    folder = options.aligned_tokens or options.tokens if MODELS[name] else options.tokens
    store, validation = (TokenStore(folder / split) for split in ("train", "validation"))
    if store.tokenizer is None:
        raise ValueError(f"{folder} holds no tokenizer, which the models need")
    return store, validation, TeacherMaps(folder / "teacher", store) if MODELS[name] else None


def fitting_steps(trainer: RandARTrainer, seconds: float) -> int:
    """How many steps of a trainer, which is of no use afterwards, fit into the time; at least 1."""
    start = time.perf_counter()
    for step in range(WARM_STEPS):
        trainer.train_step(step)
    warm = time.perf_counter()
    for step in range(WARM_STEPS, WARM_STEPS + TIMED_STEPS):
        trainer.train_step(step)  # its figures wait for the device
    end = time.perf_counter()
    return max(int((seconds - (end - start)) / ((end - warm) / TIMED_STEPS)), 1)


if __name__ == "__main__":
    raise SystemExit(run(train_both, BundledOptions))
