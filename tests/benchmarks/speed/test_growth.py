from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.run import main
from benchmarks.speed import growth
from randar_features import FeatureStore


def test_exponents_by_hand() -> None:
    assert growth.exponent([1, 10, 100, 1000], [9, 5, 500, 50_000]) == pytest.approx(2)
    assert growth.exponent([8, 16, 32], [3, 3, 3]) == pytest.approx(0)


def test_a_written_store_is_whole(tmp_path: Path) -> None:
    found = growth.write_images(2500, growth.Config(dim=4), tmp_path)
    store = FeatureStore(tmp_path)
    assert len(store) == 2500 and store.array("values").shape == (2500, 4) and store.labels[13] == 3
    assert found["seconds"] > 0 and found["bytes"] >= 0


def test_every_curve_and_the_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "apart", lambda work, *given: work(*given))
    small = {"images": "250 500", "probe-images": "250 500", "dim": 4, "queries": 3, "tokens": "4 9", "layers": "1 2"}
    given = [word for name, value in small.items() for word in (f"--{name}", *str(value).split())]
    assert main("growth", [*given, "--width", "16", "--repeats", "1", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "result.json").read_text())
    names = [*growth.curves(growth.Config())]
    assert [entry["curve"] for entry in content["results"]] == [name for name in names for _ in range(2)]
    assert list(content["card"]["details"]["exponents"]) == names
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
