"""The log of a run, in JSON lines and for other writers, and its progress."""

import importlib.util
import json
import logging
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from torch import Tensor
from tqdm.auto import tqdm

from randar_features.data import contact_sheet, to_image
from randar_features.store.files import written_whole

SHEET_COLUMNS = 8
LINE_SECONDS = 30.0  # between two lines of progress where there is no terminal
FIRST_SECONDS = 5.0  # before the first, so that it can tell an end

logger = logging.getLogger(__name__)
EVERY_LINE = ("step", "time")  # what a line of the log has besides figures


class Log:
    """`folder/log.jsonl`, `folder/samples/NAME-step-XXXXXXXX.png` and any writers.

    Args:
        folder: the run's.
        step: steps done where training resumes; what was logged after it is dropped, with a line that a kill tore.
        writers: of `WRITERS`; None: TensorBoard if it is installed.
        settings: of the run, shown by the writers that can.
        active: False on all processes but the main one: nothing is read or written.

    Raises:
        ValueError: an unknown writer.
        ModuleNotFoundError: a writer's package is not installed.
    """

    def __init__(
        self,
        folder: Path,
        step: int = 0,
        *,
        writers: Sequence[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        active: bool = True,
    ) -> None:
        self.folder, self.path, self.active = folder, folder / "log.jsonl", active
        self.writers: list[GeneralTracker] = []
        if not active:
            return
        installed = importlib.util.find_spec("tensorboard") is not None
        names = ["tensorboard"] * installed if writers is None else writers
        _check_writers(names)
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        with written_whole(self.path) as file:
            file.write("".join(f"{line}\n" for line in lines if _step_of(line) <= step).encode())
        PartialState()  # accelerate's writers ask it which process is the main one
        self.writers = [WRITERS[name](folder, step, settings or {}) for name in names]
        for writer in self.writers:
            writer.start()
            if not step and isinstance(writer, TensorBoardTracker):
                text = json.dumps(settings or {}, indent=2, default=str)
                writer.writer.add_text("settings", f"```\n{text}\n```")

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures after `step` steps; JSON keeps six digits of each."""
        if not self.active:
            return
        rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 1), **rounded}) + "\n")
        for writer in self.writers:
            writer.log(dict(figures), step=step)

    def images(self, step: int, name: str, images: Tensor) -> None:
        """Add a sheet of the images (n, 3, S, S) in [0, 1], eight a row."""
        if not self.active:
            return
        sheet = contact_sheet(list(images.detach().float().cpu()), columns=min(SHEET_COLUMNS, len(images)))
        picture = to_image(sheet)
        with written_whole(self.folder / "samples" / f"{name}-step-{step:08d}.png") as file:
            picture.save(file, format="PNG")
        for writer in self.writers:
            how = {"dataformats": "NHWC"} if isinstance(writer, TensorBoardTracker) else {}
            writer.log_images({name: np.asarray(picture)[None]}, step=step, **how)

    def close(self) -> None:
        """Let the writers write out what they hold."""
        for writer in self.writers:
            writer.finish()


def _tensorboard(folder: Path, step: int, settings: Mapping[str, Any]) -> GeneralTracker:
    """Event files in `folder/tensorboard`; what an interrupted run wrote after `step` is hidden."""
    return TensorBoardTracker("tensorboard", folder, purge_step=step + 1 if step else None)


def _weights_and_biases(folder: Path, step: int, settings: Mapping[str, Any]) -> GeneralTracker:
    """The same run whenever the folder's training is continued; steps that it has stay as they are."""
    identity = folder / "wandb_run_id"
    if not identity.exists():
        with written_whole(identity) as file:
            file.write(uuid.uuid4().hex[:8].encode())
    about: dict[str, Any] = {"dir": folder, "name": folder.name, "id": identity.read_text(), "config": dict(settings)}
    return WandBTracker(None, resume="allow", **about)  # type: ignore[arg-type]  # the project is the user's default


WRITERS: dict[str, Any] = {"tensorboard": _tensorboard, "wandb": _weights_and_biases}


def _check_writers(names: Sequence[str]) -> None:
    for name in names:
        if name not in WRITERS:
            raise ValueError(f"unknown log writer {name!r}, expected some of {', '.join(WRITERS)}")
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(
                f"the log writer {name!r} needs a package that is not installed: `pip install {name}`, "
                "or take it out of the configuration"
            )


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # torn by a kill, so after the checkpoint


class Progress:
    """How far one stage of a training is: a bar on a terminal; elsewhere lines with step, loss, speed and expected end.

    Args:
        stage: its name.
        step: steps done before.
        total: steps in all.
        seconds: the time limit of this call; None: there is none.
        active: False on all processes but the main one: nothing is shown.
    """

    def __init__(self, stage: str, step: int, total: int, *, seconds: float | None, active: bool) -> None:
        self.stage, self.first, self.step, self.total = stage, step, step, total
        self.bar = tqdm(
            total=total, initial=step, desc=stage, unit="step", dynamic_ncols=True, disable=None if active else True
        )
        self.lines = active and bool(self.bar.disable)
        self.begin = time.perf_counter()
        self.deadline = None if seconds is None else self.begin + seconds
        self.next_line = self.begin + FIRST_SECONDS
        self.figures: dict[str, float] = {}
        if self.lines:
            logger.info("%s: %d of %d steps are done", stage, step, total)

    def advance(self, figures: Mapping[str, float]) -> None:
        """Another step is done, with these figures, `loss` among them."""
        self.step += 1
        self.bar.update()
        self.figures = dict(figures)
        now = time.perf_counter()
        if self.lines and (now >= self.next_line or self.step == self.total):
            self.next_line = now + LINE_SECONDS
            logger.info("%s", self.line(now))

    def show(self, figures: Mapping[str, float]) -> None:
        """Figures that are logged at this step."""
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()})

    def line(self, now: float) -> str:
        """Step, loss, speed and end; whether the time limit comes first, and what is then left."""
        speed = (self.step - self.first) / max(now - self.begin, 1e-9)
        loss = f", loss {self.figures['loss']:.4g}" if "loss" in self.figures else ""
        line = f"{self.stage}: step {self.step} of {self.total}{loss}, {speed:.3g} steps a second"
        if self.step == self.total:
            return f"{line}, done in {spoken(now - self.begin)}"
        left = (self.total - self.step) / speed
        if self.deadline is None or left <= self.deadline - now:
            end = datetime.now() + timedelta(seconds=left)
            return f"{line}, done in {spoken(left)}, at {end:%H:%M}"
        stays = max(self.deadline - now, 0)
        return f"{line}; the time limit comes in {spoken(stays)}, {spoken(left - stays)} before the end of this stage"

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


def spoken(seconds: float) -> str:
    """A time as one says it: "40 s", "12 min", "2 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
