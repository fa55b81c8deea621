from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.encoders import load_encoder
from probes import LinearSegmenter, LogisticProbe, LogisticSegmenter, few_shot


@pytest.fixture(scope="package", autouse=True)
def small_grids() -> Any:
    """Grids of few values that are not widened, which would take most of the time; tests/probes tests whole ones."""

    def best(scores: Mapping[float, float], *_: Any, **__: Any) -> float:
        return max(sorted(scores), key=scores.__getitem__)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("logistic", "linear", "segmentation", "patch_segmentation"):
            patch.setattr(f"probes.{module}.settle", best, raising=False)
        for function in (LogisticProbe.__init__, LogisticSegmenter.__init__, few_shot):
            patch.setitem(function.__kwdefaults__, "C_grid", (1e-4, 1e-2, 1.0, 1e2))
        patch.setitem(LinearSegmenter.__init__.__kwdefaults__, "learning_rates", (1e-2, 0.1, 1.0))
        yield


@pytest.fixture(scope="package", autouse=True)
def one_encoder_of_near_duplicates() -> Any:
    """The bundled model, by which all benchmarks look for them, is loaded once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.tasks.duplicates.duplicate_pairs.load_encoder", functools.cache(load_encoder))
        yield
