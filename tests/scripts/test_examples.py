"""The examples run as they are, on a folder of twenty pictures."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from sklearn.model_selection import GridSearchCV

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
WRITTEN = {
    "probe_your_folder": [],
    "compare_layers": ["layers.png"],
    "search_and_browse": ["found.png", "odd.png"],
    "edit_an_image": ["inpainted.png", "lion.png", "wider.png", "surprise.png"],
    "write_your_own": ["runs/own/report.html", "runs/own/nearest-mean/result.md"],
}
PRINTED = {
    "probe_your_folder": "pixels: accuracy",
    "compare_layers": "accuracy",
    "search_and_browse": "same class",
    "edit_an_image": "",
    "write_your_own": "__main__:average_colours",
}


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(WRITTEN)


def small_search(pipeline: Any, grid: dict[str, list[Any]], cv: int) -> GridSearchCV:
    """The search of an example, through the same lines, among four settings in two folds."""
    return GridSearchCV(pipeline, {name: values[:2] for name, values in grid.items()}, cv=cv - 1)


@pytest.mark.usefixtures("photos")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRITTEN)
def test_an_example_runs(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr("sklearn.model_selection.GridSearchCV", small_search)
    assert (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").startswith("# %% [markdown]\n# # ")
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert PRINTED[name] in capsys.readouterr().out
    assert all(Path(file).stat().st_size > 0 for file in WRITTEN[name])
