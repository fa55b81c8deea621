"""Vectors of an index: normalised before they are added, as queries are, and read back by row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.index.faiss_file import FaissIndex
from probes.index.files import IndexFilesError
from probes.index.settings import IndexSettings
from probes.retrieval import normalized
from probes.transforms import Standardizer, Transform, Whitener

VECTORS_FILE = "vectors-half.bin"
ABOUT = ("data", "source", "sources", "label_names")  # entries that may differ between an index and its queries


def normalize(rows: Tensor, transform: Transform | None) -> Tensor:
    """Vectors (n, D) as the index compares them: standardised or whitened as set, float32, of length 1."""
    return normalized(rows if transform is None else transform.apply(rows))


def save_transform(path: Path, transform: Transform) -> None:
    """Float64: mean and scale (2, D), or mean and axes (1 + K, D)."""
    parts = transform.scale[None] if isinstance(transform, Standardizer) else transform.axes.T
    with path.open("wb") as file:
        np.save(file, torch.cat([transform.mean[None], parts]).numpy())


def load_transform(path: Path, settings: IndexSettings) -> Transform:
    """What `save_transform` wrote; IndexFilesError if it is not for these settings."""
    transform: Transform = Standardizer() if settings.normalization == "standardized" else Whitener(settings.components)
    shape = (1 + (settings.components or 1), settings.dim)
    try:
        values = np.load(path, allow_pickle=False)
    except Exception as error:  # NumPy reads the header as Python, which raises nearly anything
        raise IndexFilesError(f"{path} is torn ({type(error).__name__}): build the index again") from error
    if values.shape != shape or values.dtype != np.float64 or not np.isfinite(values).all():
        raise IndexFilesError(f"{path} holds {values.dtype} {values.shape}, expected finite float64 {shape}")
    transform.mean, rest = torch.from_numpy(values[0]), torch.from_numpy(values[1:])
    if isinstance(transform, Standardizer):
        transform.scale = rest[0]
    else:
        transform.axes = rest.T.contiguous()
    return transform


def mapped_vectors(folder: Path, count: int, dim: int) -> np.memmap | None:
    """Unit vectors (count, dim) in half precision, memory-mapped; None where the index itself holds them."""
    path = folder / VECTORS_FILE
    return np.memmap(path, np.float16, "r", shape=(count, dim)) if count and path.exists() else None


def stored_vectors(index: FaissIndex, mapped: np.ndarray | None, ids: np.ndarray) -> Tensor:
    """Unit vectors (n, D) float32 that the index holds under these ids (n,), counted from 0 as they were added."""
    ids = np.ascontiguousarray(ids, np.int64)
    rows = index.reconstruct_batch(ids) if mapped is None else mapped[ids].astype(np.float32)
    return torch.from_numpy(rows)


def feature_differences(there: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """How two descriptions of features differ, in words; entries about the images are ignored."""
    names = [name for name in {**there, **given} if name not in ABOUT]
    return [
        f"{name} {there.get(name)!r}, not {given.get(name)!r}" for name in names if there.get(name) != given.get(name)
    ]
