"""The speed benchmark at a thousandth of its size: what it measures, not how fast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.run import main
from benchmarks.speed import probe_speed
from benchmarks.speed.probe_speed import Config, labelled_rows
from probes.index import process_memory


def test_rows_are_always_the_same_and_tell_their_class() -> None:
    config = Config(dim=12, intrinsic=6, classes=4, spread=0.1)
    rows, labels = labelled_rows(config, 5000, 0)
    again, same = labelled_rows(config, 5000, 0)
    assert rows.dtype == torch.float16 and torch.equal(rows, again) and (labels == same).all()
    others, _ = labelled_rows(config, 5000, 1)
    assert not torch.equal(rows, others)
    first = rows.float()
    within = max(first[labels == c].var(0).sum().item() for c in range(4))
    between = torch.stack([first[labels == c].mean(0) for c in range(4)]).var(0).sum().item()
    assert np.unique(labels).tolist() == [0, 1, 2, 3]
    assert within < between


def test_a_row_for_each_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe_speed, "apart", lambda work, *arguments: work(*arguments))
    options = {"count": 230, "queries": 60, "dim": 16, "intrinsic": 8, "classes": 3, "spread": 0.2, "threads": 1}
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert main("probe_speed", [*given, "--epochs", "2", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "result.json").read_text())["results"]
    assert [row["probe"] for row in rows] == ["knn", "logistic", "linear", "few-shot"]
    assert all(row["accuracy"] > 0.9 and row["fit_seconds"] > 0 for row in rows[:2])
    assert all(0 < row["peak_bytes"] <= process_memory(peak=True) for row in rows)
    assert "knn       fitted in" in capsys.readouterr().out


def test_memory_above_the_limit_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_speed, "apart", lambda *_: {"peak_bytes": 3e9, **dict.fromkeys(MEASURED, 1.0)})
    assert probe_speed.measure(Config(probe=("knn",), memory_limit=2.9), Path()).results[0]["within_limit"] is False
    assert probe_speed.measure(Config(probe=("knn",), memory_limit=3.1), Path()).results[0]["within_limit"] is True
    with pytest.raises(ValueError, match=r"'svm'.*, expected .*knn, logistic, linear, few-shot"):
        Config(probe=("svm",))


MEASURED = ("fit_seconds", "predict_seconds", "accuracy")
