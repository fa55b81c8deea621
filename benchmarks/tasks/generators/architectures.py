"""Generators of the same size, data and budget in one table: `python -m benchmarks.architectures --runs par=RUN …`.

For each: parameters, nats per token of held-out images, generated images per second with equal numbers of steps, and
the scores of its frozen features, in every context and read that it has: a linear probe, nearest neighbours,
segmentation. The linear probe chooses the layer on tuning images; evaluation images choose nothing. A result with the
same options and weights is not measured again.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job, run_once
from benchmarks.options import Head, HoldOut, MaskOptions, RunOptions
from benchmarks.result import Result, read_result
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.suite import known_labels, options_of, probe_options, splits_of
from benchmarks.tasks.dense import segmentation
from benchmarks.tasks.generators.generator_measures import LossConfig, SpeedConfig, run_loss, run_speed
from benchmarks.tasks.whole_images import classification
from randar_features import Model, load_model
from randar_features.data.token_store import TokenStore
from randar_features.models import ARCHITECTURES
from randar_features.options.parse import option
from randar_features.options.types import Count, Seed
from randar_features.store.files import read_object
from randar_features.tokenizers.folder import tokenizer_hash

PROTOCOL = (
    "generators compared: logistic regression and 20 nearest neighbours (cosine) on mean-pooled features, null class, "
    "raster order or the model's own, the layer by tuning accuracy of the former; mIoU of a {head} head on maps of "
    "that layer; nats per token; images a second"
)
ONE_SEED = "one training run of {names}: differences from it may be differences between seeds, so no ranking"
Results = Mapping[str, dict[str, Any]]
View = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions, MaskOptions):
    """RandAR, LlamaGen, PAR and ARPG, each trained by the same recipe, in one table.

    Attributes:
        runs: one or several NAME=FOLDER, each a folder that training wrote, or its model. Runs of one architecture with
            several seeds have names such as randar-0 and randar-1.
        tokens: tokens of held-out images, by the tokenizer of all runs; a folder that `randar tokenize` wrote.
        classification: labelled images, a folder or Parquet files.
        segmentation: images with masks, a folder or Parquet files. If its name has a word that ends in "camvid" or
            "voc", the classes are those of that data set, unless other options give them.
        split: split of the tokens.
        loss_images: number of images on which nats per token are measured.
        loss_orders: number of random orders in which they are measured; a model of one order uses that one.
        max_images: read only this many labelled images of each split, the first ones.
        evaluation_images: labelled images to hold out if the data have no split for evaluation.
        hold_out: which images to hold out. stratified: in proportion from each class; last: the last ones.
        head: head of segmentation.
        train_masks: largest number of images with masks to train on, a seeded random choice; none: all.
        evaluation_masks: largest number of images with masks to evaluate on, a seeded random choice; none: all.
        resolution: show images with masks in tiles, at this shorter side in pixels; none: squash them to the input.
        batch: images at once, when generation is timed.
        repeats: number of runs, when generation is timed.
        seed: seed of all random choices.
        cache: folder that keeps features.
        work: folder that keeps the results from which the table is made.
    """

    runs: tuple[str, ...]
    tokens: str
    classification: str
    segmentation: str
    split: str = "validation"
    loss_images: Count = 1000
    loss_orders: Count = 4
    max_images: Count = option("--max-rows", default=8000)
    evaluation_images: Count = option("--evaluation-rows", default=2000)
    hold_out: HoldOut = "last"
    head: Head = "knn"
    train_masks: Count | None = None
    evaluation_masks: Count | None = None
    resolution: Count | None = None
    batch: Count = 16
    repeats: Count = 3
    seed: Seed = 0
    cache: str = "runs/features"
    work: str = "runs/architectures"


def folders_of(config: Config) -> dict[str, str]:
    """The folder of each model, by name; ValueError for an entry that does not say which, or says it twice."""
    found: dict[str, str] = {}
    for entry in config.runs:
        name, given, folder = entry.partition("=")
        if not given or not name or not folder or name in found:
            raise ValueError(f"--runs takes NAME=FOLDER, each name once, got {entry!r}")
        exported = Path(folder) / "model"
        found[name] = str(exported if (exported / "config.json").exists() else folder)
    return found


def check_matched(models: Mapping[str, Model], folders: Mapping[str, str], store: TokenStore) -> None:
    """ValueError unless each model is of the architecture that its name says, and of the tokens' tokenizer."""
    for name, model in models.items():
        kind = next(kind for kind, (built, _) in ARCHITECTURES.items() if type(model.transformer) is built)
        if name.partition("-")[0] in ARCHITECTURES and name.partition("-")[0] != kind:
            raise ValueError(f"--runs {name}={folders[name]}: that model is of type {kind}")
        written = read_object(Path(folders[name]) / "config.json").get("tokenizer_hash")
        found, expected = written or tokenizer_hash(model.tokenizer), store.manifest["tokenizer"]
        if found != expected:
            raise ValueError(
                f"{folders[name]} is a model of tokenizer {found}, the tokens in {store.folder} are of {expected}: "
                "compare models of one tokenizer on its tokens"
            )


def training_differences(folders: Mapping[str, str]) -> list[str]:
    """A warning for each training setting, besides the type of the model and the seed, in which the runs differ."""
    settings = {}
    for name, folder in folders.items():
        training = read_object(Path(folder) / "config.json").get("training") or {}
        model = {f"model.{key}": value for key, value in training.get("model", {}).items() if key != "type"}
        settings[name] = {key: value for key, value in training.items() if key not in ("model", "loop", "seed")} | model
    keys = dict.fromkeys(key for given in settings.values() for key in given)
    values = {key: {name: given.get(key) for name, given in settings.items()} for key in keys}
    return [
        f"trained with different {key}: {', '.join(f'{name} {value}' for name, value in of.items())}"
        for key, of in values.items()
        if len({repr(value) for value in of.values()}) > 1
    ]


def single_runs(models: Mapping[str, Model]) -> list[str]:
    """The architectures with one run alone, by the names of their classes."""
    runs = Counter(type(model.transformer).__name__ for model in models.values())
    return [name for name, count in runs.items() if count == 1]


def best_layers(results: Sequence[Mapping[str, Any]]) -> dict[View, Mapping[str, Any]]:
    """For each (context, read) the row of the linear probe on the layer of the best tuning accuracy."""
    best: dict[View, Mapping[str, Any]] = {}
    for row in results:
        view = row["context"], row["read"]
        if row["probe"] == "logistic" and isinstance(row["layer"], int):
            best[view] = max(best.get(view, row), row, key=lambda each: each["tuning"])
    return best


def measure_model(name: str, folder: str, config: Config, weights: str) -> dict[str, dict[str, Any]]:
    """Results of one model: "loss", "classification" and "segmentation", which is of the layers that won there."""
    found: dict[str, dict[str, Any]] = {}

    def add(kind: str, options: Any, run: Callable[[Any, Path], object]) -> None:
        place = Path(config.work) / name / kind
        run_once(Job(f"{name}/{kind}", options, run), place, {name: weights})
        found[kind] = read_result(place)

    tokens = str(Path(config.tokens) / config.split)
    images = {"images": config.loss_images, "orders": config.loss_orders}
    add("loss", options_of(LossConfig, config, model=folder, tokens=tokens, **images), run_loss)
    probes = probe_options(config, config.classification, encoder=(folder,), probe=("logistic", "knn"))
    add("classification", probes, classification.run)  # every layer, in all contexts and reads
    chosen = [row["output"] for row in best_layers(found["classification"]["results"]).values()]
    add("segmentation", mask_options(folder, chosen, config), segmentation.run)
    return found


def mask_options(folder: str, outputs: Sequence[str], config: Config) -> segmentation.Config:
    """For these outputs of the model in a folder."""
    train, evaluation = splits_of(config.segmentation)
    given: dict[str, Any] = {"data": config.segmentation, "train_split": train or "train"}
    given |= {"evaluation_split": evaluation, "encoder": (folder,), "outputs": tuple(outputs)}
    given |= {"train_images": config.train_masks, "evaluation_images": config.evaluation_masks}
    if config.labels is None and config.num_classes is None:
        given["labels"] = known_labels(config.segmentation)
    return options_of(segmentation.Config, config, **given)


def rows_of(name: str, results: Results, speed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a context and read of a model."""
    (loss,) = results["loss"]["results"]
    itself = {key: loss[key] for key in ("parameters", "validation_loss", "validation_loss_null", "loss_orders")}
    itself |= {"validation_loss_interval": loss.get("interval")}
    itself |= {key: value for key, value in speed.items() if key != "encoder"}
    scores = {(row["probe"], row["output"]): row["accuracy"] for row in results["classification"]["results"]}
    masks = {row["output"]: row for row in results["segmentation"]["results"]}
    rows: list[dict[str, Any]] = []
    for (context, read), best in best_layers(results["classification"]["results"]).items():
        view, output = f"{context}/{read}", best["output"]
        row = {"encoder": name, "output": view} | {axis: best[axis] for axis in ("layer", "context", "read", "orders")}
        row |= {"accuracy": best["accuracy"], "interval": best.get("interval"), "tuning": best["tuning"]}
        row |= {"accuracy_all_layers": scores.get(("logistic", f"{view}/all"))}
        row |= {"knn": scores["knn", output], "knn_all_layers": scores.get(("knn", f"{view}/all"))}
        row |= {"miou": masks[output]["miou"], "miou_interval": masks[output].get("interval")}
        rows.append(row | itself)
    return rows


def measure(config: Config, out: Path) -> Measurement:
    """Measure what is not there yet."""
    folders = folders_of(config)
    mask_options("", (), config)  # refuses masks of unknown classes before any work
    models = {name: load_model(folder) for name, folder in folders.items()}
    check_matched(models, folders, TokenStore(Path(config.tokens) / config.split))
    weights = {name: model.weights_hash for name, model in models.items()}
    options = options_of(SpeedConfig, config, models=tuple(folders.values()))
    place = Path(config.work) / "generation"
    run_once(Job("generation", options, run_speed), place, weights)
    speeds = dict(zip(folders, read_result(place)["results"], strict=True))
    results = {name: measure_model(name, folder, config, weights[name]) for name, folder in folders.items()}
    rows = [row for name in folders for row in rows_of(name, results[name], speeds[name])]
    made = combined(config, results, training_differences(folders), models)
    return Measurement(
        results=[Result.of(row) for row in rows],
        weights=weights,
        interval="percentile bootstrap over images",
        **made,
    )


def combined(
    config: Config, results: Mapping[str, Results], warnings: list[str], models: Mapping[str, Model]
) -> dict[str, Any]:
    """Protocol, axes, data and warnings of the table, out of those of its parts."""
    cards = {kind: part["card"] for kind, part in next(iter(results.values())).items()}
    data = {f"{kind}, {part}": value for kind, each in cards.items() for part, value in each["data"].items()}
    every = [w for of_model in results.values() for part in of_model.values() for w in part["card"]["warnings"]]
    sizes = sorted({model.image_size for model in models.values()})
    axes = {
        "pooling": "mean",
        "normalization": "standardize (linear probe), unit (kNN)",
        "resolution": sizes[0] if len(sizes) == 1 else sizes,
        "threshold_basis": None,
        "selection": cards["classification"]["axes"]["selection"],
    }
    alone = single_runs(models)
    lone = [ONE_SEED.format(names=", ".join(alone))] if alone else []
    protocol = PROTOCOL.format(head=config.head)
    return {"protocol": protocol, "axes": axes, "data": data, "warnings": lone + warnings + every}


run = Task("architectures", Config, measure)

if __name__ == "__main__":
    run_as_command("architectures")
