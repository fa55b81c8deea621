"""The training scripts' common arguments."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from randar_features.training import command_line
from randar_features.training.command_line import train, training_parser


@pytest.mark.parametrize(("minutes", "left"), [("2", 90.0), ("0", -30.0), (None, None)])
def test_what_was_done_before_the_training_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: str | None, left: float | None
):
    """Half a minute passes between the parsing of the arguments and the first step."""
    clock, given = [1000.0], []

    def run(*arguments: Any, max_seconds: float | None, **options: Any) -> bool:
        given.append(max_seconds)
        return True

    monkeypatch.setattr(command_line.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(command_line, "run", run)
    monkeypatch.setattr(command_line, "keep_freed_memory", lambda: None)
    limit = [] if minutes is None else ["--max-minutes", minutes]
    args = training_parser("about", tmp_path / "recipe.yaml").parse_args(["--out", str(tmp_path), *limit])
    clock[0] += 30
    train(SimpleNamespace(config=SimpleNamespace(loop=None)), args)  # type: ignore[arg-type]
    assert given == [left]
