"""Checkpoints: folders that are either whole or not there, and the newest one that is undamaged."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from randar_features.data.containers.paths import confined, reading
from randar_features.store.files import ASIDE, read_json, write_bytes, write_json, written_whole

logger = logging.getLogger(__name__)

MANIFEST, PLAIN = "checkpoint.json", "state.json"
REMOVING = ".removing"
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Checkpoint:
    """A folder of a model and of the training's state; `settings` are those that it was trained with."""

    folder: Path
    step: int
    settings: dict[str, Any]

    def state(self) -> dict[str, Any]:
        """The state, on the CPU."""
        return load_state(self.folder)


@contextmanager
def whole_checkpoint(folder: Path, step: int, settings: Mapping[str, Any], active: bool = True) -> Iterator[Path]:
    """A folder to fill, which becomes `folder/step-XXXXXXXX` when the block ends.

    A list of its files with their check sums is written last, and the whole renamed: a kill or a full disk
    (OSError) leaves the previous checkpoint as the newest. Where `active` is off, as on all processes but the
    main one, nothing is written.
    """
    path = folder / f"step-{step:08d}"
    aside = path.with_name(path.name + ASIDE)
    if not active:
        yield aside
        return
    for ending in (ASIDE, REMOVING):  # what a kill left half written or half removed
        for left in folder.glob(f"step-*{ending}"):
            shutil.rmtree(left)
    aside.mkdir(parents=True)
    try:
        yield aside
        sums = {str(file.relative_to(aside)): _check_sum(file) for file in sorted(aside.rglob("*")) if file.is_file()}
        manifest = {"step": step, "settings": settings, "sha256": sums}
        write_json(aside / MANIFEST, manifest | {"checksum": _seal(manifest)})
        _remove(path)
        aside.rename(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def remove_old(folder: Path, step: int, keep: int, keep_every: int | None = None) -> None:
    """Remove all checkpoints but, up to that of `step`, the newest `keep` and the multiples of `keep_every`.

    Those after `step` were damaged when the run was continued, and must not count as the newest.
    """
    done = [path for path in list_checkpoints(folder) if step_of(path) <= step]
    for path in list_checkpoints(folder):
        multiple = keep_every is not None and step_of(path) % keep_every == 0
        if path not in done or (path not in done[-keep:] and not multiple):
            _remove(path)


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in `folder` that have their name, damaged ones among them, oldest first."""
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir())


def step_of(path: Path) -> int:
    """Steps done at a checkpoint, by its name."""
    return int(path.name.removeprefix("step-"))


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest undamaged checkpoint, or None if there is none.

    Every file's check sum is compared. A torn or damaged one is passed over, with a line that says so.

    Raises:
        ValueError: there are only checkpoints of a format that is no longer read.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            return _open(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("passing over damaged checkpoint %s: %s", path, error)
    if outdated := sorted(folder.glob("step-*.pt")):
        raise ValueError(f"{outdated[-1]} is of an older format, which is not read: train in another folder")
    return None


def _open(path: Path) -> Checkpoint:
    manifest = read_json(path / MANIFEST)
    # Earlier versions wrote none: their runs go on.
    if manifest["step"] != step_of(path) or manifest.get("checksum", _seal(manifest)) != _seal(manifest):
        raise ValueError(f"{MANIFEST} was altered")
    for name, expected in manifest["sha256"].items():
        if _check_sum(confined(name, path)) != expected:
            raise ValueError(f"the check sum of {name} is wrong")
    return Checkpoint(path, manifest["step"], manifest["settings"])


def _seal(manifest: Mapping[str, Any]) -> str:
    """A hash of what a manifest says."""
    content = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """Remove a folder so that it is whole under its name until it is gone."""
    if path.exists():
        going = path.with_name(path.name + REMOVING)
        path.rename(going)
        shutil.rmtree(going)


# A nested state as files: its tensors in safetensors files of bounded size, all else in one JSON file


def save_state(folder: Path, state: Mapping[str, Any], file_bytes: int) -> None:
    """Write `state` to `folder`: for each key "weights" the files weights-00001.safetensors …, and state.json.

    Args:
        folder: where to; files of the same names are replaced.
        state: nested dicts, lists and tuples of tensors and of what JSON holds; keys are strings or integers.
        file_bytes: a file is no larger, unless one tensor is.

    Raises:
        TypeError: something else is in the state.
        OSError: a file cannot be written.
    """
    files, plain = {}, {}
    for key, value in state.items():
        tensors: dict[str, Tensor] = {}
        plain[key] = _describe(value, key, tensors)
        for number, group in enumerate(_groups(tensors, file_bytes), start=1):
            name = f"{key}-{number:05d}.safetensors"
            with written_whole(folder / name) as file:
                file.write(save(group))
            files[name] = len(group)
    content = {"files": files, "state": plain}
    write_bytes(folder / PLAIN, json.dumps(content).encode())  # with indents it would take six times as long


def load_state(folder: Path) -> dict[str, Any]:
    """What `save_state` wrote, its tensors on the CPU, with the strides that they had.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file is torn or damaged, or is not of this folder; the message names the file.
    """
    about = read_json(folder / PLAIN)
    tensors: dict[str, Tensor] = {}
    with reading(folder / PLAIN, "the state of a training"):
        for name in about["files"]:
            path = confined(name, folder)
            with reading(path, "tensors"):
                tensors |= load_file(path)
        return {key: _restore(value, tensors) for key, value in about["state"].items()}


def _describe(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors replaced by their names and put into `tensors`."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name} if value.is_contiguous() else {"tensor": name, "stride": list(value.stride())}
    if isinstance(value, Mapping):
        return {"dict": [[_key(key, name), _describe(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_describe(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}, which a checkpoint cannot hold")


def _key(key: Any, name: str) -> str | int:
    if isinstance(key, (str, int)) and not isinstance(key, bool):
        return key
    raise TypeError(f"{name} has the key {key!r}, expected a string or an integer")


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        tensor = tensors[value["tensor"]]
        if "stride" in value:  # fused optimizers take memory as it lies, and expect that of the weights
            tensor = torch.empty_strided(tensor.shape, value["stride"], dtype=tensor.dtype).copy_(tensor)
        return tensor
    [(kind, items)] = value.items()
    if kind == "dict":
        return {key: _restore(item, tensors) for key, item in items}
    restored = [_restore(item, tensors) for item in items]
    return restored if kind == "list" else tuple(restored)


def _groups(tensors: Mapping[str, Tensor], file_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Tensors one after the other, as many at a time as fit."""
    group: dict[str, Tensor] = {}
    filled = 0
    for name, tensor in tensors.items():
        if group and filled + tensor.nbytes > file_bytes:
            yield group
            group, filled = {}, 0
        group[name] = tensor
        filled += tensor.nbytes
    if group:
        yield group
