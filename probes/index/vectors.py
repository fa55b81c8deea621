"""Vectors as an index holds them: normalised on the way in, the same for queries, and read back by row."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..retrieval import normalized
from ..standardizer import Standardizer

faiss: Any = importlib.import_module("faiss")  # its type stubs lack half of what it has
FaissIndex = Any

VECTORS_FILE = "vectors-half.bin"
ABOUT = ("data", "sources", "label_names")  # what may differ between the rows of an index and its queries


def normalize(rows: Tensor, standardizer: Standardizer | None) -> Tensor:
    """Rows (n, D) as the index compares them: standardised if it standardises, float32, of length 1."""
    return normalized(rows if standardizer is None else standardizer.apply(rows))


def save_standardizer(path: Path, standardizer: Standardizer) -> None:
    """Mean and scale as float64 (2, D)."""
    with path.open("wb") as file:
        np.save(file, torch.stack([standardizer.mean, standardizer.scale]).numpy())


def load_standardizer(path: Path) -> Standardizer:
    """What `save_standardizer` wrote."""
    standardizer = Standardizer()
    standardizer.mean, standardizer.scale = torch.from_numpy(np.load(path))
    return standardizer


def mapped_vectors(folder: Path, count: int, dim: int) -> np.ndarray | None:
    """Unit vectors (count, dim) in half precision, memory-mapped; None where the index itself holds them."""
    path = folder / VECTORS_FILE
    return np.memmap(path, np.float16, "r", shape=(count, dim)) if count and path.exists() else None


def stored_vectors(index: FaissIndex, mapped: np.ndarray | None, ids: np.ndarray) -> Tensor:
    """Unit vectors (n, D) float32 that the index holds under these ids (n,), counted from 0 as they were added."""
    ids = np.ascontiguousarray(ids, np.int64)
    rows = index.reconstruct_batch(ids) if mapped is None else mapped[ids].astype(np.float32)
    return torch.from_numpy(rows)


def feature_differences(there: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """In what two descriptions of features differ, in words; what only tells which images they are of is no matter."""
    names = [name for name in {**there, **given} if name not in ABOUT]
    return [
        f"{name} {there.get(name)!r}, not {given.get(name)!r}" for name in names if there.get(name) != given.get(name)
    ]
