"""The speed benchmark at a thousandth of its size: what it measures, not how fast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.run import main
from benchmarks.speed import index_speed
from benchmarks.speed.index_speed import Config, blocks, exact_neighbours, queries
from probes import search
from probes.index import process_memory

SMALL = Config(count=600, dim=16, centres=10, intrinsic=4, queries=20, one_by_one=2, kind=("flat",), threads=1)


def test_vectors_are_the_same_in_blocks_of_any_size() -> None:
    config = Config(count=20_000, dim=4, centres=5)
    large, small = (np.concatenate([block for _, block in blocks(config)(size)]) for size in (20_000, 333))
    assert large.shape == (20_000, 4)
    np.testing.assert_array_equal(large, small)
    starts = [start for start, _ in blocks(config)(16_384)]
    assert starts == [0, 16_384]


def test_exact_neighbours_are_those_of_exact_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_speed, "MADE_AT_ONCE", 100)
    rows = np.concatenate([block for _, block in blocks(SMALL)(100)])
    np.testing.assert_array_equal(exact_neighbours(SMALL), search(queries(SMALL), rows, 10).ids)


def test_a_row_for_each_index_and_its_peak_beside_the_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(index_speed, "apart", lambda work, *arguments: work(*arguments))
    out = tmp_path
    options = {"count": 600, "dim": 16, "centres": 10, "queries": 20, "one-by-one": 2, "threads": 1}
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert main("index_speed", [*given, "--kind", "flat", "--out", str(out)]) == 0
    content = json.loads((out / "result.json").read_text())
    (row,) = content["results"]
    assert row["recall_at_10"] == 1 and 64 <= row["bytes_per_vector"] < 65 and row["build_seconds"] > 0
    assert 0 < row["build_peak_bytes"] <= process_memory(peak=True) and row["predicted_peak_bytes"] > 600 * 64
    assert "flat: done" in capsys.readouterr().out


def test_what_does_not_fit_is_reported_as_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_speed, "apart", lambda work, *arguments: work(*arguments))
    config = Config(**{**vars(SMALL), "memory_limit": 0.01})
    (row,) = index_speed.measure_kind(config, "flat", exact_neighbours(SMALL), tmp_path)
    assert row["refused"].startswith("building a flat index of 600 vectors") and "10.0 MB" in row["refused"]
