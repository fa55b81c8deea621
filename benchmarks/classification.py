"""Linear probes of frozen features: `python -m benchmarks.classification --data FOLDER --encoder codes randar-tiny`.

Every variant of every encoder (layer, context, read) is standardised and classified by logistic regression.
The regularisation is chosen on a tenth of the training rows, the probe then refitted on all of them, and
the evaluation rows are touched once. The evaluation rows are a split of the data, or held back from it.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.encoders import Images, Variant, load_for, read_images, variants
from benchmarks.machine import describe
from probes import (
    KNNProbe,
    LinearProbe,
    LogisticProbe,
    accuracy,
    bootstrap_interval,
    mean_per_class_accuracy,
    stratified_holdout,
)
from randar_features import Model, sequence
from randar_features.files import write_json

HOLD_OUTS = ("stratified", "last")
PROTOCOLS = {
    "logistic": "logistic regression, standardised vectors, C chosen on a tenth of the training rows, refitted on all",
    "linear": "softmax regression by SGD, standardised vectors, learning rate chosen on a tenth of the training rows",
    "knn": "weighted 20 nearest neighbours by cosine, temperature 0.07",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that the numbers depend on besides data and weights."""

    data: str
    encoder: list[str]
    train_split: str | None = None
    evaluation_split: str | None = None
    evaluation_rows: int = 5000
    hold_out: str = "stratified"
    train_rows: int | None = None
    contexts: list[str]
    reads: list[str]
    orders: int | None = None
    probe: str = "logistic"
    seed: int = 0


def load_splits(config: Config, image_size: int) -> tuple[Images, Images]:
    """Training and evaluation images: two splits, or `evaluation_rows` of one held back."""
    train = read_images(config.data, image_size=image_size, split=config.train_split)
    if config.evaluation_split is not None:
        evaluation = read_images(config.data, image_size=image_size, split=config.evaluation_split)
        if train.label_names != evaluation.label_names:
            raise ValueError(
                f"the classes of {config.train_split} are {train.label_names}, those of {config.evaluation_split} "
                f"are {evaluation.label_names}: the same label would mean different things"
            )
    else:
        kept, held_out = hold_out(train.labels, config)
        train, evaluation = train.rows(kept), train.rows(held_out)
    return fewer(train, config.train_rows, config.seed), evaluation


def fewer(images: Images, count: int | None, seed: int) -> Images:
    """A seeded, stratified choice of about `count` images; None: all."""
    if count is None or count >= len(images):
        return images
    if count < 1:
        raise ValueError(f"--train-rows must be at least 1, got {count}")
    _, chosen = stratified_holdout(images.labels.numpy(), fraction=count / len(images), seed=seed)
    return images.rows(torch.from_numpy(chosen))


def hold_out(labels: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Rows to train on and to evaluate on; the latter are the last ones, or a seeded share of each class.

    ValueError if too few rows are left, or if the last rows are not of all classes, as in sorted data.
    """
    count, held = len(labels), config.evaluation_rows
    if not 0 < held < count:
        raise ValueError(f"{count} images cannot hold back {held} for evaluation: set --evaluation-rows")
    if config.hold_out == "stratified":
        kept, held_out = stratified_holdout(labels.numpy(), fraction=held / count, seed=config.seed)
        return torch.from_numpy(kept), torch.from_numpy(held_out)
    rows = torch.arange(count)
    missing = set(labels.tolist()) - set(labels[-held:].tolist())
    if missing:
        raise ValueError(
            f"the last {held} rows hold none of {len(missing)} classes, {sorted(missing)[:5]} for example: "
            "use --hold-out stratified"
        )
    return rows[:-held], rows[-held:]


def fit_and_score(
    variant: Variant, train_labels: np.ndarray, labels: np.ndarray, probe: str, seed: int
) -> dict[str, Any]:
    """Fit on the first rows of the variant's vectors, score once on the others."""
    vectors = variant.vectors.numpy()
    train, evaluation = vectors[: len(train_labels)], vectors[len(train_labels) :]
    start = time.perf_counter()
    chosen, predictions = _predict(probe, train, train_labels, evaluation, seed)
    low, high = bootstrap_interval((predictions == labels).astype(np.float64), seed=seed)
    return {
        "encoder": variant.encoder,
        "variant": variant.name,
        **variant.details,
        "dimensions": vectors.shape[1],
        "chosen": chosen,
        "accuracy": accuracy(predictions, labels),
        "interval": [low, high],
        "mean_per_class": mean_per_class_accuracy(predictions, labels),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _predict(
    probe: str, train: np.ndarray, train_labels: np.ndarray, evaluation: np.ndarray, seed: int
) -> tuple[dict[str, float], np.ndarray]:
    if probe == "knn":
        return {"k": 20}, KNNProbe(k=(20,)).fit(train, train_labels).predict(evaluation)[20]
    if probe == "linear":
        linear = LinearProbe(seed=seed).fit(train, train_labels)
        return {"learning_rate": linear.learning_rate, "tuning": linear.validation_accuracy}, linear.predict(evaluation)
    logistic = LogisticProbe(seed=seed).fit(train, train_labels)
    return {"C": logistic.C, "tuning": logistic.validation_accuracy}, logistic.predict(evaluation)


def evaluate(config: Config, models: dict[str, Model], train: Images, evaluation: Images) -> list[dict[str, Any]]:
    """One result for each variant of each encoder."""
    both = Images(torch.cat([train.pixels, evaluation.pixels]), torch.cat([train.labels, evaluation.labels]), None)
    results = []
    for encoder in config.encoder:
        found = variants(
            encoder,
            both,
            model=models[encoder],
            contexts=config.contexts,
            reads=config.reads,
            orders=config.orders,
        )
        for variant in tqdm(found, desc=encoder, unit="probe"):
            result = fit_and_score(variant, train.labels.numpy(), evaluation.labels.numpy(), config.probe, config.seed)
            tqdm.write(f"{encoder:12s} {variant.name:32s} {100 * result['accuracy']:.1f} %")
            results.append(result)
    return results


def run(config: Config, models: dict[str, Model]) -> dict[str, Any]:
    """The whole report: protocol, configuration, hashes, counts, machine and results."""
    sizes = {model.image_size for model in models.values()}
    if len(sizes) > 1:
        raise ValueError(f"the encoders need images of different sizes, {sorted(sizes)} pixels: run them one by one")
    train, evaluation = load_splits(config, sizes.pop())
    return {
        "protocol": PROTOCOLS[config.probe],
        "config": asdict(config),
        "data": data_hash(config.data),
        "rows": {"train": len(train), "evaluation": len(evaluation)},
        "unreadable": train.unreadable + (evaluation.unreadable if config.evaluation_split else []),
        "weights": {name: model.weights_hash for name, model in models.items()},
        "machine": describe(),
        "results": evaluate(config, models, train, evaluation),
    }


def data_hash(data: str) -> str:
    """Hash of the names and sizes of the data's files and of their first and last MiB."""
    digest, path = hashlib.sha256(), Path(data)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as opened:
                digest.update(opened.read(1 << 20))
                opened.seek(max(0, size - (1 << 20)))
                digest.update(opened.read())
    return digest.hexdigest()[:16]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, one row a variant."""
    lines = ["| encoder | variant | D | accuracy, % | 95 % interval | chosen |", "|---|---|---|---|---|---|"]
    for r in results:
        low, high = (100 * bound for bound in r["interval"])
        chosen = ", ".join(f"{name} {value:.3g}" for name, value in r["chosen"].items())
        lines.append(
            f"| {r['encoder']} | {r['variant']} | {r['dimensions']} | {100 * r['accuracy']:.1f} "
            f"| {low:.1f} … {high:.1f} | {chosen} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the probes and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="labelled images: a folder of class folders, or Parquet files")
    parser.add_argument("--encoder", nargs="+", default=["pixels", "codes", "randar-tiny"])
    parser.add_argument("--train-split", help="split to train on, where the data has several")
    parser.add_argument("--evaluation-split", help="split to evaluate on; without it rows are held back")
    parser.add_argument("--evaluation-rows", type=int, default=5000, help="how many rows to hold back")
    parser.add_argument(
        "--hold-out", default="stratified", choices=HOLD_OUTS, help="a share of each class, or the last"
    )
    parser.add_argument("--train-rows", type=int, help="only so many training rows")
    parser.add_argument("--contexts", nargs="+", default=list(sequence.CONTEXTS), choices=sequence.CONTEXTS)
    parser.add_argument("--reads", nargs="+", default=list(sequence.READS), choices=sequence.READS)
    parser.add_argument("--orders", type=int, help="mean over so many random orders instead of one raster order")
    parser.add_argument("--probe", default="logistic", choices=PROTOCOLS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for result.json and result.md")
    args = parser.parse_args()

    options = vars(args)
    out = options.pop("out")
    config = Config(**options)
    report = run(config, load_for(config.encoder))
    print(table(report["results"]))
    if out is not None:
        write_json(out / "result.json", report)
        (out / "result.md").write_text(table(report["results"]) + "\n")


if __name__ == "__main__":
    main()
