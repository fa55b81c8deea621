"""All results of some runs on one page: `python -m benchmarks.report runs/suite --out runs/suite/report.html`.

Reads every result.json below the given folders and writes one self-contained HTML file and, beside it, the same
tables as Markdown. Every table and picture names the command that made it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.comparisons import difference_table
from benchmarks.report import charts, page, tables
from benchmarks.report.tables import Table, cell
from benchmarks.result import AXES, RESULT_FILE, Card, Result, full_axes, metrics, read_result, result_frame
from probes import confusion_matrix
from randar_features.cli import parse
from randar_features.cli.parse import positional
from randar_features.data.paths import reading
from randar_features.store.files import read_json

BASELINES = ("pixels", "histogram", "codes", "latents")
MOST_CLASSES = 100_000  # more are damage: a square of them fits no memory
TUNED = ("tuning", "validation")  # scores on images that are not evaluated


@dataclass(frozen=True)
class Run:
    """One result file, and what it is called: the path of its folder below the folder that was given."""

    name: str
    folder: Path
    card: Card
    results: list[Result]
    artifacts: dict[str, str]

    @property
    def main_metric(self) -> str | None:
        """The first metric of the rows, which their intervals belong to; None without rows."""
        return next((name for row in self.results for name in metrics(row)), None)

    def artifact(self, name: str) -> Path | None:
        """A file that lies beside the result; None if there is none, or not any more, as of images not to be shared."""
        path = self.folder / self.artifacts.get(name, "")
        return path if path.is_file() else None

    def best(self, rows: Sequence[Result] | None = None) -> Result:
        """Of `rows` (None: all) the one with the best score on tuning images, or, without these, of the main metric."""
        rows = self.results if rows is None else rows
        name = next((n for n in TUNED if all(n in row.metrics for row in rows)), self.main_metric or "")
        return max(rows, key=lambda row: row.metrics.get(name, -np.inf))


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Every result file below the folders, sorted by path; FileNotFoundError if there is none."""
    runs = []
    for folder in folders:
        files = [folder] if folder.is_file() else sorted(folder.rglob(RESULT_FILE))
        for file in files:
            result = read_result(file)
            name = str(file.parent.relative_to(folder.parent if folder.is_file() else folder))
            shown = file.parent.name if name == "." else name
            runs.append(
                Run(
                    shown,
                    file.parent,
                    result["card"],
                    [Result.of(row) for row in result["results"]],
                    result.get("artifacts", {}),
                )
            )
    if not runs:
        given = ", ".join(map(str, folders))
        raise FileNotFoundError(f"no {RESULT_FILE} below {given}: run a benchmark with --out first")
    return runs


def overview(runs: Sequence[Run]) -> Table:
    """The best result of every run, beside its best baseline that no training made, and what is to know of both."""
    header = ["value, 95 % interval", "run", "best", "metric", "best baseline", "warnings"]
    rows = []
    for run in runs:
        if run.main_metric is None:
            continue
        best, metric = run.best(), run.main_metric
        base = [r for r in run.results if str(full_axes(run.card, r)["encoder"]).split(":")[0] in BASELINES]
        compared = run.best(base) if base else None
        against = f"{_name(run, compared)}: {number(compared[metric], metric)}" if compared else ""
        told = dict.fromkeys(w for row in (best, compared) if row is not None for w in row.warnings)
        rows.append([_with_interval(best, metric), run.name, _name(run, best), metric, against, "; ".join(told)])
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return Table(header, rows)


def best_by_encoder(run: Run) -> dict[str, Result]:
    """The best result of each encoder of a run by its tuning score."""
    names = dict.fromkeys(str(full_axes(run.card, row)["encoder"]) for row in run.results)
    groups = {name: [r for r in run.results if str(full_axes(run.card, r)["encoder"]) == name] for name in names}
    return {name: run.best(rows) for name, rows in groups.items()}


def summary_chart(runs: Sequence[Run]) -> bytes | None:
    """A panel each run: the best result of every encoder with its interval; None where no run compares encoders."""
    panels: dict[str, dict[str, tuple[float, tuple[float, float] | None]]] = {}
    for run in runs:
        best = best_by_encoder(run) if run.main_metric else {}
        if len(best) > 1:
            metric = str(run.main_metric)
            values = {name: (row[metric], row.interval) for name, row in best.items() if metric in row.metrics}
            panels[f"{run.name}: {metric.replace('_', ' ')}"] = values
    return charts.summary(panels) if panels else None


def _name(run: Run, row: Result) -> str:
    axes = full_axes(run.card, row)
    name = f"{axes['encoder']}, {axes['output']}" if axes["output"] not in (None, axes["encoder"]) else axes["encoder"]
    return f"{name} ({LABELS_WORDS})" if _supervised(run, axes["encoder"]) else str(name)


LABELS_WORDS = "trained with ImageNet's labels"


def _supervised(run: Run, encoder: Any) -> bool:
    return LABELS_WORDS in str(run.card["weights"].get(str(encoder), ""))


def shared_words(run: Run) -> str:
    """The axes and settings that are the same in all results, as a sentence."""
    stated = [full_axes(run.card, row) for row in run.results]
    same = {axis: stated[0][axis] for axis in AXES if len({repr(axes[axis]) for axes in stated}) == 1}
    settings = {n: {row.settings.get(n) for row in run.results} for n in _settings(run.results)}
    words = {name: values.pop() for name, values in settings.items() if len(values) == 1}
    named = [f"{name.replace('_', ' ')} {cell(value)}" for name, value in (same | words).items() if value is not None]
    return f"The same in all results: {'; '.join(named)}." if named and len(run.results) > 1 else ""


def result_table(run: Run) -> Table:
    """One line a result: the main metric with its interval first, what differs between results, other metrics."""
    stated = [full_axes(run.card, row) for row in run.results]
    several = len(run.results) > 1
    varying = [axis for axis in AXES if not several or len({repr(axes[axis]) for axes in stated}) > 1]
    varying = [axis for axis in varying if any(axes[axis] is not None for axes in stated)]
    words = [n for n in _settings(run.results) if not several or len({r.settings.get(n) for r in run.results}) > 1]
    metric = run.main_metric
    numbers = [n for n in dict.fromkeys(n for row in run.results for n in metrics(row)) if n != metric]
    rows = [
        [
            *([_with_interval(row, metric)] if metric else []),
            *(_axis(run, axes, axis) for axis in varying),
            *(cell(row.settings.get(name)) for name in words),
            *(number(row.metrics.get(name), name) for name in numbers),
            "; ".join(row.warnings),
        ]
        for axes, row in zip(stated, run.results, strict=True)
    ]
    header = [*([f"{metric}, 95 % interval"] if metric else []), *varying, *words, *numbers, "warnings"]
    if not any(row.warnings for row in run.results):
        header, rows = header[:-1], [row[:-1] for row in rows]
    marked = next(i for i, row in enumerate(run.results) if row is run.best())
    return Table([name.replace("_", " ") for name in header], rows, marked)


def _axis(run: Run, axes: dict[str, Any], axis: str) -> str:
    marked = axis == "encoder" and _supervised(run, axes["encoder"])
    return f"{cell(axes[axis])} ({LABELS_WORDS})" if marked else cell(axes[axis])


def _settings(results: Sequence[Result]) -> list[str]:
    """Names of a row's entries in words that are no axes, such as the probe."""
    return list(dict.fromkeys(name for row in results for name in row.settings))


NO_SHARES = re.compile(r"(^|_)(seconds?|rank|nats|bytes|loss|entropy|psnr)(_|$)")


def number(value: float | None, name: str = "") -> str:
    """Shares as percentages, counts as they are, other figures, such as seconds, to four digits.

    name: of the metric, which tells a share from half a second.
    """
    if value is None:
        return ""
    if isinstance(value, float) and -1 <= value <= 1 and not NO_SHARES.search(name):
        return f"{100 * value:.1f} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _with_interval(row: Result, metric: str) -> str:
    shown, interval = number(row.metrics.get(metric), metric), row.interval
    if not interval or not shown:
        return shown
    low, high = (number(float(bound), metric) for bound in interval)
    return f"{shown} ({low} … {high})"


def heat_maps(run: Run) -> Iterator[tuple[str, bytes]]:
    """A caption and a picture for each group of rows that differ in layer, context and read alone."""
    groups: dict[str, list[tuple[dict[str, Any], float]]] = {}
    metric = str(run.main_metric)
    for row in run.results:
        axes = full_axes(run.card, row)
        others = [cell(axes[a]) for a in AXES if a not in ("output", "layer", "context", "read")]
        others += [str(row.get(name, "")) for name in _settings(run.results)]
        if axes["layer"] is not None and metric in row:
            groups.setdefault(", ".join(filter(None, others)), []).append((axes, row[metric]))
    for name, members in groups.items():
        layers = _ordered(axes["layer"] for axes, _ in members)
        shown = _ordered((axes["context"], axes["read"]) for axes, _ in members)
        if len(layers) > 1 and len(shown) > 1:
            values = np.full((len(shown), len(layers)), np.nan)
            for axes, value in members:
                values[shown.index((axes["context"], axes["read"])), layers.index(axes["layer"])] = value
            titles = ["all" if isinstance(layer, list) and len(layer) > 2 else cell(layer) for layer in layers]
            label = f"{run.main_metric}, %: contexts and reads by layer"
            rows = [" ".join(filter(None, pair)) for pair in shown]
            yield f"{label}. {name}", charts.heat_map(values, rows=rows, columns=titles, label=label)


def _ordered(values: Iterator[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def learning_curve(run: Run) -> bytes | None:
    """Accuracy against labelled images a class, of each encoder's output that is best with the most; None without."""
    lines: dict[str, list[Result]] = {}
    several = len({str(full_axes(run.card, row)["pooling"]) for row in run.results if row.get("shots") is not None}) > 1
    for row in run.results:
        if row.get("shots") is not None:
            name = f"{_name(run, row)}, {full_axes(run.card, row)['pooling']}" if several else _name(run, row)
            lines.setdefault(name, []).append(row)
    metric = str(run.main_metric)
    best: dict[str, str] = {}
    for name, rows in lines.items():
        encoder = full_axes(run.card, rows[-1])["encoder"]
        if encoder not in best or rows[-1][metric] > lines[best[encoder]][-1][metric]:
            best[encoder] = name
    if not best:
        return None
    points = {name: [(row["shots"], row[metric]) for row in lines[name]] for name in best.values()}
    spreads = {name: [row.interval or (row[metric],) * 2 for row in lines[name]] for name in best.values()}
    return charts.curves(points, x_label="labelled images a class", y_label=metric, spreads=spreads, log_x=True)


def confusion(run: Run) -> bytes | None:
    """The confusion matrix of the best row, where the run kept its predictions; None where it did not."""
    if (path := run.artifact("predictions")) is None:
        return None
    best = next(i for i, row in enumerate(run.results) if row is run.best())
    with reading(path, "predictions"), np.load(path, allow_pickle=False) as kept:
        labels, predicted = kept["labels"], kept["predictions"][best]
        names = [str(name) for name in kept["label_names"]] if "label_names" in kept else []
        count = len(names) or int(max(labels.max(), predicted.max())) + 1
        if count > MOST_CLASSES:
            raise ValueError(f"it holds classes up to {count - 1}")
        matrix = confusion_matrix(predicted, labels, num_classes=count)
    return charts.confusion_picture(matrix, names or [str(label) for label in range(count)])


def section(run: Run) -> page.Section:
    """Everything about one run."""
    command, parts = run.card["command"], [page.text(run.card["protocol"])]
    parts += [page.warning(f"Warning: {warning}.") for warning in run.card["warnings"]]
    if run.results:
        table = result_table(run)
        parts += [page.text(words)] if (words := shared_words(run)) else []
        parts += [page.text(f"Intervals: {run.card['interval']}.")] if run.card.get("interval") else []
        parts.append(page.table(table.header, table.rows, caption=command, marked=table.marked))
        parts += [page.figure(png, caption=caption, command=command) for caption, png in heat_maps(run)]
    pictures = {name: run.artifact(name) for name, file in run.artifacts.items() if file.endswith(".png")}
    for caption, png in pictures.items():
        if png is not None:
            with reading(png, "a picture"):
                parts.append(page.figure(png.read_bytes(), caption=caption, command=command))
    if (path := run.artifact("differences")) is not None:
        with reading(path, "differences"):
            table = difference_table(read_json(path))
        caption = f"Differences on the same images; those not planned are corrected by Holm. {command}"
        parts.append(page.table(table.header, table.rows, caption=caption))
    curve = learning_curve(run)
    if curve is not None:
        parts.append(page.figure(curve, caption="Few labelled images; bands: 95 % intervals.", command=command))
    matrix = confusion(run)
    if matrix is not None:
        parts.append(page.figure(matrix, caption=f"Confusion matrix of {_name(run, run.best())}, %.", command=command))
    parts.append(page.details("Protocol card", tables.printable_lines(json.dumps(run.card, indent=1))))
    return page.section(run.name, *parts)


def html(runs: Sequence[Run], title: str) -> str:
    """The page."""
    table, chart = overview(runs), summary_chart(runs)
    first = page.section(
        "Overview",
        page.text(
            "The best result of every run by its tuning images; where a run has none, by what is shown, which is then "
            "a little too good."
        ),
        *([page.figure(chart, caption="The best of each encoder.", command=runs[0].card["command"])] if chart else []),
        page.table(table.header, table.rows, caption="Sections below: all results, intervals, pictures, cards."),
    )
    commits = sorted({run.card["machine"]["commit"] for run in runs})
    machines = sorted({run.card["machine"]["processor"] for run in runs})
    subtitle = f"{len(runs)} runs, commit {', '.join(commits)}, {', '.join(machines)}"
    return page.page(title, subtitle, [first, *(section(run) for run in runs)])


def markdown(runs: Sequence[Run], title: str) -> str:
    """The tables, with the command under each."""
    parts = [f"# {title}", tables.markdown(overview(runs))]
    for run in runs:
        parts += [f"## {tables.markdown_text(run.name)}", run.card["protocol"]]
        parts += [f"Warning: {tables.markdown_text(warning)}." for warning in run.card["warnings"]]
        parts += [shared_words(run), tables.markdown(result_table(run))] if run.results else []
        parts.append(f"`{run.card['command']}`, commit {run.card['machine']['commit']}")
    return "\n\n".join(parts) + "\n"


def write_report(folders: Sequence[Path], out: Path, title: str = "Results") -> Path:
    """Write `out` (HTML) and the Markdown beside it; gives `out`."""
    runs = find_runs(folders)
    out.parent.mkdir(parents=True, exist_ok=True)
    for file, content in ((out, html(runs, title)), (out.with_suffix(".md"), markdown(runs, title))):
        file.write_text(content, encoding="utf-8", errors="backslashreplace")  # names of files may not be UTF-8
    frames = [result_frame(run.folder / RESULT_FILE, run.name) for run in runs if (run.folder / RESULT_FILE).is_file()]
    pd.concat(frames, ignore_index=True).to_csv(out.parent / "results.csv", index=False, errors="backslashreplace")
    return out


@dataclass(frozen=True, kw_only=True)
class Config:
    """All results of some runs on one page.

    Attributes:
        runs: folders with results below them, as of suites, or result files.
        out: HTML file; Markdown and a table of all results (results.csv) are written beside it.
        title: of the page.
    """

    runs: tuple[Path, ...] = positional()
    out: Path = Path("runs/report.html")
    title: str = "Results"


def command(config: Config) -> None:
    """Write the page, and say where it is."""
    print(write_report(config.runs, config.out, config.title))


def main(arguments: Sequence[str] | None = None, program: str = "python -m benchmarks.report") -> int:
    """Read the options, write, and return the exit status."""
    return parse.run(command, Config, arguments, program=program)
