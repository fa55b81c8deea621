"""Benchmarks: encoder × data × task → results with cards. `python -m benchmarks.NAME` is `randar bench NAME`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.result import load_results

# `python -m benchmarks.NAME` finds the tasks and the measurements of speed by their names alone.
__path__ += [str(Path(__file__).parent / folder) for folder in ("tasks", "speed", "report")]

__all__ = ["load_results"]


def __getattr__(name: str) -> Any:
    """`load_results`, imported when it is first used."""
    if name != "load_results":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from benchmarks.result import load_results

    return load_results
