"""The demo's report: from numbers and pictures to sections with words, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.datasets import digit_pairs
from benchmarks.datasets.digits import Digits
from benchmarks.report import figures, page
from benchmarks.tasks import samples

AddFigure = Callable[[str, bytes, str], page.Html]
"""File name without ending, PNG, caption → HTML."""
Numbers = Sequence[dict[str, Any]]

SHOWN = ("pixels", "single", "reverse")  # whose lines are drawn between matching points


def classification(numbers: Numbers, counts: Mapping[str, int], add_figure: AddFigure) -> page.Section:
    """Table of `digits.summarize`, and accuracy by layer and context."""
    scores = {row["representation"]: list(row["validation"].values()) for row in numbers}
    layered = [row["representation"] for row in numbers if row["layer"] is not None]
    curves = {name: scores[name] for name in layered}
    levels = {name: max(values) for name, values in scores.items() if name not in layered}
    chart = figures.layer_chart(curves, levels, "validation accuracy, %")
    return page.section(
        "Reading digits",
        page.text(
            "photo-digits puts scikit-learn's scanned digits, coloured, scaled and turned, on crops of its two "
            "photographs. A linear probe (logistic regression on standardised vectors) learns to read them from "
            f"{counts['train']} samples. Layer and regularisation are chosen on {counts['validation']} others, the "
            f"probe is refitted on both, and the test split, {counts['test']} more, is touched once. No scan is in two "
            "splits."
        ),
        page.text(
            "Features are means over all tokens of an image and are not told its class. “single” shows the image to "
            "the model once, so that a token sees only those before it. “repeat” and “reverse” show it a second time, "
            "in the same or in the opposite order, and read there, where every token has seen the whole image. "
            "“pixels” is the image at 32×32, “codes” the tokenizer's code vectors or their histogram."
        ),
        page.table(
            *classification_table(numbers),
            caption="Accuracy on the test split (chance: 10 %), intervals bootstrapped over its scans.",
            marked=len(numbers) - 1,
        ),
        add_figure("layers", chart, "Validation accuracy by layer and context; circles: the layers chosen by it."),
    )


def classification_table(numbers: Numbers) -> tuple[list[str], list[list[str]]]:
    """Header, and cells of one row a representation."""
    last = numbers[-1]["representation"]
    header = ["features", "chosen", "dimensions", "test, %", "95 % interval", f"against {last}, points"]
    rows = []
    for row in numbers:
        chosen = row["chosen"] if row["layer"] is None else f"layer {row['layer']}"
        cells = [chosen, str(row["dimensions"]), _percent(row["accuracy"]), _range(row["interval"])]
        against = f"{_percent(row['difference'], '+')} ({_range(row['difference_interval'], '+')})"
        rows.append([row["representation"], *cells, "" if row is numbers[-1] else against])
    return header, rows


def _percent(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.1f}".replace("-", "−")


def _range(interval: Sequence[float], sign: str = "") -> str:
    return " … ".join(_percent(bound, sign) for bound in interval)


def printed(numbers: Numbers) -> str:
    """The classification table for a terminal."""
    header, rows = classification_table(numbers)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows))


def retrieval(numbers: Numbers, data: Digits, ids: np.ndarray, add_figure: AddFigure) -> page.Section:
    """Recall of all representations, and the neighbours `ids` (queries, k) that the last one finds."""
    last = numbers[-1]["representation"]
    ranks = [int(name.rpartition("_")[2]) for name in numbers[-1] if name.startswith("recall")]
    rows = [[row["representation"], *(_percent(row[f"recall_at_{k}"]) for k in ranks)] for row in numbers]
    return page.section(
        "Nearest neighbours",
        page.text(
            "For each digit of the test split, the digits of the training split whose vectors have the largest cosine "
            "to its own. Nothing is learned here: the vectors are as they come, at the layer that the probe chose, and "
            "all that a picture shows counts, the photograph and the colours as much as the digit. “chance” draws at "
            "random."
        ),
        page.table(
            ["features", *(f"Recall@{k}, %" for k in ranks)],
            rows,
            caption="Share of test digits with one of their own class among so many nearest.",
            marked=len(rows) - 1,
        ),
        add_figure(
            "neighbours",
            neighbour_grid(data, ids),
            f"One query a class, and its nearest by {last}; thick green frame: the same digit, thin red: another.",
        ),
    )


def neighbour_grid(data: Digits, ids: np.ndarray) -> bytes:
    """The first test sample of each class and its neighbours, framed, two queries in a row."""
    pixels = data.pixels.permute(0, 2, 3, 1)
    queries, gallery = data.of("test", pixels).numpy(), data.of("train", pixels).numpy()
    labels, found = data.labels("test"), data.labels("train")[ids]
    shown = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]
    rows = [[queries[row], *gallery[ids[row]]] for row in shown]
    frames = [[None, *np.where(found[row] == labels[row], figures.RIGHT, figures.WRONG)] for row in shown]
    half = (len(rows) + 1) // 2
    titles = ["query", *(str(rank + 1) for rank in range(ids.shape[1]))] * (2 if len(rows) > 1 else 1)
    return figures.image_grid(
        [list(chain(*rows[start::half])) for start in range(half)],
        frames=[list(chain(*frames[start::half])) for start in range(half)],
        column_titles=titles,
    )


def matching(
    numbers: Numbers, found: Sequence[digit_pairs.Matched], pairs: Sequence[digit_pairs.Pair], add_figure: AddFigure
) -> page.Section:
    """Table of `Matched.summary`, and the lines that each representation draws in the first pairs."""
    rows = [
        [
            row["representation"],
            str(row["layer"]) if len(row["validation"]) > 1 else "",
            _percent(row["image_per_image"]),
            _range(row["interval"]),
            _percent(row["box_per_image"]),
        ]
        for row in numbers
    ]
    return page.section(
        "Matching points",
        page.text(
            f"A digit in two placements, in two colours on two photographs, {len(pairs)} such pairs: for each of "
            f"{len(pairs[0].points)} points of the first, the pixel of the second whose feature has the largest cosine "
            "to the point's own (feature maps are up-sampled to the pixels). The layer is chosen on pairs of "
            "validation scans. “same place” uses no features: it looks where the point was in the first picture."
        ),
        page.table(
            ("features", "layer", "PCK@0.1 of the image, %", "95 % interval", "PCK@0.1 of the digit, %"),
            rows,
            caption="Share of points found within a tenth of the longer side of the image, or of the digit's box: mean "
            "over pairs, interval bootstrapped over pairs.",
            marked=len(rows) - 1,
        ),
        add_figure(
            "matches",
            match_lines([each for each in found if each.name in SHOWN], pairs[:4]),
            "Where the points of the first pairs were found; solid green: within a tenth of the image's longer side of "
            "the true place, as PCK@0.1 of the image counts them; dashed red: farther away.",
        ),
    )


def match_lines(found: Sequence[digit_pairs.Matched], pairs: Sequence[digit_pairs.Pair]) -> bytes:
    """Some pairs, one column a representation."""
    points = {each.name: each.found[: len(pairs)] for each in found}
    return figures.match_lines(
        [(pair.first.image, pair.second.image) for pair in pairs],
        [pair.points for pair in pairs],
        points,
        {name: [digit_pairs.right(*both) for both in zip(of, pairs, strict=True)] for name, of in points.items()},
    )


def photograph_maps(
    pictures: Sequence[Tensor], maps: Mapping[str, Sequence[np.ndarray]], layer: int, add_figure: AddFigure
) -> page.Section:
    """The photographs, and their features as colours, one column a context."""
    columns = [samples.to_arrays(torch.stack(list(pictures))), *maps.values()]
    png = figures.image_grid(
        list(zip(*columns, strict=True)), column_titles=("photograph", *maps), height=320, smooth=True
    )
    return page.section(
        "Two photographs",
        page.text(
            f"The features of layer {layer} at every place as colours: places of one colour have like features. Each "
            "photograph is cut into overlapping tiles of the model's size, whose maps are blended into one."
        ),
        add_figure(
            "photographs", png, "First three principal components, in each column one basis for both photographs."
        ),
    )


def generation(
    names: Sequence[str],
    grid: Sequence[Sequence[np.ndarray]],
    by_steps: Mapping[int, Sequence[np.ndarray]],
    filled: Sequence[Sequence[np.ndarray]],
    extended: Sequence[Sequence[np.ndarray]],
    add_figure: AddFigure,
) -> page.Section:
    """Samples, one row a class; the same in few and many steps; images filled in and extended."""
    steps = figures.image_grid(
        list(by_steps.values()), row_titles=[f"{count} steps" for count in by_steps], column_titles=names
    )
    titles = ["masked", *(f"drawn {n}" for n in range(1, len(filled[0]) - 1))]
    return page.section(
        "Drawn by the same weights",
        page.text(
            "The model that gave the features is a generator: it draws an image's tokens in random order, several in a "
            "step, and the tokenizer turns them into pixels."
        ),
        add_figure("samples", figures.image_grid(grid, row_titles=names), "Samples of classes, the recommended steps."),
        add_figure("steps", steps, "One sample of each class in few and in many steps, from the same seeds."),
        add_figure(
            "inpainting",
            figures.image_grid(filled, column_titles=["given", *titles]),
            "The middle drawn anew, without a class; all pixels around it are the given ones.",
        ),
        add_figure(
            "outpainting",
            figures.image_grid(extended, column_titles=["given", *titles[1 : len(extended[0])]]),
            "Drawn on at the left and at the right, without a class.",
        ),
    )


def made(record: Mapping[str, Any]) -> page.Section:
    """How to make the report again."""
    about = {name: record[name] for name in ("model", "weights", "command", "settings", "machine", "seconds")}
    total = sum(record["seconds"].values())
    return page.section(
        "How this was made",
        page.text(f"In {total:.0f} seconds, by the command under each picture; all numbers are in results.json."),
        page.details("Settings, machine and times", json.dumps(about, indent=1, ensure_ascii=False)),
    )
