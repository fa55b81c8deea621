"""Weight files into modules: safetensors and pickles of plain tensors, strictly and without running code."""

import argparse
import hashlib
import math
import os
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from randar_features.data.decode.formats import GIT_LFS

# Training state in LlamaGen's checkpoint that nothing reads: zeros where a file leaves it out.
OPTIONAL = ("quantize.codebook_used",)
USUAL_KEY = "?"
# Where training scripts keep the weights; averaged ones, where there are both, are what results are reported of.
USUAL_KEYS = ("model", "module", "state_dict", "model_state_dict")
AVERAGED = re.compile(r"(.*_)?ema(_.*)?", re.IGNORECASE)
COUNTER = "n_averaged"  # of PyTorch's AveragedModel, beside its weights
# What torch.compile and wrappers for several devices put in front of every name.
PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
SHOWN = 5

Module = TypeVar("Module", bound=nn.Module)


def load_weights(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Put the weights of a file into `module`, and leave it in evaluation mode and without gradients.

    Args:
        module: as `build_empty` makes it, or any other; its weights are replaced.
        path: a `.safetensors` file, or a pickle of tensors.
        key: where a pickle keeps its state dict; None: it is the state dict; `USUAL_KEY`: whichever of the usual
            ones it has, averaged weights before others, if it is not a state dict itself.
        device: where the module goes.
        dtype: what the weights become, whatever the file's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, holds code, its tensors are not exactly the module's, or some of them hold
            NaN, infinities or integers where numbers are expected.
    """
    path = Path(path)
    state = read_state_dict(path, key)
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    absent = [name for name in OPTIONAL if name in expected and name not in state]
    state |= {name: torch.zeros(expected[name], device="cpu") for name in absent}
    check_state_dict(state, expected, path)
    check_values(state, path)
    # Copies, since the file is mapped into memory and could be written over while the model is in use.
    weights = {name: value.to(device, dtype, copy=True) for name, value in state.items()}
    narrowed = [name for name, value in state.items() if torch.finfo(value.dtype).max > torch.finfo(dtype).max]
    if beyond := [name for name in narrowed if not weights[name].isfinite().all()]:
        raise ValueError(
            f"{path} holds weights beyond the range of {dtype}: {_first(beyond)}. Load it in a wider format"
        )
    module.load_state_dict(weights, assign=True)
    module.to(device).requires_grad_(False).eval()


def build_empty(build: Callable[[], Module], most: int | None = None) -> Module:
    """`build()` without initial values: its memory is reserved but untouched until weights are put in.

    Args:
        build: makes the module.
        most: how many numbers it may hold; None: any.

    Raises:
        ValueError: it holds more than `most`; raised as soon as they are reserved, not after the whole is built.
    """
    with (
        torch.device("cpu"),
        torch.random.fork_rng(devices=[]),
        _NoInitialValues(most),
    ):  # timm's networks draw values all the same
        return build()


class _NoInitialValues(TorchFunctionMode):
    """Skips `torch.nn.init`; so would the meta device, but its first use imports a compiler, for seconds."""

    def __init__(self, most: int | None) -> None:
        super().__init__()
        self.most, self.reserved = most, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if self.most is not None and func is torch.empty:
            size = args[0] if args and isinstance(args[0], tuple | list) else args
            self.reserved += math.prod(size)
            if self.reserved > self.most:
                raise ValueError(
                    f"its sizes ask for more than {self.most} numbers, which is all that its file of weights can hold"
                )
        return func(*args, **kwargs)


def read_state_dict(path: str | os.PathLike[str], key: str | None = None) -> dict[str, Tensor]:
    """The tensors in a `.safetensors` file or a pickle, by name, on the CPU; `PREFIXES` of all names are left out.

    Pickles are read with `weights_only=True`: of anything but tensors and plain containers, nothing is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, is a pickle with code in it, or holds no tensors under `key`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as file:
        if file.read(len(GIT_LFS)) == GIT_LFS:
            raise ValueError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its repository")
    if path.suffix == ".safetensors":
        return _without_prefixes(_read_safetensors(path))
    content = _read_pickle(path)
    key = _usual_key(content, path) if key == USUAL_KEY else key
    state = content if key is None else _entry(content, key, path)
    if not _is_state(state):
        where = f"under the key {key!r} of {path}" if key else f"in {path}"
        held = f"; it holds {_first(list(map(str, state)))}" if isinstance(state, Mapping) else ""
        raise ValueError(f"expected a state dict, names to tensors, {where}{held}")
    return _without_prefixes({str(name): value.detach() for name, value in state.items()})


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, without what stands in front of every name, and without the counter of an average."""
    state = {name: value for name, value in state.items() if name != COUNTER}
    while prefix := next((one for one in PREFIXES if state and all(name.startswith(one) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}): fetch or write it anew") from error


def _read_pickle(path: Path) -> Any:
    # LlamaGen's trainer saves its parsed arguments, a bare record of values, beside the weights.
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            with path.open("rb") as file:  # only the zip format, PyTorch's since 1.6, can be mapped into memory
                mappable = file.read(4) == b"PK\x03\x04"
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            reason = f"it calls {found[1]}" if found else "it holds something else, or is damaged"
            raise ValueError(
                f"{path} is not a pickle of plain tensors: {reason}. Nothing in it was run. "
                "Expected a state dict of tensors; convert trusted files to safetensors"
            ) from None
        except Exception as error:  # on bytes that are no pickle, the reader raises nearly anything
            reason = " ".join(str(error).split()) or "no reason given"
            raise ValueError(
                f"{path} is no file of weights, or is damaged ({type(error).__name__}: {reason}): "
                "fetch or write it anew"
            ) from error


def _usual_key(content: Any, path: Path) -> str | None:
    """Under which key a state dict is: averaged weights, else one of `USUAL_KEYS`; None if under none.

    Warns:
        UserWarning: there are averaged weights, in a form that is not known.
    """
    if not isinstance(content, Mapping):
        return None
    averaged = [key for key in content if isinstance(key, str) and AVERAGED.fullmatch(key)]
    found = [key for key in (*averaged, *USUAL_KEYS) if _is_state(content.get(key)) and content[key]]
    unknown = [key for key in averaged if isinstance(content[key], Mapping | list) and content[key]]
    if found and unknown and found[0] not in averaged:
        warnings.warn(f"{path}: {found[0]!r} is read, since {unknown[0]!r} is no state dict", stacklevel=4)
    return found[0] if found else None


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())


def _entry(content: Any, key: str, path: Path) -> Any:
    names = [str(name) for name in content] if isinstance(content, Mapping) else []
    if key not in names:
        held = _first(names) if names else f"a {type(content).__name__}"
        raise ValueError(f"{path} must hold its weights under the key {key!r}; it holds {held}")
    return content[key]


def check_state_dict(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """ValueError unless names and shapes are equal: lists what is missing, unexpected or misshapen."""
    missing = [f"{name} {shape}" for name, shape in expected.items() if name not in state]
    unexpected = [f"{name} {tuple(value.shape)}" for name, value in state.items() if name not in expected]
    misshapen = [
        f"{name} is {tuple(state[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    problems = [f"{len(found)} {what}: {_first(found)}" for what, found in lists.items() if found]
    if problems:
        raise ValueError(
            f"{path} does not fit its model ({len(state)} tensors given, {len(expected)} expected): "
            f"{'. '.join(problems)}. Is it the file of another model, or does the configuration say other sizes?"
        )


def check_values(state: Mapping[str, Tensor], path: Path) -> None:
    """ValueError that names the tensors which hold no floating-point numbers, or NaN or infinities."""
    integers = [f"{name} ({value.dtype})" for name, value in state.items() if not value.is_floating_point()]
    if integers:
        raise ValueError(f"{path} holds weights that are no floating-point numbers: {_first(integers)}")
    # The sum of a tensor is finite only if all of it is; a sum that overflows is looked at again, number by number.
    broken = [
        name
        for name, value in state.items()
        if not value.sum(dtype=torch.float32).isfinite() and not value.isfinite().all()
    ]
    if broken:
        raise ValueError(
            f"{path} holds NaN or infinite weights: {_first(broken)}. Training diverged or the file is damaged: take "
            "an earlier checkpoint"
        )


def _first(names: Sequence[str]) -> str:
    shown = "; ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}; and {len(names) - SHOWN} more"


def weights_hash(module: nn.Module) -> str:
    """16 hexadecimal digits of the names and values of a module's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file in hexadecimal. The Hub's cache names large files by it, which saves reading them."""
    stored = path.resolve()
    if stored.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", stored.name):
        return stored.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
