"""A nested state as files: its tensors in safetensors files of bounded size, all else in one JSON file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from randar_features.data.paths import confined, reading
from randar_features.store.files import read_json, write_json, written_whole

PLAIN = "state.json"


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
    write_json(folder / PLAIN, {"files": files, "state": plain})


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
            tensors |= _read_tensors(confined(name, folder))
        return {key: _restore(value, tensors) for key, value in about["state"].items()}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    with reading(path, "tensors"):
        return load_file(path)


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
