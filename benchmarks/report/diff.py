"""Why two numbers are, or are not, comparable: `python -m benchmarks.diff a.json b.json`.

Prints every difference of the two protocol cards and of the rows' axes and settings, and the differences of the
metrics where a comparison stands. Exit status as of `diff`: 0 where rows can be compared, 1 where none can, 2 for an
error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report.tables import printable
from benchmarks.result import AXES, RESULT_FILE, find_results, full_axes, metrics, read_result
from randar_features.cli import parse
from randar_features.cli.parse import positional

DECISIVE_AXES = ("pooling", "normalization", "resolution", "threshold_basis", "selection", "orders")
"""Differing values make two numbers answers to different questions; on the other axes encoders are compared."""


class Difference(NamedTuple):
    """One thing that is not the same, and whether numbers can still be compared."""

    what: str
    first: Any
    second: Any
    decisive: bool

    def __str__(self) -> str:
        """One line."""
        verdict = "NOT COMPARABLE" if self.decisive else "differs"
        return f"{verdict:15s} {self.what}: {self.first!r} / {self.second!r}"


def card_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    """Differences of two cards; of protocol, data and decisive axes they are decisive.

    An option that decides stands in the protocol, the data or the rows too; by itself it only "differs".
    """
    if first["protocol"] != second["protocol"]:
        yield Difference("protocol", first["protocol"], second["protocol"], True)
    if first["data"] != second["data"]:
        yield Difference("data", first["data"], second["data"], True)
    for name in [axis for axis in AXES if axis in first["axes"] and axis in second["axes"]]:
        values = first["axes"][name], second["axes"][name]
        if values[0] != values[1]:
            yield Difference(name, *values, name in DECISIVE_AXES)
    yield from _encoding_differences(first, second)
    options = [card.get("config", {}) for card in (first, second)]
    for name in [option for option in options[0] if option in options[1]]:
        values = options[0][name], options[1][name]
        if values[0] != values[1]:
            yield Difference(f"option {name}", *values, False)
    for encoder in sorted(first["weights"].keys() & second["weights"].keys()):
        values = first["weights"][encoder], second["weights"][encoder]
        if values[0] != values[1]:
            yield Difference(f"weights of {encoder}", *values, False)
    for name in sorted((first["machine"].keys() | second["machine"].keys()) - {"gpu"}):
        values = first["machine"].get(name), second["machine"].get(name)
        if values[0] != values[1]:
            yield Difference(f"machine: {name}", *values, False)
    for warning in sorted(set(first["warnings"]) ^ set(second["warnings"])):
        given = tuple(warning if warning in card["warnings"] else None for card in (first, second))
        yield Difference("warning", given[0], given[1], False)


def _encoding_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    """Device, number formats and the way that intervals were made, which decide; and the batch size, which does not."""
    encodings = [card.get("encoding") or {} for card in (first, second)]
    for name in ("device", "dtype", "store_dtype", "batch_size"):
        values = [encoding.get(name) for encoding in encodings]
        if values[0] != values[1]:
            yield Difference(f"encoding: {name}", values[0], values[1], name != "batch_size")
    if first["machine"].get("gpu") != second["machine"].get("gpu"):
        yield Difference("encoding: gpu", first["machine"].get("gpu"), second["machine"].get("gpu"), True)
    if first.get("interval") != second.get("interval"):
        yield Difference("intervals", first.get("interval"), second.get("interval"), True)


def row_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Differences of the `stated` of two rows; of settings in words they are decisive."""
    unequal = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return [
        Difference(name, first.get(name), second.get(name), name in DECISIVE_AXES or name not in AXES)
        for name in unequal
    ]


def stated(card: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """All axes of a row, and its settings in words, such as the probe."""
    return full_axes(dict(card), dict(row)) | {name: value for name, value in row.items() if isinstance(value, str)}


def matching_rows(first: dict[str, Any], second: dict[str, Any]) -> Iterator[tuple[dict, dict, list[Difference]]]:
    """Each row of the first file with the row of the second whose axes differ least from it."""
    for row in first["results"]:
        axes = stated(first["card"], row)
        pairs = [(other, row_differences(axes, stated(second["card"], other))) for other in second["results"]]
        if pairs:
            yield row, *min(pairs, key=lambda pair: (sum(d.decisive for d in pair[1]), len(pair[1])))


def describe_metrics(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """One line a metric that both rows have, and whether the intervals overlap where both are given."""
    values, others = metrics(dict(first)), metrics(dict(second))
    for name in [name for name in values if name in others]:
        yield f"    {name}: {values[name]:.4g} / {others[name]:.4g} ({others[name] - values[name]:+.4g})"
    if first.get("interval") and second.get("interval"):
        (low, high), (other_low, other_high) = first["interval"], second["interval"]
        verdict = "overlap" if low <= other_high and other_low <= high else "do not overlap"
        yield f"    95 % intervals {verdict}: {first['interval']} / {second['interval']}"


def compare(first: dict[str, Any], second: dict[str, Any]) -> tuple[list[str], bool]:
    """Lines that say what differs, and whether any two rows are comparable."""
    shared = list(card_differences(first["card"], second["card"]))
    lines, comparable = [str(difference) for difference in shared], False
    if decisive := [difference.what for difference in shared if difference.decisive]:
        return [*lines, f"no row of the one can be compared with one of the other: {', '.join(decisive)} differ"], False
    if not first["results"] or not second["results"]:
        return [*lines, "one of them has no row of results to compare"], False
    for row, other, differences in matching_rows(first, second):
        axes = full_axes(first["card"], row)
        stands = not any(difference.decisive for difference in differences)
        comparable |= stands
        lines.append(f"{axes['encoder']}, {axes['output']}: {'comparable' if stands else 'not comparable'}")
        lines += [f"    {difference}" for difference in differences]
        lines += describe_metrics(row, other) if stands else []
    return lines, comparable


def compare_folders(first: Path, second: Path) -> tuple[list[str], bool]:
    """`compare` of two result files, or of each two that lie in the same place below two folders, as of suites."""
    if not _holds_several(first) and not _holds_several(second):
        return compare(read_result(first), read_result(second))
    places = [{file.parent.relative_to(folder): file for file in find_results(folder)} for folder in (first, second)]
    lines: list[str] = []
    comparable = False
    for place in sorted(places[0].keys() | places[1].keys()):
        if place in places[0] and place in places[1]:
            found, stands = compare(*(read_result(each[place]) for each in places))
            lines += [f"## {place}", *found]
            comparable |= stands
        else:
            lines.append(f"## {place}: in {first if place in places[0] else second} alone")
    return lines, comparable


def _holds_several(folder: Path) -> bool:
    return folder.is_dir() and not (folder / RESULT_FILE).is_file()


@dataclass(frozen=True, kw_only=True)
class Config:
    """Why two numbers are, or are not, comparable. Exit status 0 where some are, 1 where none are, 2 for an error.

    Attributes:
        first: a result file, its folder, or the folder of a suite.
        second: another.
    """

    first: Path = positional()
    second: Path = positional()


def command(config: Config) -> int:
    """Print the comparison; the exit status."""
    lines, comparable = compare_folders(config.first, config.second)
    print("\n".join(map(printable, lines)))
    return 0 if comparable else 1


def main(arguments: Sequence[str] | None = None, program: str = "python -m benchmarks.diff") -> int:
    """Read the options, compare, and return the exit status."""
    return parse.run(command, Config, arguments, program=program)


if __name__ == "__main__":
    sys.exit(main())
