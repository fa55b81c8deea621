"""The tables of `benchmarks.architectures`, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.tables import MISSING, Table, markdown, percent, percents
from benchmarks.result import Result


def page(rows: Sequence[Result], made: Mapping[str, Any]) -> str:
    """Markdown: a table of the models, one of their features, how they were made."""
    parts = [model_table(rows), feature_table(rows), made["protocol"][0].upper() + made["protocol"][1:] + "."]
    parts += [f"Warning: {warning}." for warning in made["warnings"]]
    return "\n\n".join([*parts, f"```sh\n{made['command']}\n```"]) + "\n"


def model_table(rows: Sequence[Result]) -> str:
    """Markdown, one row a model."""
    models = list({row["encoder"]: row for row in rows}.values())
    single, parallel = (_steps(models, kind) for kind in ("single", "parallel"))
    header = ["model", "parameters", "nats per token", "95 % interval", "null class", "orders"]
    header += [f"images/s, {single} steps", f"images/s, {parallel} steps"]
    lines = []
    for row in models:
        low, high = row["validation_loss_interval"]
        cells = [row["encoder"], f"{row['parameters'] / 1e6:.2f} M", f"{row['validation_loss']:.3f}"]
        cells += [f"{low:.3f} … {high:.3f}", f"{row['validation_loss_null']:.3f}", str(row["loss_orders"])]
        rates = (row[f"{kind}_images_per_second"] for kind in ("single", "parallel"))
        lines.append(cells + [MISSING if rate is None else f"{rate:.1f}" for rate in rates])
    return markdown(Table(header, lines))


def _steps(models: Sequence[Result], kind: str) -> int | str:
    """In how many steps those did it that can."""
    return next((row[f"{kind}_steps"] for row in models if row[f"{kind}_steps"]), MISSING)


def feature_table(rows: Sequence[Result]) -> str:
    """Markdown, one row a context and read of a model; shares in per cent."""
    header = ["model", "context", "read", "layer", "linear", "95 % interval", "linear, all layers"]
    header += ["kNN-20", "kNN-20, all layers", "mIoU", "95 % interval"]
    lines = []
    for row in rows:
        cells = [row["encoder"], row["context"], row["read"], str(row["layer"])]
        cells += [percent(row["accuracy"]), percents(row["interval"])]
        cells += [percent(row[key]) for key in ("accuracy_all_layers", "knn", "knn_all_layers", "miou")]
        lines.append([*cells, percents(row["miou_interval"])])
    return markdown(Table(header, lines))
