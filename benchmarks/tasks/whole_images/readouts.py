"""Ways to read one layer of a generator, compared: `python -m benchmarks.readouts --data FOLDER --out OUT`.

Each way makes vectors, or maps for the attentive probe, out of the same frozen layer: which showing is read and up to
which token, over which cells it is pooled, how many random orders are averaged. Images are tokenized once. The result
has the cost of each way: shown sequences, and seconds of the transformer. Paired differences are from the mean over all
tokens of the last showing.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.comparisons import corrected
from benchmarks.datasets import open_data, read_labelled
from benchmarks.options import ComputeOptions
from benchmarks.result import data_hash, resolved_dtype
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.tasks.whole_images.classification_probes import ProbeOptions, Scored, Training, score
from benchmarks.tasks.whole_images.labelled import Candidate, check_held
from probes import paired_interval, stratified_rows
from probes.pooling import pool
from probes.rows import TensorRows
from randar_features import Model, encode_tokens, load_model
from randar_features.features import model_specs
from randar_features.models.base import context_of, several_orders
from randar_features.options.types import Count
from randar_features.precision import autocast

BASE = "mean"
PARTS = 4  # of the first showing
VECTORS, MAPS = ("logistic", "knn"), ("attentive",)


@dataclass(frozen=True, kw_only=True)
class Config(ComputeOptions):
    """Ways to read one layer of a generator, compared.

    Attributes:
        data: labelled images: "photo-digits", a folder of class folders, or Parquet files.
        split: split of the data.
        images: number of images to train and to evaluate on, the first ones.
        evaluation_images: number of these images to hold out, in proportion from each class.
        model: model that can show an image twice: its name, a folder that training wrote, or owner/name on the Hub.
        layer: block counted from 0; none: the first that the model recommends.
        orders: numbers of random orders to average over; all begin with the same orders.
        queries: numbers of queries of the attentive probe; 1: AIM's query of several heads; more: efficient probing.
        epochs: epochs of the attentive probe.
    """

    data: str
    split: str | None = None
    images: Count = 2000
    evaluation_images: Count = 600
    model: str = "randar-tiny"
    layer: int | None = None
    orders: tuple[Count, ...] = (1, 2, 4, 8, 16)
    queries: tuple[Count, ...] = (1, 4, 16)
    epochs: Count = 30


class Readout(NamedTuple):
    """One way to read: features (n, D), or maps (n, G, G, D), and what they cost."""

    name: str
    features: Tensor
    context: str
    pooling: str | None
    sequences: int
    """Times that an image is shown to the transformer; two showings are one sequence."""
    seconds: float
    """What the transformer takes for an image."""
    orders: int | None = None


def read_tokens(model: Model, config: Config) -> tuple[Tensor, np.ndarray, list[str]]:
    """Tokens (n, N) and labels (n,) of the images that can be read, and a warning of the others.

    ValueError where an image has no label.
    """
    source = open_data(config.data, config.split, model.image_size, config.reading).first(config.images)

    def encode(pixels: Tensor) -> Tensor:
        return model.tokenizer.encode(pixels.to(model.device))

    tokens, labels, warnings = read_labelled(source, config.data, encode, model.image_size, config.batch_size)
    return tokens, labels.numpy(), warnings


def readouts(model: Model, tokens: Tensor, layer: int, config: Config) -> Iterator[Readout]:
    """Every way, of tokens (n, N); its maps are dropped before the next is read."""
    context = context_of(model.transformer, None, "image")
    last, taken = maps_of(model, tokens, layer, context, None, config)
    first, taken_once = maps_of(model, tokens, layer, "single", None, config)
    mean, of_first = pool(last, "mean"), pool(first, "mean")
    yield Readout(BASE, mean, context, "mean", 1, taken)
    yield Readout("1x1+2x2", pool(last, "1x1+2x2"), context, "1x1+2x2", 1, taken)
    yield Readout("first showing", of_first, "single", "mean", 1, taken_once)
    for number, part in enumerate(first.flatten(1, 2).chunk(PARTS, dim=1)):
        low, high = 100 * number // PARTS, 100 * (number + 1) // PARTS
        yield Readout(f"first showing, tokens at {low} to {high} %", part.mean(1), "single", "mean", 1, taken_once)
    yield Readout("first and last showing", torch.cat([of_first, mean], 1), context, "mean", 1, taken)
    yield Readout("maps", last, context, None, 1, taken)
    total, seconds = torch.zeros_like(mean), 0.0
    for number, order in enumerate(several_orders(model.transformer, max(config.orders), config.seed), start=1):
        maps, taken = maps_of(model, tokens, layer, context, order, config)
        total, seconds = total + pool(maps, "mean"), seconds + taken
        if number in config.orders:
            yield Readout(f"{number} random orders", total / number, context, "mean", number, seconds, number)


def maps_of(
    model: Model, tokens: Tensor, layer: int, context: str, order: Tensor | None, config: Config
) -> tuple[Tensor, float]:
    """Maps (n, G, G, D) float32 of one layer, and the seconds that an image took."""
    start, parts = time.perf_counter(), []
    dtype = getattr(torch, resolved_dtype(config.dtype, model.device))
    with torch.no_grad(), autocast(model.device, dtype):
        for part in tokens.split(config.batch_size):
            maps = encode_tokens(model.transformer, part, order=order, layers=layer, context=context)
            parts.append(maps[:, 0].float().cpu())
    return torch.cat(parts), (time.perf_counter() - start) / len(tokens)


def scored(readout: Readout, axes: dict[str, Any], split: Sequence[np.ndarray], training: Training) -> Iterator[Scored]:
    """What every probe makes of one way to read."""
    about = axes | {"output": readout.name, "context": readout.context, "pooling": readout.pooling}
    rows = (TensorRows(readout.features[torch.from_numpy(part)]) for part in split)
    candidate = Candidate(about | {"orders": readout.orders}, *rows)
    for probe in MAPS if readout.pooling is None else VECTORS:
        for found in score(probe, [candidate], training):
            costs = {"sequences": readout.sequences, "transformer_seconds": round(readout.seconds, 5)}
            yield found._replace(row=replace(found.row, metrics={**found.row.metrics, **costs}))


def measure(config: Config, out: Path) -> Measurement:
    """A result each way to read and probe."""
    model = load_model(config.model, config.device)
    layer = model_specs(model, layers=config.layer)[0].layer  # before images are read: the model may not have it
    tokens, labels, warnings = read_tokens(model, config)
    check_held(config.evaluation_images, len(labels))
    evaluated = stratified_rows(labels, config.evaluation_images, config.seed, leave=1)
    split = np.setdiff1d(np.arange(len(labels)), evaluated), evaluated
    training = Training(
        train_labels=labels[split[0]],
        labels=labels[split[1]],
        options=ProbeOptions(
            knn_normalization=("unit", "auto"), attentive_queries=config.queries, epochs=config.epochs
        ),
        seed=config.seed,
    )
    axes = {"encoder": model.name, "layer": layer, "read": "image", "resolution": model.image_size}
    found = [each for way in readouts(model, tokens, layer, config) for each in scored(way, axes, split, training)]
    held = f"{len(evaluated)} of the first {len(labels)}, stratified, seed {config.seed}"
    content = f"{data_hash(config.data)} {config.split or 'all'}"
    return Measurement(
        protocol="ways to read one layer: classification by logistic regression, 20 nearest neighbours by cosine and "
        "attentive pooling, options by a tenth of the training images",
        results=[each.row for each in found],
        axes={"threshold_basis": None, "selection": f"a stratified tenth of the training images (seed {config.seed})"},
        data={"train": f"{content} but {held}", "evaluation": f"{content} {held}"},
        weights={model.name: model.weights_hash},
        interval="percentile bootstrap over evaluation images",
        warnings=warnings,
        differences=differences(found, config.seed),
    )


def differences(found: Sequence[Scored], seed: int) -> list[dict[str, Any]]:
    """Every way less the mean over the last showing's tokens, by the same probe; of the attentive one by logistic."""
    bases = {_probe_of(each): each for each in found if each.row["output"] == BASE}
    compared = []
    for each in [each for each in found if each.row["output"] != BASE]:
        base = bases.get(_probe_of(each), bases["logistic", "standardize"])
        words = f"{each.row['output']}, {each.row['settings']}" if base.row["probe"] != each.row["probe"] else None
        entry = paired_interval(each.hits, base.hits, seed=seed)._asdict() | {"planned": False}
        named = {"first": words or each.row["output"], "second": BASE}
        about = {"probe": each.row["probe"], "settings": each.row["normalization"]}
        compared.append(about | named | entry)
    return corrected(compared)


def _probe_of(each: Scored) -> tuple[str, str]:
    return each.row["probe"], each.row["normalization"]


run = Task("readouts", Config, measure)

if __name__ == "__main__":
    run_as_command("readouts")
