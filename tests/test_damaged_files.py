"""A few inputs of `python -m tests.fuzz`: damaged files are read as before, or refused in one line that names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.formats import FORMATS
from tests.fuzz.harness import GOOD, prepare, try_input

SOME = (
    "png-palette",
    "webdataset",
    "parquet",
    "jsonl",
    "mask-png",
    "features",
    "index-flat",
    "state",
    "recipe",
    "frame",
)


@pytest.mark.parametrize("name", SOME)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    kind = FORMATS[name]
    data, clean = prepare(kind, tmp_path)
    outcomes = [try_input(kind, data, clean, f"{name}:test:{number}") for number in range(6)]
    assert [outcome for outcome in outcomes if outcome.kind not in GOOD] == []
    assert any(outcome.kind == "refused" for outcome in outcomes)
