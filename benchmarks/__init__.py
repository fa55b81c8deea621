"""Benchmarks: encoder × data × task → results with cards. `python -m benchmarks.NAME` is `randar bench NAME`.

Results as data: `load_results(folders)` gives one pandas table of many runs, `paper_table` the best of each encoder in
it, `load_differences(folders)` the paired comparisons; `to_markdown()`, `to_latex(escape=True)` of pandas write them.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.comparisons import load_differences
    from benchmarks.report.tables import paper_table
    from benchmarks.result import load_results

# `python -m benchmarks.NAME` finds the tasks and the measurements of speed by their names alone.
FOLDERS = ("tasks/whole_images", "tasks/dense", "tasks/duplicates", "tasks/generators", "speed", "report")
__path__ += [str(Path(__file__).parent / folder) for folder in FOLDERS]

__all__ = ["load_differences", "load_results", "paper_table"]

_OWNERS = {"load_differences": "comparisons", "load_results": "result", "paper_table": "report.tables"}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used."""
    if name not in _OWNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"benchmarks.{_OWNERS[name]}"), name)
