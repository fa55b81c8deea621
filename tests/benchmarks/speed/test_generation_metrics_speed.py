"""The speed benchmark at a thousandth of its size: what it measures, not how fast."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.result import read_result
from benchmarks.run import main
from benchmarks.speed import generation_metrics_speed


def test_a_row_for_each_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(generation_metrics_speed, "apart", lambda work, *arguments: work(*arguments))
    given = ["--count", "60", "--dim", "8", "--intrinsic", "3", "--threads", "1", "--out", str(tmp_path)]
    assert main("generation_metrics_speed", [*given, "--measure", "statistics", "distance", "precision-recall"]) == 0
    rows = read_result(tmp_path)["results"]
    assert [row["measure"] for row in rows] == ["statistics", "distance", "precision-recall"]
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 and row["value"] > 0 for row in rows)
    assert rows[1]["value"] < rows[0]["value"], "the sets are nearly the same"
    assert not list(tmp_path.glob("*/*.npy"))
