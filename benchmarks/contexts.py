"""Whether one context beats another, on the same images: rows that differ in nothing else, paired."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

from benchmarks.protocol import AXES, Result
from randar_features import sequence

NAMED = ("encoder", "read", "layer", "components")


def context_differences(
    rows: Sequence[Result], compare: Callable[[int, int], tuple[float, Sequence[float]]]
) -> Iterator[dict[str, Any]]:
    """For each two rows that differ in their context alone: encoder, read, layer, the contexts and their difference.

    compare: numbers of two rows → the difference of their scores, first less second, and its interval [low, high].
    """
    groups: dict[str, dict[str, int]] = {}
    for number, row in enumerate(rows):
        if row.get("context") is not None:
            axes = {name: row.get(name) for name in (*AXES, *NAMED) if name not in ("context", "output")}
            groups.setdefault(repr(axes), {})[row["context"]] = number
    for members in groups.values():
        for first, second in combinations([context for context in sequence.CONTEXTS if context in members], 2):
            difference, interval = compare(members[second], members[first])
            about = {name: rows[members[first]].get(name) for name in NAMED}
            yield about | {"first": second, "second": first, "difference": difference, "interval": list(interval)}


def difference_table(differences: Sequence[dict[str, Any]]) -> str:
    """Markdown, one row a pair of contexts."""
    lines = [[*NAMED, "contexts", "difference, points", "95 % interval"]]
    for row in differences:
        cells = ["" if row[name] is None else str(row[name]) for name in NAMED]
        low, high = (f"{100 * bound:+.1f}" for bound in row["interval"])
        lines.append(
            [*cells, f"{row['first']} − {row['second']}", f"{100 * row['difference']:+.1f}", f"{low} … {high}"]
        )
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; the first line is its header."""
    rule = ["---"] * len(lines[0])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:]))
