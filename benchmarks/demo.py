"""The demo, a preset of the suite: `python -m benchmarks.demo --out runs/demo`."""

import sys
from collections.abc import Sequence

from benchmarks import suite


def main(arguments: Sequence[str] | None = None, program: str = "python -m benchmarks.demo") -> int:
    """Run the suite with its preset, and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return suite.main(["--preset", "demo", *given], program)


if __name__ == "__main__":
    sys.exit(main())
