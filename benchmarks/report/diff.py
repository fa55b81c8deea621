"""Why two numbers are, or are not, comparable: `python -m benchmarks.diff a.json b.json`.

Prints every difference of the two cards and of the axes and settings of their results, and the differences of the
metrics where two results are comparable. Exit status: 0 if some results are comparable, 1 if none
are, 2 for an error.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.result import AXES, RESULT_FILE, Card, Result, Run, find_runs, open_run
from randar_features.options.command import run as run_command
from randar_features.options.parse import positional
from randar_features.store.records import printable

DECISIVE_AXES = ("pooling", "normalization", "resolution", "threshold_basis", "selection", "orders")
"""Differing values make two numbers answers to different questions; on the other axes encoders are compared."""


CONDITIONS = ("images", "steps", "guidance", "shots", "likelihood_images", "likelihood_orders", "loss_orders")
"""Numbers of a result that say how it was measured, not what came out."""


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


def unequal(
    both: Iterable[Mapping[str, Any]], decisive: Callable[[str], bool], words: str = "{}"
) -> Iterator[Difference]:
    """The entries in which two mappings differ; `words`: how each is called."""
    first, second = both
    for name in {**first, **second}:
        if first.get(name) != second.get(name):
            yield Difference(words.format(name), first.get(name), second.get(name), decisive(name))


def card_differences(first: Card, second: Card) -> Iterator[Difference]:
    """Differences of two cards. Decisive: protocol, data, decisive axes, device, formats, how intervals were made.

    An option that decides stands in the protocol, the data or the rows too; by itself it only "differs".
    """
    cards = first, second
    yield from unequal(({n: card.get(n) for n in ("protocol", "data")} for card in cards), lambda _: True)
    axes = first["axes"].keys() & second["axes"].keys()
    shared = ({n: card["axes"][n] for n in AXES if n in axes} for card in cards)
    yield from unequal(shared, lambda name: name in DECISIVE_AXES)
    encodings = [(card.get("encoding") or {}) | {"gpu": card["machine"].get("gpu")} for card in cards]
    yield from unequal(encodings, lambda name: name != "batch_size", "encoding: {}")
    yield from unequal(({"intervals": card.get("interval")} for card in cards), lambda _: True)
    for part, words in (("config", "option {}"), ("weights", "weights of {}")):
        held = [card.get(part, {}) for card in cards]
        both = ({n: each[n] for n in held[0] if n in held[1]} for each in held)
        yield from unequal(both, lambda _: False, words)
    machines = ({n: value for n, value in card["machine"].items() if n != "gpu"} for card in cards)
    yield from unequal(machines, lambda _: False, "machine: {}")
    for warning in sorted(set(first["warnings"]) ^ set(second["warnings"])):
        given = tuple(warning if warning in card["warnings"] else None for card in cards)
        yield Difference("warning", given[0], given[1], False)


def row_differences(run: Run, row: Result, other_run: Run, other: Result) -> list[Difference]:
    """Differences of the axes, settings and `CONDITIONS` of two results; all but some axes are decisive."""

    def stated(run: Run, row: Result) -> dict[str, Any]:
        return run.axes(row) | {**row.settings} | {name: row.metrics.get(name) for name in CONDITIONS}

    both = stated(run, row), stated(other_run, other)
    return list(unequal(both, lambda name: name in DECISIVE_AXES or name not in AXES))


def matching_rows(first: Run, second: Run) -> Iterator[tuple[Result, Result, list[Difference]]]:
    """Each result of the first run with the one of the second whose axes differ least from its."""
    for row in first.results:
        pairs = [(other, row_differences(first, row, second, other)) for other in second.results]
        yield row, *min(pairs, key=lambda pair: (sum(d.decisive for d in pair[1]), len(pair[1])))


def describe_metrics(first: Result, second: Result) -> Iterator[str]:
    """One line a metric that both have, and whether the intervals overlap where both are given."""
    values, others = first.metrics, second.metrics
    for name in [name for name in values if name in others]:
        yield f"    {name}: {values[name]:.4g} / {others[name]:.4g} ({others[name] - values[name]:+.4g})"
    if first.interval and second.interval:
        (low, high), (other_low, other_high) = first.interval, second.interval
        verdict = "overlap" if low <= other_high and other_low <= high else "do not overlap"
        yield f"    95 % intervals {verdict}: {[low, high]} / {[other_low, other_high]}"


def compare(first: Run, second: Run) -> tuple[list[str], bool]:
    """Lines that say what differs, and whether any two results are comparable."""
    shared = list(card_differences(first.card, second.card))
    lines, comparable = [str(difference) for difference in shared], False
    if decisive := [difference.what for difference in shared if difference.decisive]:
        return [*lines, f"no row of the one can be compared with one of the other: {', '.join(decisive)} differ"], False
    if not first.results or not second.results:
        return [*lines, "one of them has no row of results to compare"], False
    for row, other, differences in matching_rows(first, second):
        axes = first.axes(row)
        stands = not any(difference.decisive for difference in differences)
        comparable |= stands
        words = [axes["encoder"], axes["output"], row.axes.get("pooling"), row.axes.get("normalization")]
        name = ", ".join(dict.fromkeys(filter(None, [*words, *row.settings.values()]))) or "the result"
        lines.append(f"{name}: {'comparable' if stands else 'not comparable'}")
        lines += [f"    {difference}" for difference in differences]
        lines += describe_metrics(row, other) if stands else []
    return lines, comparable


def compare_folders(first: Path, second: Path) -> tuple[list[str], bool]:
    """`compare` of two result files, or of each two that lie in the same place below two folders, as of suites."""
    if not _holds_several(first) and not _holds_several(second):
        return compare(open_run(first), open_run(second))
    runs = [{run.name: run for run in find_runs([folder])} for folder in (first, second)]
    lines: list[str] = []
    comparable = False
    for name in sorted(runs[0].keys() | runs[1].keys()):
        if name in runs[0] and name in runs[1]:
            found, stands = compare(runs[0][name], runs[1][name])
            lines += [f"## {name}", *found]
            comparable |= stands
        else:
            lines.append(f"## {name}: in {first if name in runs[0] else second} alone")
    return lines, comparable


def _holds_several(folder: Path) -> bool:
    return folder.is_dir() and not (folder / RESULT_FILE).is_file()


@dataclass(frozen=True, kw_only=True)
class Config:
    """Say if two results are comparable, and why. Exit status: 0 if some numbers are, 1 if none are, 2 for an error.

    Attributes:
        first: a result file, its folder, or the folder of a suite.
        second: another one.
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
    return run_command(command, Config, arguments, program=program)


if __name__ == "__main__":
    sys.exit(main())
