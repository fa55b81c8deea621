"""Benchmarks: encoder × data × task → results with cards. `python -m benchmarks.NAME` is `randar bench NAME`."""

from pathlib import Path

# `python -m benchmarks.NAME` finds the tasks and the measurements of speed by their names alone.
__path__ += [str(Path(__file__).parent / folder) for folder in ("tasks", "speed", "report")]
