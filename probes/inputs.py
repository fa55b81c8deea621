"""Checks that every probe applies to the arrays it is given; nothing here copies unless it has to."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray | Tensor
Labels = np.ndarray | Tensor | Sequence[int]

_BLOCK_ROWS = 4096


@contextmanager
def own_modes() -> Iterator[None]:
    """Gradients and no autocast inside, so that a probe does not depend on the modes of torch that its caller is in."""
    without_autocast = torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), without_autocast[0], without_autocast[1]:
        yield


def float_tensor(values: Array, name: str, shape: str, ndim: int, width: int | None = None) -> Tensor:
    """`values` as a float tensor of `ndim` axes that shares their memory where it can.

    Raises TypeError for anything but floats in a numpy array or a torch tensor, ValueError for another number of axes
    (`shape` names the expected ones), an empty array, NaN or infinity, and a last axis that is not the `width` of fit.
    """
    if not isinstance(values, np.ndarray | Tensor):
        raise TypeError(f"{name} must be a numpy array or a torch tensor, got {type(values).__name__}")
    tensor = values.detach() if isinstance(values, Tensor) else share(values, name)
    if tensor.ndim != ndim or tensor.numel() == 0:
        raise ValueError(f"{name} must have shape {shape} and not be empty, got {tuple(tensor.shape)}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must hold floats, got {tensor.dtype}; convert, for example to float32")
    require_finite(tensor, name)
    if width is not None and tensor.shape[-1] != width:
        raise ValueError(f"{name} must have shape {shape} as in fit, got {tuple(tensor.shape)}")
    return tensor


def share(values: np.ndarray, name: str) -> Tensor:
    """A tensor of the array's memory, or of a copy where PyTorch cannot share it; TypeError for objects."""
    if any(stride < 0 for stride in values.strides) or not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="), order="C")
    with warnings.catch_warnings():  # read-only arrays (memory maps) are only ever read here
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        try:
            return torch.from_numpy(values)
        except TypeError as error:
            raise TypeError(f"{name} must hold floats, got dtype {values.dtype}") from error


def require_finite(tensor: Tensor, name: str, numbers: np.ndarray | None = None) -> None:
    """ValueError that names the first row with NaN or infinity; `numbers` (n,) are the rows', where not 0 … n - 1."""
    for start in range(0, len(tensor), _BLOCK_ROWS):
        block = tensor[start : start + _BLOCK_ROWS]
        finite = torch.isfinite(block).reshape(len(block), -1).all(1)
        if not finite.all():
            row = start + int(torch.nonzero(~finite)[0, 0])
            number = f"{row} of {len(tensor)}" if numbers is None else int(numbers[row])
            raise ValueError(f"{name}: row {number} holds NaN or infinity; drop or repair it")


def feature_matrix(features: Array, name: str = "features", width: int | None = None) -> Tensor:
    """Features (n, D), checked; `width` is the D that the probe was fitted with, if it was."""
    return float_tensor(features, name, "(n, D)" if width is None else f"(n, {width})", 2, width)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def whole_number(value: object, name: str) -> int:
    """`value`; TypeError unless it is an integer, of Python or NumPy, and no truth value."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    raise TypeError(f"{name} must be an integer, got {value!r}")


def check_counts(**counts: object) -> None:
    """TypeError for the first of these options that is no integer, ValueError for one below 1."""
    for name, value in counts.items():
        if whole_number(value, name) < 1:
            raise ValueError(f"{name} must be ≥ 1, got {value}")


def sorted_grid(values: Sequence[float], name: str) -> tuple[float, ...]:
    """The values to try, ascending, each once; ValueError unless there is one and all are > 0 and finite."""
    if np.ndim(values) != 1 or not len(values) or not all(0 < value < np.inf for value in values):
        raise ValueError(f"{name} must hold at least one value, all > 0 and finite, got {values!r}")
    return tuple(sorted(set(values)))


def integer_vector(values: Labels, name: str, count: int | None = None) -> np.ndarray:
    """A vector of integers as int64 (n,). Raises when it holds anything else or has not `count` entries."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}; drop rows that have none")
    if array.ndim != 1 or (count is not None and len(array) != count):
        expected = "(n,)" if count is None else f"({count},)"
        raise ValueError(f"{name} must have shape {expected}, got {array.shape}")
    return array.astype(np.int64, copy=False)


def row_ids(values: Labels | None, name: str, count: int, size: int) -> np.ndarray:
    """Row numbers of a gallery of `size` rows, -1 for none, int64 (count,); None means -1 everywhere."""
    if values is None:
        return np.full(count, -1, np.int64)
    array = integer_vector(values, name, count)
    if len(array) and (array.min() < -1 or array.max() >= size):
        raise ValueError(f"{name} must be rows 0 … {size - 1}, or -1 for none, got {array.min()} … {array.max()}")
    return array


def label_vector(labels: Labels, count: int, name: str = "labels") -> np.ndarray:
    """Class labels, int64 (count,), each ≥ 0."""
    array = integer_vector(labels, name, count)
    if (array < 0).any():
        raise ValueError(f"{name} must be ≥ 0, got {array.min()}; drop rows without a label")
    return array


def class_indices(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted classes (C,) and each label's place among them (n,). Raises when there is one class only."""
    classes, indices = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"at least 2 classes are needed to fit a classifier, got only class {classes[0]}")
    return classes, indices
