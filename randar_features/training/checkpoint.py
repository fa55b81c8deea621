"""Checkpoints that are either whole or not there, and the newest one that can be read."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from randar_features.files import ASIDE, written_whole

_NAME = re.compile(r"step-(\d{8})\.pt")
_UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write `state` as `folder/step-XXXXXXXX.pt` and remove all but the newest `keep` files.

    The file appears under its name only when it is complete, so a kill or a full disk while saving
    (OSError) leaves the previous checkpoint as the newest.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}, expected at least 1 checkpoint to stay")
    path = folder / f"step-{step:08d}.pt"
    with written_whole(path) as file:
        torch.save(state, file)
    left_by_kills = folder.glob(f"*{ASIDE}")
    for old in [*list_checkpoints(folder)[:-keep], *left_by_kills]:
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint's state on the CPU, or None if there is none.

    A torn or damaged file is passed over, with a line that says so.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            return _load(path)
        except _UNREADABLE as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            print(f"passing over unreadable checkpoint {path}: {reason}")
    return None


def _load(path: Path) -> dict[str, Any]:
    # PyTorch writes a zip file with check sums, but does not look at them when it reads.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the check sum of {damaged} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)
