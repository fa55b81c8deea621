"""Whether one context beats another, on the same images: rows that differ in nothing else, paired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.report.tables import Table, cell, markdown, points
from benchmarks.result import AXES, Result
from probes import Difference
from randar_features import sequence
from randar_features.store.files import write_json

NAMED = ("encoder", "probe", "settings", "pooling", "read", "layer", "components")
DIFFERENCES = "differences.json"


def context_differences(rows: Sequence[Result], compare: Callable[[int, int], Difference]) -> list[dict[str, Any]]:
    """For each two rows that differ in their context alone: what they share, the contexts and their difference.

    compare: numbers of two rows → the difference of their scores, first less second.
    """
    groups: dict[str, dict[str, int]] = {}
    for number, row in enumerate(rows):
        if row.get("context") is not None:
            axes = {name: row.get(name) for name in (*AXES, *NAMED) if name not in ("context", "output")}
            groups.setdefault(repr(axes), {})[row["context"]] = number
    found = []
    for members in groups.values():
        for second, first in combinations([context for context in sequence.CONTEXTS if context in members], 2):
            about = {name: rows[members[first]][name] for name in NAMED if name in rows[members[first]]}
            difference = compare(members[first], members[second])
            found.append(about | {"first": first, "second": second, **difference._asdict()})
    return found


def difference_table(differences: Sequence[dict[str, Any]]) -> Table:
    """One line for two variants that were evaluated on the same rows: the first minus the second, in points."""
    names = [name for name in NAMED if any(row.get(name) is not None for row in differences)]
    rows = [
        [
            *(cell(row.get(name)) for name in names),
            f"{row['first']} − {row['second']}",
            points(row["difference"], row["interval"]),
        ]
        for row in differences
    ]
    return Table([*names, "contexts", "points, 95 % interval"], rows)


def write_tables(out: Path, table: Table, differences: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Write both as Markdown to `out`/result.md, and the differences as JSON, an artifact of the result."""
    write_json(out / DIFFERENCES, differences)
    tables = [table, difference_table(differences)] if differences else [table]
    (out / "result.md").write_text("\n\n".join(map(markdown, tables)) + "\n", encoding="utf-8")
    return {"differences": DIFFERENCES}
