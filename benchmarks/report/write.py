"""All results of some runs on one page: `python -m benchmarks.report runs/suite --out runs/suite/report.html`.

Reads every result.json below the given folders and writes one self-contained HTML file and, beside it, the same
tables as Markdown. Every table and picture names the command that made it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.comparisons import difference_table, run_differences, run_markdown
from benchmarks.report import charts, page, tables
from benchmarks.report.tables import (
    Table,
    cell,
    encoder_words,
    paper_table,
    result_tables,
    settings_of,
    shared_words,
    with_interval,
)
from benchmarks.result import AXES, Result, Run, command_line, find_runs
from probes import confusion_matrix
from randar_features.data.containers.paths import reading
from randar_features.options.command import run as run_command
from randar_features.options.parse import positional
from randar_features.store.files import make_folder, write_bytes
from randar_features.store.records import markdown_text

BASELINES = ("pixels", "histogram", "codes", "latents")
MOST_CLASSES = 100_000  # more are damage: a square of them fits no memory


def overview(runs: Sequence[Run]) -> Table:
    """The best result of every run, beside its best baseline that no training made, and what is to know of both."""
    header = ["value, 95 % interval", "run", "best", "metric", "best baseline", "warnings"]
    rows = []
    for run in runs:
        if run.metric is None:
            continue
        best, metric = run.best(), run.metric
        base = [r for r in run.results if str(run.axes(r)["encoder"]).split(":")[0] in BASELINES]
        compared = run.best(base) if base else None
        against = f"{_name(run, compared)}: {with_interval(compared, metric)}" if compared else ""
        told = dict.fromkeys(w for row in (best, compared) if row is not None for w in row.warnings)
        value, named = with_interval(best, metric), _name(run, best)
        rows.append([value, run.name, named, metric.replace("_", " "), against, "; ".join(told)])
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return Table(header, rows)


def summary_chart(runs: Sequence[Run]) -> bytes | None:
    """A panel each protocol, data and metric: the best result of every encoder; None where no encoders are compared."""
    panels: dict[str, tuple[str, dict[str, tuple[float, charts.Interval]]]] = {}
    for run in [run for run in runs if run.metric]:
        metric = str(run.metric)
        question = repr((run.card["protocol"], run.card["data"], metric))
        _, values = panels.setdefault(question, (f"{run.name}: {metric.replace('_', ' ')}", {}))
        for row in [row for row in run.best_by_encoder() if metric in row]:
            values.setdefault(str(run.axes(row)["encoder"]), (row[metric], row.interval))
    compared = {title: values for title, values in panels.values() if len(values) > 1}
    return charts.summary(compared) if compared else None


def _name(run: Run, row: Result) -> str:
    """Encoder and output of a result."""
    axes = run.axes(row)
    output = [] if axes["output"] in (None, axes["encoder"]) else [str(axes["output"])]
    return ", ".join([encoder_words(run, axes["encoder"]), *output])


def heat_maps(run: Run) -> Iterator[tuple[str, bytes]]:
    """A caption and a picture for each group of rows that differ in layer, context and read alone."""
    groups: dict[str, list[tuple[dict[str, Any], float]]] = {}
    metric = str(run.metric)
    for row in run.results:
        axes = run.axes(row)
        others = [cell(axes[a]) for a in AXES if a not in ("output", "layer", "context", "read")]
        others += [str(row.get(name, "")) for name in settings_of(run.results)]
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
            label = f"{run.metric}, %: contexts and reads by layer"
            rows = [" ".join(filter(None, pair)) for pair in shown]
            yield f"{label}. {name}", charts.heat_map(values, rows=rows, columns=titles, label=label)


def _ordered(values: Iterator[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def depth_curves(run: Run) -> bytes | None:
    """The tuning score by layer: a panel for each encoder, probe, pooling and read, a line each context."""
    panels: dict[str, dict[str, list[charts.Point]]] = {}
    for row in run.results:
        axes = run.axes(row)
        if isinstance(axes["layer"], int) and row.tuning is not None and row.get("shots") is None:
            head = [axes["encoder"], *(row.settings.get(name) for name in ("probe", "settings"))]
            about = [axes[name] for name in ("pooling", "normalization", "read", "orders")]
            title = "\n".join(", ".join(filter(None, map(cell, words))) for words in (head, about))
            lines = panels.setdefault(title, {})
            lines.setdefault(cell(axes["context"]), []).append((axes["layer"], row.tuning, None))
    panels = {title: lines for title, lines in panels.items() if max(map(len, lines.values())) > 1}
    return charts.curves(panels, x_label="layer", y_label="tuning score") if panels else None


def learning_curve(run: Run) -> bytes | None:
    """Accuracy against labelled images a class, of each encoder's output that is best with the most; None without."""
    few = [row for row in run.results if row.get("shots") is not None]
    several = len({str(run.axes(row)["pooling"]) for row in few}) > 1
    lines: dict[str, list[Result]] = {}
    for row in few:
        name = f"{_name(run, row)}, {run.axes(row)['pooling']}" if several else _name(run, row)
        lines.setdefault(name, []).append(row)
    metric, best = str(run.metric), {}
    for name, rows in sorted(lines.items(), key=lambda line: line[1][-1][metric]):
        best[run.axes(rows[-1])["encoder"]] = name
    points = {
        name: [(row["shots"], row[metric], row.interval) for row in rows]
        for name, rows in lines.items()
        if name in best.values()
    }
    return charts.curves({"": points}, x_label="labelled images a class", y_label=metric, log_x=True) if few else None


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
    """Everything about one run: the results first, then their comparisons, charts, pictures and the card."""
    command, parts = run.card["command"], [page.text(run.card["protocol"])]
    parts += [page.warning(f"Warning: {warning}.") for warning in run.card["warnings"]]
    if run.results:
        parts += [page.text(words)] if (words := shared_words(run)) else []
        parts += [page.text(f"Intervals: {run.card['interval']}.")] if run.card.get("interval") else []
        parts += [page.table(table, caption=command) for table in result_tables(run)]
    if compared := run_differences(run):
        caption = f"Differences on the same images; those not planned are corrected by Holm. {command}"
        parts.append(page.table(difference_table(compared), caption=caption))
    parts += [page.figure(png, caption=caption, command=command) for caption, png in pictures(run)]
    parts.append(page.details("Protocol card", json.dumps(run.card, indent=1)))
    return page.section(run.name, *parts)


def pictures(run: Run) -> Iterator[tuple[str, bytes]]:
    """Caption and PNG of every chart and picture of a run."""
    yield from heat_maps(run)
    for caption, draw in (
        ("Score on tuning images by layer; all panels have the same axes.", depth_curves),
        ("Few labelled images; bands: 95 % intervals.", learning_curve),
        (f"Confusion matrix of {_name(run, run.best())}, %." if run.results else "", confusion),
    ):
        if (png := draw(run)) is not None:
            yield caption, png
    for caption in [name for name, file in run.artifacts.items() if file.endswith(".png")]:
        if (path := run.artifact(caption)) is not None:
            with reading(path, "a picture"):
                yield caption, page.checked_png(path.read_bytes())


def html(runs: Sequence[Run], title: str) -> str:
    """The page."""
    words = "The best result of every run by its tuning images; where a run has none, by what is shown, which is then "
    parts = [page.text(words + "a little too good.")]
    if (chart := summary_chart(runs)) is not None:
        parts.append(
            page.figure(chart, caption="The best of each encoder, with its 95 % interval.", command=command_line())
        )
    parts.append(page.table(overview(runs), caption="Sections below: all results, intervals, pictures, cards."))
    commits, machines = (sorted({run.card["machine"][name] for run in runs}) for name in ("commit", "processor"))
    subtitle = f"{len(runs)} runs, commit {', '.join(commits)}, {', '.join(machines)}"
    return page.page(title, subtitle, [page.section("Overview", *parts), *map(section, runs)])


def markdown(runs: Sequence[Run], title: str) -> str:
    """The tables, with the command under each."""
    parts = [f"# {markdown_text(title)}", tables.markdown(overview(runs))]
    parts += [f"## {markdown_text(run.name)}\n\n{run_markdown(run)}" for run in runs]
    return "\n\n".join(parts) + "\n"


def write_report(folders: Sequence[Path], out: Path, title: str = "Results") -> Path:
    """Write `out` (HTML) and, beside it, the same in Markdown, results.csv and the table of a paper in LaTeX.

    ValueError: the name of `out` ends in something else.
    """
    if out.suffix.lower() not in (".html", ".htm"):  # Markdown and LaTeX lie beside it under the same name
        raise ValueError(f"the page is HTML: expected a name that ends in .html, got {out}")
    runs = find_runs(folders)
    make_folder(out.parent)
    frame = pd.concat([run.frame() for run in runs], ignore_index=True)
    files = {out: html(runs, title), out.with_suffix(".md"): markdown(runs, title)}
    files[out.parent / "results.csv"] = frame.to_csv(index=False)
    if "best_of_encoder" in frame:
        files[out.with_suffix(".tex")] = paper_table(frame).to_latex(escape=True)
    for file, content in files.items():
        write_bytes(file, content.encode(errors="backslashreplace"))  # names of files may not be UTF-8
    return out


@dataclass(frozen=True, kw_only=True)
class Config:
    """All results of some runs on one page.

    Attributes:
        runs: folders with results in them or below, such as those of suites, or result files.
        out: HTML file. Its folder also gets the page in Markdown, all results as results.csv, and the best result of
            each encoder as a LaTeX table.
        title: title of the page.
    """

    runs: tuple[Path, ...] = positional()
    out: Path = Path("runs/report.html")
    title: str = "Results"


def command(config: Config) -> None:
    """Write the page, and say where it is."""
    print(write_report(config.runs, config.out, config.title))


def main(arguments: Sequence[str] | None = None, program: str = "python -m benchmarks.report") -> int:
    """Read the options, write, and return the exit status."""
    return run_command(command, Config, arguments, program=program)
