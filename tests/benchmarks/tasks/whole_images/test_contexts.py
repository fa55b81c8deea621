from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.comparisons import context_differences, corrected, difference_table, differences_of
from benchmarks.result import Result, plain
from probes import Difference, paired_bootstrap
from randar_features.store.files import write_json


def row(context: str | None, layer: int = 0, **axes: Any) -> dict[str, Any]:
    about = {"encoder": "model", "read": "image", "layer": layer, "context": context}
    return about | {"output": f"{context} {layer}", "components": 0} | axes


def test_rows_that_differ_in_their_context_alone_are_compared_the_later_less_the_earlier() -> None:
    rows = [row("reverse"), row("single"), row("single", 1), row("reverse", 1, read="instruction"), row("repeat")]
    rows += [row(None), row("reverse", components=8), row("single", encoder="other"), row("reverse", probe="knn")]
    scores = [30, 20, 50, 60, 25, 1, 99, 3, 7]

    def compare(first: int, second: int) -> Difference:
        return Difference(scores[first] - scores[second], (0.0, 1.0), 0.0)

    found = context_differences(rows, compare)
    assert [(each["first"], each["second"], each["difference"]) for each in found] == [
        ("repeat", "single", 5),
        ("reverse", "single", 10),
        ("reverse", "repeat", 5),
    ]
    assert all(each["layer"] == 0 and each["interval"] == (0.0, 1.0) for each in found)


def test_the_difference_is_that_of_the_rows_own_images() -> None:
    hits = np.array([[1, 1, 1, 0, 1, 1], [1, 0, 1, 0, 0, 1]], float)
    found = context_differences(
        [row("reverse"), row("single")], lambda one, other: paired_bootstrap(hits[one], hits[other], seed=3)
    )
    expected = paired_bootstrap(hits[0], hits[1], seed=3)
    assert found[0]["difference"] == expected.difference == pytest.approx(2 / 6)
    assert (found[0]["interval"], found[0]["worse"]) == (expected.interval, expected.worse)


def test_differences_are_in_points() -> None:
    about = {"encoder": "tiny", "probe": "knn", "settings": "k = 20", "pooling": "mean", "read": "image"}
    found = {"first": "reverse", "second": "single", "difference": 0.0123, "interval": [-0.005, 0.03]}
    table = difference_table([about | {"layer": [0, 1]} | found])
    shown = ["+1.2 (-0.5 … +3.0)", "reverse − single", "–"]
    assert table.rows == [[*shown, "tiny", "knn", "k = 20", "mean", "image", "0 + 1"]]
    matched = [{"encoder": "tiny", "read": "image", "layer": 0, "components": n} | found for n in (0, 8)]
    table = difference_table(matched)
    shown = ["points, 95 % interval", "first − second", "p, Holm"]
    assert table.header == [*shown, "encoder", "read", "layer", "components"]
    assert [cells[-1] for cells in table.rows] == ["0", "8"]


def test_one_image_leaves_a_difference_without_interval_and_p(tmp_path: Path) -> None:
    found = context_differences(
        [row("reverse"), row("single")], lambda one, other: paired_bootstrap(np.array([1.0]), np.array([0.0]))
    )
    write_json(tmp_path / "differences.json", plain(corrected(found)))
    text = (tmp_path / "differences.json").read_text(encoding="utf-8")
    (read,) = json.loads(text, parse_constant=pytest.fail)  # NaN is not JSON
    assert (read["interval"], read["p_value"], read["p_holm"], read["worse"]) == ([None, None], None, None, None)
    assert difference_table([read]).rows[0][:3] == ["+100.0", "reverse − single", "–"]


def scored(context: str | None, tuning: float, encoder: str = "model", layer: int = 0) -> Result:
    return Result.of(row(context, layer, encoder=encoder) | {"accuracy": 0.5, "tuning": tuning})


def test_planned_and_corrected_differences() -> None:
    rows = [
        scored("reverse", 0.5),
        scored("reverse", 0.7, layer=1),
        scored("repeat", 0.6),
        scored("single", 0.65, layer=2),
    ]
    rows += [scored(None, 0.1, "pixels"), scored(None, 0.2, "pixels", layer=1)]
    strength = {1: 0.9, 5: 0.1}

    def compare(first: int, second: int) -> Difference:
        return Difference(strength.get(first, 0.5), (0.0, 1.0), 0.0, 0.01)

    found = differences_of(rows, compare)
    planned = [each for each in found if each["planned"]]
    assert [(each["first"], each["second"]) for each in planned] == [
        ("reverse 1", "best without reverse: single 2"),
        ("reverse 1", "best repeat: repeat 0"),
    ]
    others = [each for each in found if not each["planned"]]
    assert [(each["first"], each["second"]) for each in others] == [
        ("reverse", "repeat"),
        ("model, reverse 1", "pixels, None 1"),
    ]
    assert [each["p_holm"] for each in others] == [0.02, 0.02] and "p_holm" not in planned[0]
