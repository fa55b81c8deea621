"""The loop that every trainer runs in: resume, step, log, evaluate, checkpoint, stop in time."""

import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather
from torch import Tensor

from randar_features.hub.registry import MODEL_FOLDER
from randar_features.options.types import Count, check_ranges, differences
from randar_features.store.files import write_json
from randar_features.store.lock import locked
from randar_features.training.checkpoint import newest_checkpoint, remove_old, save_state, whole_checkpoint
from randar_features.training.log import Log, Progress

# Sections of a configuration that may differ when a run is continued: they change no result, or rounding alone.
FREE_SECTIONS = ("loop", "hardware")
NUMBER_FORMAT = "mixed_precision"
# Checkpoints once did not tell which images a tokenizer or a network saw, and from which weights a transformer began.
UNTOLD = ("data.content: 'absent'", "data.initial: 'absent'")
# In the folder of a model whose training was stopped early: how far it came.
UNFINISHED_MARK = "unfinished.json"
# Of a line of the log, what depends on when and where the run was made.
UNREPEATABLE = ("time", "images_per_second", "tokens_per_second", "mfu")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How often to log, evaluate, draw and save, in steps.

    Attributes:
        log_every: steps between two lines of the log.
        evaluate_every: steps between two evaluations on validation images.
        preview_every: steps between two sheets of samples; none: no sheets.
        checkpoint_every: steps between two checkpoints.
        keep_checkpoints: number of newest checkpoints to keep.
        keep_every: also keep checkpoints whose step is a multiple of this; none: only the newest.
        checkpoint_file_mb: largest size of a file of a checkpoint, in megabytes; a single tensor may be larger.
        log_writers: where the log goes besides log.jsonl, such as tensorboard; none: TensorBoard if it is installed.
    """

    log_every: Count = 50
    evaluate_every: Count = 500
    preview_every: Count | None = None
    checkpoint_every: Count = 250
    keep_checkpoints: Count = 2
    keep_every: Count | None = None
    checkpoint_file_mb: Count = 15
    log_writers: list[str] | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "loop.")


class Trainer(Protocol):
    """What `run` drives. Everything drawn in a step must follow from the seed and the step alone.

    Where several processes train together, each calls every method; only the main one writes.
    """

    config: Any
    """Model, recipe and intervals: `total_steps`, `batch_size` and `loop`, a `LoopConfig`, at least."""

    def train_step(self, step: int) -> dict[str, float]:
        """One update; returns figures to log, `loss` among them."""

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out data."""

    def pictures(self) -> Mapping[str, Tensor]:
        """Images (n, 3, S, S) in [0, 1] to log, by name; none unless a trainer says so."""
        return {}

    def rates(self, steps: int, seconds: float) -> dict[str, float]:
        """Throughput, of that many steps in that time: `images_per_second` at least."""
        return {"images_per_second": steps * self.config.batch_size / seconds}

    def settings(self) -> dict[str, Any]:
        """Configuration and data, as JSON holds them: what a run must have in common with the one it continues."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""

    def export(self, folder: Path) -> None:
        """Write the present model as a folder that `randar_features.load_model` or a tokenizer reads."""


def run(
    trainer: Trainer,
    folder: Path,
    config: LoopConfig,
    *,
    max_seconds: float | None = None,
    allow_changes: bool = False,
) -> bool:
    """Train from the newest checkpoint in `folder` to the end; True when the last step is done.

    Figures go to `folder/log.jsonl`, checkpoints to `folder/checkpoints`, the model to `folder/model`, which holds the
    file `unfinished.json` until the last step is done, and is not written before the first one is.
    A run that is stopped or killed at any point and started again gives what an uninterrupted one gives.

    Args:
        trainer: what is trained.
        folder: the run's.
        config: intervals.
        max_seconds: end the stage at the first step after that time, with a checkpoint.
        allow_changes: continue from a checkpoint of other settings.

    Raises:
        ValueError: the checkpoint to continue from is of other settings (the message names them), and
            `allow_changes` is off or cannot help; or the processes find checkpoints of different steps.
        FloatingPointError: a figure of a step is not finite.
        FolderLockedError: another training writes to `folder`.
    """
    with locked(folder, rank=PartialState().process_index):
        return _run(trainer, folder, config, max_seconds, allow_changes)


def _run(trainer: Trainer, folder: Path, config: LoopConfig, max_seconds: float | None, allow_changes: bool) -> bool:
    step = _resume(trainer, folder / "checkpoints", allow_changes)
    total, main = trainer.config.total_steps, PartialState().is_main_process
    if step >= total:
        _export(trainer, folder / MODEL_FOLDER, step, total)
        return True
    log = Log(folder, step, writers=config.log_writers, settings=trainer.settings(), active=main)
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    logged, seconds = step, 0.0
    progress = Progress(folder.name, step, total, seconds=max_seconds, active=main)
    with closing(log), closing(progress):
        while step < total and not _is_over(deadline):
            start = time.perf_counter()
            figures = trainer.train_step(step)
            seconds += time.perf_counter() - start
            check_finite(figures, step)
            step += 1
            progress.advance(figures)
            if step % config.log_every == 0:
                figures |= trainer.rates(step - logged, seconds)
                logged, seconds = step, 0.0
                log.write(step, figures)
                progress.show(figures)
            last = step == total
            if step % config.evaluate_every == 0 or last:
                log.write(step, trainer.evaluate())
            if config.preview_every and (step % config.preview_every == 0 or last):
                for name, images in trainer.pictures().items():
                    log.images(step, name, images)
            if step % config.checkpoint_every == 0 or last:
                _save(trainer, folder, step, config)
    if step < total and step % config.checkpoint_every:
        _save(trainer, folder, step, config)
    _export(trainer, folder / MODEL_FOLDER, step, total)
    return step >= total


def _export(trainer: Trainer, folder: Path, step: int, total: int) -> None:
    """Write the model, unless nothing has been trained; one that is not done is marked so."""
    if not step:
        return
    main, mark = PartialState().is_main_process, folder / UNFINISHED_MARK
    if main and step < total:
        write_json(mark, {"step": step, "total_steps": total})
    trainer.export(folder)
    if main and step >= total:
        mark.unlink(missing_ok=True)


def _is_over(deadline: float | None) -> bool:
    """Whether the main process's time is up: all must stop at the same step."""
    if deadline is None:
        return False
    over = torch.tensor(float(time.monotonic() >= deadline), device="cpu")
    state = PartialState()
    return bool(broadcast(over.to(state.device)) if state.num_processes > 1 else over)


def _resume(trainer: Trainer, checkpoints: Path, allow_changes: bool) -> int:
    """Take up the newest checkpoint; the number of steps done."""
    saved = newest_checkpoint(checkpoints)
    _check_same_step(0 if saved is None else saved.step, checkpoints)
    if saved is None:
        return 0
    other = f"{saved.folder} is of another configuration than the one given"
    before, now = _decisive(saved.settings), _decisive(trainer.settings())
    if before.get(NUMBER_FORMAT) is None:  # checkpoints once did not tell
        before, now = ({k: v for k, v in each.items() if k != NUMBER_FORMAT} for each in (before, now))
    changes = [change for change in differences(before, now) if not change.startswith(UNTOLD)]
    if changes and not allow_changes:
        raise ValueError(
            f"{other}: {'; '.join(changes)}. Continue with the old one, start in another folder, "
            "or allow changes (--allow-changes) to go on with the new one"
        )
    try:
        trainer.load_state_dict(saved.state())
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split()[:24])
        raise ValueError(f"{other}: continue with that one, or start in another folder ({reason} …)") from error
    return saved.step


def _check_same_step(step: int, checkpoints: Path) -> None:
    """ValueError if another process continues from another step, as where its machine has a folder of its own."""
    steps = gather(torch.tensor([step], device=PartialState().device)).tolist()
    if len(set(steps)) > 1:
        raise ValueError(
            f"the newest checkpoints that the processes find in {checkpoints} are of steps {steps} (0: none): give a "
            "folder that all machines share"
        )


def _decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change what is trained: of the hardware's the number format alone."""
    decisive = {name: value for name, value in settings.items() if name not in FREE_SECTIONS}
    hardware = settings.get("hardware")
    return decisive | ({NUMBER_FORMAT: hardware[NUMBER_FORMAT]} if hardware and NUMBER_FORMAT in hardware else {})


def check_finite(figures: Mapping[str, float], step: int) -> None:
    """Stop before an update that is not finite is saved: gradients may explode before the loss does."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name} is {value} at step {step}: the update is dropped, the newest checkpoint kept if there is one. "
                "Lower the learning rate or gradient_clip and start again with --allow-changes to continue from "
                "there; where it stops again at once, remove that checkpoint too"
            )


def _save(trainer: Trainer, folder: Path, step: int, config: LoopConfig) -> None:
    """Every process takes part, since each may hold a part of the weights; the main one writes."""
    processes, checkpoints = PartialState(), folder / "checkpoints"
    main = processes.is_main_process
    with whole_checkpoint(checkpoints, step, trainer.settings(), active=main) as aside:
        trainer.export(aside)
        state = trainer.state_dict()
        if main:
            save_state(aside, state, config.checkpoint_file_mb << 20)
    if main:
        remove_old(checkpoints, step, config.keep_checkpoints, config.keep_every)
    processes.wait_for_everyone()
