"""A run's log: JSON lines and pictures always, TensorBoard and Weights & Biases where they are asked for."""

from __future__ import annotations

import importlib.util
import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from randar_features.data import contact_sheet, to_image
from randar_features.store.files import written_whole

SHEET_COLUMNS = 8
EVERY_LINE = ("step", "time")  # what a line of the log has besides figures


class Writer(Protocol):
    """Another place for the same figures and pictures."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add one step's figures."""
        ...

    def images(self, step: int, name: str, sheet: Tensor) -> None:
        """Add a picture (3, H, W) in [0, 1]."""
        ...

    def close(self) -> None:
        """Write out what is left."""
        ...


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
        self.writers: list[Writer] = []
        if not active:
            return
        names = _default_writers() if writers is None else writers
        _check_writers(names)
        _drop_behind(self.path, step)
        self.writers = [WRITERS[name](folder, step, settings or {}) for name in names]

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures after `step` steps; JSON keeps six digits of each."""
        if not self.active:
            return
        rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 1), **rounded}) + "\n")
        for writer in self.writers:
            writer.write(step, figures)

    def images(self, step: int, name: str, images: Tensor) -> None:
        """Add a sheet of the images (n, 3, S, S) in [0, 1], eight a row."""
        if not self.active:
            return
        sheet = contact_sheet(list(images.detach().float().cpu()), columns=min(SHEET_COLUMNS, len(images)))
        with written_whole(self.folder / "samples" / f"{name}-step-{step:08d}.png") as file:
            to_image(sheet).save(file, format="PNG")
        for writer in self.writers:
            writer.images(step, name, sheet)

    def close(self) -> None:
        """Let the writers write out what they hold."""
        for writer in self.writers:
            writer.close()


class TensorBoard:
    """Event files in `folder/tensorboard`."""

    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Hides what an interrupted run wrote after the step that it is continued from.
        self.events = SummaryWriter(folder / "tensorboard", purge_step=step + 1 if step else None)
        if not step:
            self.events.add_text("settings", f"```\n{json.dumps(settings, indent=2, default=str)}\n```")

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add each figure as a scalar."""
        for name, value in figures.items():
            self.events.add_scalar(name, value, step)
        self.events.flush()  # else a kill loses up to two minutes that the checkpoint has

    def images(self, step: int, name: str, sheet: Tensor) -> None:
        """Add the picture (3, H, W)."""
        self.events.add_image(name, sheet.clamp(0, 1), step)

    def close(self) -> None:
        """Flush and close the event file."""
        self.events.close()


class WeightsAndBiases:
    """A run at Weights & Biases, the same one whenever the folder's training is continued."""

    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any]) -> None:
        import wandb

        identity = folder / "wandb_run_id"
        if not identity.exists():
            with written_whole(identity) as file:
                file.write(uuid.uuid4().hex[:8].encode())
        self.image = wandb.Image
        self.run = wandb.init(
            dir=folder, name=folder.name, id=identity.read_text(), resume="allow", config=dict(settings)
        )

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures; steps that the run already has stay as they are."""
        self.run.log(dict(figures), step=step)

    def images(self, step: int, name: str, sheet: Tensor) -> None:
        """Add the picture (3, H, W)."""
        self.run.log({name: self.image(to_image(sheet))}, step=step)

    def close(self) -> None:
        """Send the rest and mark the run finished."""
        self.run.finish()


WRITERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def _default_writers() -> list[str]:
    return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []


def _check_writers(names: Sequence[str]) -> None:
    for name in names:
        if name not in WRITERS:
            raise ValueError(f"unknown log writer {name!r}, expected some of {', '.join(WRITERS)}")
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(
                f"the log writer {name!r} is asked for, but its package is not installed: `pip install {name}`, "
                "or take it out of the configuration"
            )


def _drop_behind(path: Path, step: int) -> None:
    """Keep the lines of the first `step` steps."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if _step_of(line) <= step]
    with written_whole(path) as file:
        file.write("".join(f"{line}\n" for line in kept).encode())


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # torn by a kill, so after the checkpoint
