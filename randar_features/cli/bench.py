"""`randar bench`: the benchmarks, which are a package of their own."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; `randar bench --help` lists the tasks."""
    from benchmarks.__main__ import main as bench

    return bench(arguments, "randar bench")


if __name__ == "__main__":
    raise SystemExit(main())
