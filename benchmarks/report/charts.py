"""Charts of results, as PNG bytes: heat maps, curves with intervals, bars, confusion matrices. Shares are in [0, 1]."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report.figures import COLOURS, INK, to_png

MAX_NAMED = 40  # classes of a confusion matrix that still have room for their names
MAX_NUMBERED = 12  # and whose cells have room for a number
PALE = "#e6e9ec"
STYLES = ("-", "--", ":")  # of the first ten lines, which have all colours, the next ten, and the others
MAX_LINES = 8  # of a panel whose legend still has room in it

Interval = tuple[float, float] | None
Point = tuple[float, float, Interval]
"""x, a share, and its interval."""


def heat_map(values: np.ndarray, *, rows: Sequence[str], columns: Sequence[str], label: str) -> bytes:
    """Shares (R, C) as percentages in coloured cells; NaN where there is none; the largest in bold.

    Args:
        values: (R, C) in [0, 1] or NaN.
        rows, columns: their names.
        label: what the numbers are.

    Raises:
        ValueError: names that are not as many as rows and columns, or no number at all.
    """
    if values.shape != (len(rows), len(columns)) or np.isnan(values).all():
        raise ValueError(f"{values.shape} values for {len(rows)} rows and {len(columns)} columns, one number at least")
    figure = Figure(figsize=(2.6 + 0.95 * len(columns), 1.3 + 0.45 * len(rows)), layout="constrained")
    axes, shown = figure.subplots(), 100 * values
    low, best = np.nanmin(shown), np.nanmax(shown)
    axes.imshow(shown, cmap="Blues", aspect="auto", vmin=low - 0.2 * (best - low + 1))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(label, fontsize=10, loc="left")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (r, c), value in np.ndenumerate(shown):
        if not np.isnan(value):
            style: dict[str, Any] = {"color": "white" if value > (low + best) / 2 else INK, "ha": "center"}
            axes.text(c, r, f"{value:.1f}", **style, va="center", weight="bold" if value == best else "normal")
    return to_png(figure)


def curves(
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    shares: bool = True,
) -> bytes:
    """Lines through points, with a band where they have intervals: a panel each title, all of the same axes.

    Args:
        panels: by title, the points of each line by its name.
        x_label, y_label: what the axes are.
        log_x: a logarithmic x axis.
        shares: False: y is a number as it is, not a share to show in percent.
    """
    figure, places = _grid(panels, width=8.0 if len(panels) == 1 else 4.6, height=4.4 if len(panels) == 1 else 3.4)
    unit = 100 if shares else 1
    ticks = sorted({x for lines in panels.values() for points in lines.values() for x, _, _ in points})
    for axes, (title, lines) in places:
        for number, (name, points) in enumerate(lines.items()):
            colour = COLOURS.get(name, f"C{number}")
            x, y, intervals = zip(*points, strict=True)
            style: dict[str, Any] = {"linestyle": STYLES[number // 10 % len(STYLES)], "marker": "o", "markersize": 4}
            label = _plain(name) or None
            axes.plot(x, [unit * each for each in y], color=colour, linewidth=2, label=label, **style)
            if all(intervals):
                low, high = zip(*intervals, strict=True)
                bounds = [unit * each for each in low], [unit * each for each in high]
                axes.fill_between(x, *bounds, color=colour, alpha=0.15, linewidth=0)
        if log_x:
            axes.set_xscale("log")
            axes.minorticks_off()
        if len(ticks) <= 16:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set(xlabel=x_label, ylabel=f"{y_label}, %" if shares else y_label)
        axes.set_title(_plain(title), fontsize=9, loc="left")
        axes.grid(axis="y", color=PALE)
        if any(lines):
            beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
            axes.legend(frameon=False, fontsize=8, **(beside if len(lines) > MAX_LINES else {}))
    return to_png(figure)


def growth_chart(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], exponents: Mapping[str, Mapping[str, float]]
) -> bytes:
    """Seconds above, bytes below, a panel for each axis, both logarithmic; the exponent of each curve in the legend.

    Args:
        curves: by name its points: "axis", "size", "seconds", "bytes".
        exponents: by name those of seconds and bytes.
    """
    kinds = list(dict.fromkeys(points[0]["axis"] for points in curves.values()))
    figure = Figure(figsize=(4.6 * len(kinds), 7.6), layout="constrained")
    panels = figure.subplots(2, len(kinds), squeeze=False)
    for line, (of, label) in enumerate({"seconds": "processor seconds", "bytes": "memory at the peak, MB"}.items()):
        for kind, axes in zip(kinds, panels[line], strict=True):
            for number, (name, points) in enumerate(curves.items()):
                if points[0]["axis"] == kind:
                    values = [point[of] / (1e6 if of == "bytes" else 1) for point in points]
                    style: dict[str, Any] = {"color": f"C{number}", "marker": "o", "markersize": 4}
                    axes.loglog(
                        [point["size"] for point in points], values, label=f"{name}: {exponents[name][of]:.2f}", **style
                    )
            sizes = sorted({point["size"] for points in curves.values() for point in points if point["axis"] == kind})
            axes.set_xticks(sizes, [f"{size:,}" if size < 10_000 else f"{size:.0e}" for size in sizes], fontsize=8)
            axes.minorticks_off()
            low, high = axes.get_ylim()
            middle = (low * high) ** 0.5
            axes.set_ylim(min(low, middle / 5), max(high, middle * 5))  # what hardly grows looks so
            axes.set(xlabel=kind, ylabel=label)
            axes.grid(color=PALE)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8, title="exponent", title_fontsize=8)
    return to_png(figure)


def summary(panels: Mapping[str, Mapping[str, tuple[float, Interval]]]) -> bytes:
    """A panel each task: bars of a value, with its interval or None, by name."""
    tallest = max(len(values) for values in panels.values())
    figure, places = _grid(panels, width=4.6, height=0.34 * tallest + 0.9, shared=False)
    for axes, (title, values) in places:
        heights = [value for value, _ in values.values()]
        axes.barh([_plain(name) for name in values], heights, color=COLOURS["reverse"], height=0.62)
        for line, (_, interval) in enumerate(values.values()):
            if interval is not None:
                axes.plot(interval, (line, line), color=INK, linewidth=1.4)
        axes.invert_yaxis()
        axes.set_title(_plain(title), fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
    return to_png(figure)


def _grid(
    panels: Mapping[str, Any], *, width: float, height: float, shared: bool = True
) -> tuple[Figure, Iterator[Any]]:
    """A figure of panels, three in a line at most, and each panel's axes with its title and content."""
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    every: list[Axes] = list(figure.subplots(lines, columns, squeeze=False, sharex=shared, sharey=shared).flat)
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelbottom=True)
    for axes in every[len(panels) :]:
        axes.remove()
    return figure, zip(every, panels.items(), strict=False)


def _plain(name: str) -> str:
    """A name that matplotlib takes for no formula."""
    return name.replace("$", r"\$")


def confusion_picture(matrix: np.ndarray, names: Sequence[str]) -> bytes:
    """Counts (C, C), true classes down and predicted ones across, coloured by the share of the true class.

    Raises:
        ValueError: `matrix` is not square, or has not one name a class.
    """
    count = len(names)
    if matrix.shape != (count, count):
        raise ValueError(f"a confusion matrix of shape {matrix.shape} for {count} class names")
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(9.0, 2.5 + 0.5 * count)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0)
    if count <= MAX_NAMED:
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
    axes.set(xlabel="predicted", ylabel="true")
    if count <= MAX_NUMBERED:
        for (r, c), value in np.ndenumerate(share):
            colour = "white" if value > 0.6 * share.max() else INK
            axes.text(c, r, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    return to_png(figure)
