from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.result import read_result
from benchmarks.speed import paired_speed
from benchmarks.speed.paired_speed import THIS, Config


def test_a_checkout_beside_itself(tmp_path: Path):
    sizes = {"layers": 1, "heads": 2, "dim": 32, "vocab_size": 64, "tokens": 16, "steps": 4}
    config = Config(other=THIS, works=("features", "generation"), pairs=3, **sizes)
    found = read_result(paired_speed.run(config, tmp_path))["results"]
    assert [result["work"] for result in found] == ["features", "generation"]
    for result in found:
        assert result["interval"][0] <= result["ratio"] <= result["interval"][1]
        assert result["this seconds"] > 0 and result["other seconds"] > 0


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=f"{tmp_path.name}.*randar_features"):
        Config(other=tmp_path)
