"""How a script or a benchmark ends: one line for what its user can put right, a traceback for what its authors must."""

from __future__ import annotations

import sys
from collections.abc import Callable

# What is raised with a message for the user: of options, files, memory, missing extras, and training that diverges.
EXPLAINED = (ValueError, OSError, MemoryError, IndexError, FloatingPointError, ModuleNotFoundError)


def run_command(main: Callable[[], object], *also: type[Exception]) -> None:
    """Call `main`; of an error that explains itself print one line, `Type: message`, and end with exit status 1.

    Those are `EXPLAINED` and `also`. Any other comes with its traceback, and in Python's development mode
    (`python -X dev`) these do as well.
    """
    try:
        main()
    except (*EXPLAINED, *also) as error:
        if sys.flags.dev_mode:
            raise
        raise SystemExit(f"{type(error).__name__}: {error}") from None
