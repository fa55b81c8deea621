"""Tables of results, one form for Markdown, LaTeX and pages: of a run, of its comparisons, of many runs for a paper."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.result import AXES, Result, Run, known_bounds
from randar_features.store.records import markdown_text

NO_SHARES = re.compile(
    r"(^|[_ ])(seconds?|rank|nats|bytes|loss|entropy|psnr|times|speedup|guidance|density|gib|[gt]?flops?|days|epochs|"
    r"floor|mse|ssim|norm|ratio|similarity)(_|$)|FID|^s?FD|KID|^KD|^IS"
)
LABELS_WORDS = "trained with ImageNet's labels"
MISSING = "–"


class Table(NamedTuple):
    """Cells under a header; `marked` is the row to stress."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None


def markdown(table: Table) -> str:
    """Pipes and dashes; the stressed row in bold."""
    lines = [table.header, ["---"] * len(table.header)]
    lines += [[f"**{c}**" if c and i == table.marked else c for c in row] for i, row in enumerate(table.rows)]
    return "\n".join("| " + " | ".join(map(markdown_text, line)) + " |" for line in lines)


def cell(value: Any) -> str:
    """A setting: nothing for None, "0 + 1" for several."""
    if isinstance(value, list | tuple):
        return " + ".join(map(str, value))
    return "" if value is None else str(value)


def points(difference: float, bounds: Sequence[float]) -> str:
    """A difference of shares in points, with its sign and its interval, if known, as "+1.2 (-0.5 … +3.0)"."""
    known = [f"{100 * bound:+.1f}" for bound in known_bounds(bounds) or ()]
    return f"{100 * difference:+.1f}" + (f" ({' … '.join(known)})" if known else "")


def number(value: float | None, share: bool = False) -> str:
    """Shares as percentages, counts as they are, other figures, such as seconds, to four digits; nothing for None."""
    if value is None:
        return ""
    if share:
        return f"{100 * value:.1f} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def is_share(name: str, values: Iterable[float | None]) -> bool:
    """Whether a metric of this name and these values is shown in per cent: not half a second, not 1.5 times."""
    known = [value for value in values if value is not None]
    return not NO_SHARES.search(name) and all(isinstance(value, float) and -1 <= value <= 1 for value in known)


def with_interval(row: Result, metric: str, share: bool | None = None) -> str:
    """A metric of a result, and its interval where the result has one: "50.0 % (47.5 % … 52.6 %)".

    share: show it in per cent; None: as `is_share` says of this value.
    """
    value, interval = row.metrics.get(metric), interval_of(row, metric)
    share = is_share(metric, [value]) if share is None else share
    if not interval or value is None:
        return number(value, share)
    low, high = (number(float(bound), share) for bound in interval)
    return f"{number(value, share)} ({low} … {high})"


def interval_of(row: Result, metric: str) -> Sequence[float] | None:
    """The interval of the main metric, or of another one that the details of a result hold."""
    if metric == row.metric:
        return known_bounds(row.interval)
    return known_bounds(row.details.get(f"{metric}_interval") or (row.details.get("intervals") or {}).get(metric))


def result_tables(run: Run) -> list[Table]:
    """A `result_table`, or one for each part or stage of the run where results name it."""
    groups: dict[tuple[str | None, ...], list[Result]] = {}
    for row in run.results:
        groups.setdefault(tuple(row.settings.get(name) for name in ("part", "stage")), []).append(row)
    return [result_table(replace(run, results=rows)) for rows in groups.values()]


def result_table(run: Run) -> Table:
    """One line a result: the main metric with its interval first, what differs between results, other metrics."""
    columns = dict(_columns(run))
    lines = [list(line) for line in zip(*columns.values(), strict=True)] if columns else []
    marked = next((place for place, row in enumerate(run.results) if row is run.best()), None) if run.results else None
    return Table([name.replace("_", " ") for name in columns], lines, marked)


def _columns(run: Run) -> Iterator[tuple[str, list[str]]]:
    """Name and cells of each column that says something."""
    rows, stated, alike = run.results, [run.axes(row) for row in run.results], shared_parts(run)
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    if run.metric:
        metrics.remove(run.metric)
        about = ", 95 % interval" if any(row.interval for row in rows) else ""
        yield run.metric + about, [with_interval(row, str(run.metric)) for row in rows]
    for axis in [name for name in AXES if name not in alike and any(axes[name] is not None for axes in stated)]:
        yield axis, [encoder_words(run, axes[axis]) if axis == "encoder" else cell(axes[axis]) for axes in stated]
    for name in [name for name in settings_of(rows) if name not in alike]:
        yield name, [cell(row.settings.get(name)) for row in rows]
    for name in metrics:
        share = is_share(name, [row.metrics.get(name) for row in rows])
        yield name, [with_interval(row, name, share) for row in rows]
    if any(row.chosen for row in rows):
        yield "chosen", [", ".join(f"{name} {_short(value)}" for name, value in row.chosen.items()) for row in rows]
    if any(row.warnings for row in rows):
        yield "warnings", ["; ".join(row.warnings) for row in rows]


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def settings_of(results: Sequence[Result]) -> list[str]:
    """Names of the entries in words that are no axes, such as the probe."""
    return list(dict.fromkeys(name for row in results for name in row.settings))


def shared_parts(run: Run) -> dict[str, Any]:
    """The axes and settings that are the same in all results; empty for a single result, which shows all it has."""
    if len(run.results) < 2:
        return {}
    parts = [run.axes(row) | {name: row.settings.get(name) for name in settings_of(run.results)} for row in run.results]
    return {name: value for name, value in parts[0].items() if all(part[name] == value for part in parts)}


def shared_words(run: Run) -> str:
    """`shared_parts` as a sentence; empty where there are none."""
    named = [
        f"{name.replace('_', ' ')} {cell(value)}" for name, value in shared_parts(run).items() if value is not None
    ]
    return f"The same in all results: {'; '.join(named)}." if named else ""


def encoder_words(run: Run, encoder: Any) -> str:
    """An encoder's name, and whether it was trained with labels."""
    supervised = LABELS_WORDS in str(run.card["weights"].get(str(encoder), ""))
    return f"{cell(encoder)} ({LABELS_WORDS})" if supervised else cell(encoder)


def paper_table(results: pd.DataFrame) -> pd.DataFrame:
    """The best variant of each encoder, by tuning images: a line each encoder, a column each run and probe.

    Runs of one protocol on the same data share a column, which is called by the first of them; another number
    that a later one of them has of the same encoder stands in a column of its own.

    Args:
        results: of `load_results`.

    Returns:
        Texts such as "51.4 (49.4 … 53.8)", shares in per cent; `to_markdown()` and `to_latex(escape=True)` give
        the table of a paper, names with "_" included. pandas leaves a "|" in Markdown as it is: where names hold one,
        `rename(index=markdown_text, columns=markdown_text)` first, with `randar_features.store.records.markdown_text`.
        Encoders and columns stand in the order of `results`.

    Raises:
        ValueError: in none of the results was a variant chosen by tuning images.
    """
    if "best_of_encoder" not in results:
        raise ValueError("no result has a variant that tuning images chose, as those of classification have")
    best = results[results["best_of_encoder"] & results["value"].notna()]
    words = best.reindex(columns=["run", "probe", "settings"]).astype(object).fillna("")
    words["run"] = words.groupby([best["protocol"], best["data"], best["metric"]])["run"].transform("first")
    places = words.assign(encoder=best["encoder"], metric=best["metric"])
    other = places.duplicated() & ~places.assign(value=best["value"]).duplicated()
    words["run"] = words["run"].where(~other, best["run"])
    several = words.groupby(["run", "probe"])["settings"].transform("nunique") > 1
    parts = [words["run"], words["probe"], words["settings"].where(several, "")]
    named = pd.Series([", ".join(filter(None, each)) for each in zip(*parts, strict=True)], best.index)
    cells = [_paper_cell(line) for line in best[["metric", "value", "low", "high"]].to_dict("records")]
    shown = pd.DataFrame(
        {"encoder": best["encoder"], "column": named + ": " + best["metric"].str.replace("_", " "), "cell": cells}
    )
    table = shown.pivot_table(index="encoder", columns="column", values="cell", aggfunc="first", sort=False)
    return table.fillna(MISSING).rename_axis(columns=None)


def _paper_cell(line: Mapping[Any, Any]) -> str:
    share = is_share(line["metric"], [float(line["value"])])
    texts = [number(float(line[name]), share).removesuffix(" %") for name in ("value", "low", "high")]
    return texts[0] if pd.isna(line["low"]) else f"{texts[0]} ({texts[1]} … {texts[2]})"
