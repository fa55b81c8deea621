"""Whitening before cosines: offered in classification and retrieval, and chosen by images that are not evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.result import read_result
from benchmarks.tasks.whole_images import classification, retrieval


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two classes that differ in a faint pattern of patches of 8×8, among others that are strong and say nothing."""
    folder, generator = tmp_path_factory.mktemp("faint"), np.random.default_rng(0)
    patterns = np.linalg.qr(generator.standard_normal((64, 5)))[0].T.reshape(5, 8, 8) * 8
    for number in range(160):
        label = number % 2
        strengths = [*generator.normal(0, 12, 4), 3 if label else -3]
        grey = 128 + np.tile(np.tensordot(strengths, patterns, 1), (8, 8)) + generator.normal(0, 3, (64, 64))
        (folder / str(label)).mkdir(exist_ok=True)
        pixels = np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, 2)
        Image.fromarray(pixels).save(folder / str(label) / f"{number:03d}.png")
    return str(folder)


def rows_of(task: Any, options: Any, out: Path) -> dict[str, dict[str, Any]]:
    return {row["normalization"]: row for row in read_result(task.run(options, out))["results"]}


def test_neighbours_are_whitened_as_tuning_images_choose(data: str, tmp_path: Path):
    given: dict[str, Any] = {"encoder": ("pixels",), "outputs": ("patches",), "probe": ("knn",), "duplicates": False}
    given |= {"knn_normalization": ("unit", "whitened", "auto"), "cache": str(tmp_path / "cache")}
    found = rows_of(classification, classification.Config(data=data, **given), tmp_path / "out")
    assert list(found) == ["unit", "whitened", "chosen by tuning images"]
    chosen = found["chosen by tuning images"]
    assert chosen["chosen"]["normalization"] in ("standardized", "whitened")
    assert chosen["tuning"] >= max(found["unit"]["tuning"], found["whitened"]["tuning"])
    assert chosen["accuracy"] > found["unit"]["accuracy"]


def test_retrieval_is_whitened_as_other_queries_choose(data: str, tmp_path: Path):
    given: dict[str, Any] = {"encoder": ("pixels",), "outputs": ("patches",), "index_kind": ("none",), "queries": 40}
    given |= {"normalization": ("unit", "whitened", "auto"), "duplicates": False, "cache": str(tmp_path / "cache")}
    found = rows_of(retrieval, retrieval.Config(data=data, **given), tmp_path / "out")
    chosen = found["chosen by tuning queries"]
    assert chosen["tuning"] >= max(found["unit"]["tuning"], found["whitened"]["tuning"])
    assert found["whitened"]["mean_average_precision"] != found["unit"]["mean_average_precision"]
    assert chosen["mean_average_precision"] > found["unit"]["mean_average_precision"]
    plain = {name: value for name, value in chosen.items() if name not in ("normalization", "chosen", "warnings")}
    way = chosen["chosen"]
    if way["normalization"] != "whitened":
        assert plain == {name: found[way["normalization"]][name] for name in plain}
