"""`randar diff`: why two benchmark results can or cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    from benchmarks.report.diff import main as diff

    return diff(arguments, "randar diff")


if __name__ == "__main__":
    raise SystemExit(main())
