"""The loop that every trainer runs in: resume, step, log, evaluate, checkpoint, stop in time."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm.auto import tqdm

from randar_features.files import written_whole
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


# Exit status (EX_TEMPFAIL) of a script whose run wants to be continued, so that what builds on it does not start.
UNFINISHED = 75


def run(trainer: Trainer, folder: Path, config: LoopConfig) -> bool:
    """Train from the newest checkpoint in `folder` to the end; True when the last step is done.

    Figures go to `folder/log.jsonl`, checkpoints to `folder/checkpoints`, the model to `folder/model`.
    A run that is stopped or killed at any point and started again gives what an uninterrupted one gives.
    """
    step = _resume(trainer, folder / "checkpoints")
    log = _Log(folder / "log.jsonl", step)
    deadline = math.inf if config.max_seconds is None else time.monotonic() + config.max_seconds
    with tqdm(total=trainer.total_steps, initial=step, unit="step", dynamic_ncols=True) as bar:
        while step < trainer.total_steps and time.monotonic() < deadline:
            figures = trainer.train_step(step)
            _check_finite(figures, step)
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


def _resume(trainer: Trainer, checkpoints: Path) -> int:
    """Take up the newest checkpoint; the number of steps done."""
    saved = load_newest(checkpoints)
    if saved is None:
        return 0
    try:
        trainer.load_state_dict(saved["trainer"])
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split()[:24])
        raise ValueError(
            f"the newest checkpoint in {checkpoints} is of another configuration than the one given: "
            f"continue with that one, or start in another folder ({reason} …)"
        ) from error
    return saved["step"]


def _check_finite(figures: dict[str, float], step: int) -> None:
    """Stop before an update that was not finite can reach a checkpoint: gradients may explode before the loss does."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name} is {value} at step {step}: the update is dropped, the newest checkpoint kept. "
                "Lower the learning rate or gradient_clip, and start again to continue from there"
            )


def _save(trainer: Trainer, folder: Path, step: int, config: LoopConfig) -> None:
    state = {"step": step, "trainer": trainer.state_dict()}
    save_checkpoint(folder / "checkpoints", step, state, config.keep_checkpoints)


class _Log:
    """JSON lines; lines behind the step that training resumes from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        with written_whole(path) as file:
            file.write("".join(f"{line}\n" for line in kept).encode())

    def write(self, step: int, figures: dict[str, float]) -> None:
        rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 1), **rounded}) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf  # torn by a kill, so behind the checkpoint
