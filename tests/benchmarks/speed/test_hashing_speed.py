from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.result import read_result
from benchmarks.speed import hashing_speed


def test_the_second_time_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hashing_speed, "RACY_NS", 2.1e9)
    before = os.environ.get(hashing_speed.CACHE)
    config = hashing_speed.Config(files=20, size=200_000)
    first, second = read_result(hashing_speed.run(config, tmp_path))["results"]
    assert (first["pass"], second["pass"], first["files"]) == ("first", "second", 20)
    assert second["seconds"] > 0 and first["bytes"] == 4_000_000
    assert os.environ.get(hashing_speed.CACHE) == before
