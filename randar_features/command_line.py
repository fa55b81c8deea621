"""How a script or a benchmark ends: one line for what its user can put right, a traceback for what its authors must.

And in time, where it may take days.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from typing import NoReturn

# What is raised with a message for the user: of options, files, memory, missing extras, and training that diverges.
EXPLAINED: tuple[type[Exception], ...] = (
    ValueError, OSError, MemoryError, IndexError, FloatingPointError, ModuleNotFoundError,
)  # fmt: skip

# Exit status (EX_TEMPFAIL) of what wants to be run again to continue, so that what builds on it does not start.
UNFINISHED = 75


def run_command(main: Callable[[], object], *also: type[Exception]) -> None:
    """Call `main`; of an error that explains itself print one line, `Type: message`, and end with exit status 1.

    Those are `EXPLAINED` and `also`. Any other comes with its traceback, and in Python's development mode
    (`python -X dev`) these do as well.
    """
    try:
        main()
    except EXPLAINED + also as error:
        if sys.flags.dev_mode:
            raise
        raise SystemExit(f"{type(error).__name__}: {error}") from None


def add_time_limit(parser: argparse.ArgumentParser) -> None:
    """Add `--max-minutes`, parsed as `deadline`: when `time.monotonic` will have gone so far on from the parsing."""
    parser.add_argument(
        "--max-minutes",
        type=_minutes_from_now,
        dest="deadline",
        metavar="MINUTES",
        help=f"stop behind the step or shard that is being made this long after the start, with status {UNFINISHED}",
    )


def _minutes_from_now(text: str) -> float:
    minutes = float(text)
    if math.isnan(minutes):
        raise ValueError(text)
    return time.monotonic() + 60 * minutes


_minutes_from_now.__name__ = "number of minutes"  # argparse says it of other words


def stop_unfinished() -> NoReturn:
    """Say so, and end with status `UNFINISHED`."""
    print("not finished: run it again to continue")
    raise SystemExit(UNFINISHED)
