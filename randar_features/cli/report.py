"""`randar report`: an HTML page of benchmark results."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    from benchmarks.report.write import main as report

    return report(arguments, "randar report")


if __name__ == "__main__":
    raise SystemExit(main())
