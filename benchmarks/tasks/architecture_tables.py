"""The tables of `benchmarks.architectures`, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.tables import MISSING, Table, percent, percents


def model_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line a model."""
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
    return Table(header, lines)


def _steps(models: Sequence[Mapping[str, Any]], kind: str) -> int | str:
    """In how many steps those did it that can."""
    return next((row[f"{kind}_steps"] for row in models if row[f"{kind}_steps"]), MISSING)


def feature_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line a context and read of a model; shares in per cent."""
    header = ["model", "context", "read", "layer", "linear", "95 % interval", "linear, all layers"]
    header += ["kNN-20", "kNN-20, all layers", "mIoU", "95 % interval"]
    lines = []
    for row in rows:
        cells = [row["encoder"], row["context"], row["read"], str(row["layer"])]
        cells += [percent(row["accuracy"]), percents(row["interval"])]
        cells += [percent(row[key]) for key in ("accuracy_all_layers", "knn", "knn_all_layers", "miou")]
        lines.append([*cells, percents(row["miou_interval"])])
    return Table(header, lines)
