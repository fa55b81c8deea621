"""Whether one variant beats another on the same images: paired differences, and which of them were planned.

Planned: the recommended context `reverse` against the best other context, and against the best `repeat`, both chosen by
tuning images. All other comparisons, of pairs of contexts and of the best variants of two encoders, were not planned:
their p-values are corrected by Holm's procedure for their number.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report.tables import MISSING, Table, cell, markdown, points, result_tables, shared_words
from benchmarks.result import AXES, Result, Run, find_runs, frame_of, known_bounds
from probes import Difference, holm
from randar_features import sequence
from randar_features.data.containers.paths import reading
from randar_features.store.files import read_json
from randar_features.store.records import markdown_text

if TYPE_CHECKING:
    import pandas as pd

NAMED = ("encoder", "probe", "settings", "pooling", "read", "layer", "components")
KIND = ("encoder", "probe", "settings", "pooling")
Compare = Callable[[int, int], Difference]
"""Numbers of two results → the difference of their scores, the first less the second."""


def differences_of(rows: Sequence[Result], compare: Compare) -> list[dict[str, Any]]:
    """Every comparison of results: `context_differences`, `planned_differences` and `encoder_differences`.

    Each holds what the two share, `first`, `second`, difference, interval, p_value, `planned`, and, of those that were
    not planned, `p_holm`. Of a single image, interval and p-values are NaN.
    """
    found = [*planned_differences(rows, compare)]
    others = [*context_differences(rows, compare), *encoder_differences(rows, compare)]
    return found + corrected(others)


def corrected(compared: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons with `p_holm`, which is corrected by Holm's procedure for how many of them have a p-value."""
    known = [each["p_value"] for each in compared if not math.isnan(each["p_value"])]
    found = iter(holm(known).tolist())
    return [each | {"p_holm": math.nan if math.isnan(each["p_value"]) else next(found)} for each in compared]


def context_differences(rows: Sequence[Result], compare: Compare) -> list[dict[str, Any]]:
    """For each two results that differ in their context alone."""
    groups: dict[str, dict[str, int]] = {}
    for number, row in enumerate(rows):
        if row.get("context") is not None:
            axes = {name: row.get(name) for name in (*AXES, *NAMED) if name not in ("context", "output")}
            groups.setdefault(repr(axes), {})[row["context"]] = number
    found = []
    for members in groups.values():
        for second, first in combinations([context for context in sequence.CONTEXTS if context in members], 2):
            difference = compare(members[first], members[second])
            found.append(_stated(rows[members[first]], NAMED) | _entry(first, second, difference, planned=False))
    return found


def planned_differences(rows: Sequence[Result], compare: Compare) -> Iterator[dict[str, Any]]:
    """`reverse` against the best without it, and against the best `repeat`; each side by its tuning score."""
    for shared, members in _grouped(rows, KIND):
        reverse = best_of(rows, [m for m in members if rows[m].get("context") == "reverse"])
        without = [m for m in members if rows[m].get("context") not in (None, "reverse")]
        repeat = [m for m in without if rows[m].get("context") == "repeat"]
        for words, others in (("best without reverse", without), ("best repeat", repeat)):
            other = best_of(rows, others)
            if reverse is not None and other is not None:
                named = str(rows[reverse].get("output")), f"{words}: {rows[other].get('output')}"
                yield shared | _entry(*named, compare(reverse, other), planned=True)


def encoder_differences(rows: Sequence[Result], compare: Compare) -> list[dict[str, Any]]:
    """For each two encoders their variants of the best tuning scores, by the same probe and settings."""
    found = []
    for shared, members in _grouped(rows, ("probe", "settings")):
        names = list(dict.fromkeys(rows[member].get("encoder") for member in members))
        best = {name: best_of(rows, [m for m in members if rows[m].get("encoder") == name]) for name in names}
        for first, second in combinations([n for n in names if n is not None and best[n] is not None], 2):
            one, other = best[first], best[second]
            assert one is not None and other is not None
            words = f"{first}, {rows[one].get('output')}", f"{second}, {rows[other].get('output')}"
            found.append(shared | _entry(*words, compare(one, other), planned=False))
    return found


def best_of(rows: Sequence[Result], members: Sequence[int]) -> int | None:
    """The first of the members with the highest tuning score; None without members or scores."""
    known = [member for member in members if rows[member].tuning is not None]
    return max(known, key=lambda member: rows[member].tuning or 0.0) if known else None


def _grouped(rows: Sequence[Result], names: Sequence[str]) -> list[tuple[dict[str, Any], list[int]]]:
    """The numbers of results that are alike in these names, after what they share."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(tuple(row.get(name) for name in names), []).append(number)
    return [(_stated(rows[members[0]], names), members) for members in groups.values()]


def _stated(row: Result, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := row.get(name)) is not None}


def _entry(first: str, second: str, difference: Difference, *, planned: bool) -> dict[str, Any]:
    return {"first": first, "second": second, **difference._asdict(), "planned": planned}


def difference_table(differences: Sequence[dict[str, Any]]) -> Table:
    """One line a comparison on the same images: the first minus the second, in points; planned ones first."""
    names = [name for name in NAMED if any(row.get(name) is not None for row in differences)]
    rows = [
        [
            points(row["difference"], row["interval"]),
            f"{row['first']} − {row['second']}",
            "planned" if row.get("planned") else MISSING if (p := row.get("p_holm")) is None else f"{p:.3f}",
            *(cell(row.get(name)) for name in names),
        ]
        for row in differences
    ]
    return Table(["points, 95 % interval", "first − second", "p, Holm", *names], rows)


def run_differences(run: Run) -> list[dict[str, Any]]:
    """The comparisons that lie beside a result; none where it has none."""
    if (path := run.artifact("differences")) is None:
        return []
    with reading(path, "differences"):
        found = read_json(path)
        difference_table(found)  # what is damaged is refused here
    return list(found)


def load_differences(folders: str | Path | Sequence[str | Path]) -> "pd.DataFrame":
    """Every paired comparison of the runs below a folder, or several, as one table: a line each comparison.

    Columns: run, what the two share (encoder, probe, settings …), first, second, difference, low, high, p_value,
    planned, p_holm. What a single image does not tell is NaN.

    Raises:
        FileNotFoundError: there is no result below a folder.
    """
    given = [folders] if isinstance(folders, str | Path) else folders
    found = []
    for run in find_runs([Path(folder) for folder in given]):
        for each in run_differences(run):
            low, high = known_bounds(each["interval"]) or (math.nan, math.nan)
            known = {name: math.nan if value is None else value for name, value in each.items()}
            found.append({"run": run.name, **known, "low": low, "high": high})
    return frame_of(found).drop(columns="interval", errors="ignore")


def run_markdown(run: Run) -> str:
    """All that a person reads of a run: protocol, warnings, results, comparisons, command."""
    parts = [markdown_text(run.card["protocol"])]
    parts += [f"Warning: {markdown_text(warning)}." for warning in run.card["warnings"]]
    parts += [markdown_text(words)] if (words := shared_words(run)) else []
    parts += map(markdown, result_tables(run))
    parts += [markdown(difference_table(compared))] if (compared := run_differences(run)) else []
    return "\n\n".join([*parts, f"`{run.card['command']}`, commit {run.card['machine']['commit']}"])
