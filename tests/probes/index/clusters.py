"""Vectors in clusters, as features lie, and indexes of them small enough to build in moments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from probes.index import IndexSettings, VectorIndex, blocks_of, build_index, choose_settings

DIM = 16
FEATURES = {"encoder": "small", "weights": "abc", "output": "layer 2", "pooling": "mean"}
SMALL = {"block_rows": 256, "M": 8, "efConstruction": 32, "nlist": 16, "code_bytes": 4, "training_rows": 600}


def clusters(count: int = 2000, seed: int = 0, dim: int = DIM, centres: int = 50) -> np.ndarray:
    """Rows around random centres, float32."""
    middle = np.random.default_rng(7).standard_normal((centres, dim))
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((count, dim))
    return (middle[generator.integers(centres, size=count)] + 0.3 * noise).astype(np.float32)


def small_settings(kind: str, count: int = 2000, **options: Any) -> IndexSettings:
    """Settings of a few lists, codes and links."""
    return choose_settings(count, DIM, kind=kind, **{**SMALL, **options})


def build(folder: Path, rows: np.ndarray, kind: str, **options: Any) -> VectorIndex:
    """An index of `rows`."""
    options = {"features": FEATURES, "progress": False, **options}
    options.setdefault("settings", None)
    options["settings"] = options["settings"] or small_settings(kind, len(rows))
    build_index(blocks_of(rows), len(rows), folder, **options)
    return VectorIndex(folder)
