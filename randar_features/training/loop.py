"""The loop that every trainer runs in: resume, step, log, evaluate, checkpoint, stop in time."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm.auto import tqdm

from randar_features.training.checkpoint import load_newest, save_checkpoint


class Trainer(Protocol):
    """What `run` drives. Everything drawn in a step must follow from the seed and the step alone."""

    total_steps: int

    def train_step(self, step: int) -> dict[str, float]:
        """One update; returns figures to log, `loss` among them."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out data."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        ...

    def export(self, folder: Path) -> None:
        """Write the present model as a folder that `randar_features.load_model` or a tokenizer reads."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How often to log, evaluate and save, in steps; `max_seconds` ends a stage early, at a checkpoint."""

    log_every: int = 50
    evaluate_every: int = 500
    checkpoint_every: int = 250
    keep_checkpoints: int = 2
    max_seconds: float | None = None


def run(trainer: Trainer, folder: Path, config: LoopConfig) -> bool:
    """Train from the newest checkpoint in `folder` to the end; True when the last step is done.

    Figures go to `folder/log.jsonl`, checkpoints to `folder/checkpoints`, the model to `folder/model`.
    A run that is stopped or killed at any point and started again gives what an uninterrupted one gives.
    """
    saved = load_newest(folder / "checkpoints")
    step = 0
    if saved is not None:
        trainer.load_state_dict(saved["trainer"])
        step = saved["step"]
    log = _Log(folder / "log.jsonl", step)
    deadline = math.inf if config.max_seconds is None else time.monotonic() + config.max_seconds
    with tqdm(total=trainer.total_steps, initial=step, unit="step", dynamic_ncols=True) as bar:
        while step < trainer.total_steps and time.monotonic() < deadline:
            figures = trainer.train_step(step)
            if not math.isfinite(figures["loss"]):
                raise FloatingPointError(f"the loss is {figures['loss']} at step {step}; the newest checkpoint is kept")
            step += 1
            bar.update()
            if step % config.log_every == 0:
                log.write(step, figures)
                bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()})
            if step % config.evaluate_every == 0 or step == trainer.total_steps:
                log.write(step, trainer.evaluate())
            if step % config.checkpoint_every == 0 or step == trainer.total_steps:
                _save(trainer, folder, step, config)
    if step < trainer.total_steps and step % config.checkpoint_every:
        _save(trainer, folder, step, config)
    trainer.export(folder / "model")
    return step >= trainer.total_steps


def _save(trainer: Trainer, folder: Path, step: int, config: LoopConfig) -> None:
    state = {"step": step, "trainer": trainer.state_dict()}
    save_checkpoint(folder / "checkpoints", step, state, config.keep_checkpoints)


class _Log:
    """JSON lines; lines behind the step that training resumes from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, step: int, figures: dict[str, float]) -> None:
        rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 1), **rounded}) + "\n")
