"""Checkpoints that are either whole or not there: written aside, synced, renamed."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

_NAME = re.compile(r"step-(\d{8})\.pt")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write `state` as `folder/step-XXXXXXXX.pt` and remove all but the newest `keep` files.

    The file appears under its name only when it is complete, so a kill or a full disk while saving
    leaves the previous checkpoint as the newest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    aside = path.with_suffix(".writing")
    try:
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OSError(f"could not save {path} ({error}); {_free(folder)} bytes are free there") from error
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint's state on the CPU, or None if there is none.

    A torn file is passed over, with a line that says so.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError) as error:
            print(f"passing over unreadable checkpoint {path}: {error}")
    return None


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
