"""Classifying by the generator itself: `python -m benchmarks.generative_classification --data tiny-imagenet/ …`.

The predicted class is the one under which the tokens of an image have the highest log-likelihood, averaged over K
orders: by Bayes' rule with equal priors, a generator of images is a classifier. Every class, image and order takes a
pass through the model, so a probe on its features, computed without the class, first shortlists some classes.
Published: RandAR-L 78.0 %, RandAR-XL 81.3 % on ImageNet with 20 orders; XL 71.2, 76.2, 79.5 and 80.4 % with
1, 2, 5 and 10.

Class i of the data must be class i of the model. Run the same command again to continue.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.datasets import open_data
from benchmarks.encoders import load_encoder
from benchmarks.options import Read
from benchmarks.result import Result, resolved_dtype
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.tasks.whole_images.labelled import (
    Candidate,
    LabelledData,
    LabelledFeatures,
    check_labels,
    labelled_features,
    save_predictions,
)
from probes import LogisticProbe, bootstrap_interval, mean_per_class_accuracy, paired_bootstrap
from probes.rows import Rows, SelectedRows
from randar_features import Model, load_model, log_likelihood
from randar_features.models.base import ImageTransformer, context_of
from randar_features.options.shared import ModelOptions
from randar_features.options.types import Count
from randar_features.sequence import Context
from randar_features.store.files import read_object, written_whole
from randar_features.training.generator.objective import evaluation_orders

TOKENIZED_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Config(LabelledData, ModelOptions):
    """The generator as classifier, compared with a probe that is fitted with the same labels.

    Attributes:
        images: largest number of evaluation images, a seeded random choice; none: all.
        shortlist: classes to compare for each image, the most likely by the probe; none: all.
        orders: numbers of orders to average over, one result each; all begin with the same orders. A model trained in
            one order uses that one.
        labels: equal: fit the probe on every training image, as the model was, and compare the two; any: fit it on the
            images that --max-images and --train-images choose, and give no difference.
        context: context of the features that the probe is trained on; none: as the model recommends.
        read: tokens at which these features are taken; they are mean-pooled.
        layer: layer of these features; none: as the model recommends.
    """

    images: Count | None = 1000
    shortlist: Count | None = 10
    orders: tuple[Count, ...] = (1, 2, 5, 10, 20)
    labels: Literal["equal", "any"] = "equal"
    context: Context | None = None
    read: Read = "image"
    layer: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels == "equal" and (self.max_images or self.train_images):
            given = "--max-images" if self.max_images else "--train-images"
            raise ValueError(
                f"{given} would fit the probe on fewer labels than the model has seen: leave it out (--images limits "
                "those that are evaluated), or state --labels any, and no difference between the two is given"
            )


def class_log_likelihoods(
    transformer: ImageTransformer,
    tokens: Tensor,
    shortlist: Tensor,
    orders: Tensor,
    *,
    batch_size: int,
    dtype: str = "float32",
) -> Iterator[tuple[slice, Tensor]]:
    """log p(tokens | class) under each order, in nats: some images, and (images, k, K) float64, after others.

    tokens: (n, N) in raster order. shortlist: (n, k) classes of each image. orders: (K, N), the same for all images.
    batch_size: sequences at once. dtype: number format of the products.
    """
    classes_an_image = shortlist.shape[1]
    for start in range(0, len(tokens), max(1, batch_size // classes_an_image)):
        rows = slice(start, min(start + max(1, batch_size // classes_an_image), len(tokens)))
        repeated, classes = tokens[rows].repeat_interleave(classes_an_image, 0), shortlist[rows].flatten()
        found = [
            log_likelihood(transformer, repeated, classes, order, batch_size=batch_size, dtype=dtype)
            for order in orders
        ]
        sums = torch.stack([each.sum(1, dtype=torch.float64) for each in found], 1)
        yield rows, sums.view(-1, classes_an_image, len(orders)).cpu()


def resumed_log_likelihoods(
    model: Model,
    tokens: Tensor,
    shortlist: Tensor,
    orders: Tensor,
    out: Path,
    **how: Any,
) -> np.ndarray:
    """`class_log_likelihoods` of all images, (n, k, K), from `out` or, as they are computed, written there."""
    digest, dtype = hashlib.sha256(model.weights_hash.encode()), how.get("dtype", "float32")
    digest.update(b"" if dtype == "float32" else dtype.encode())
    for values in (tokens, shortlist, orders):
        digest.update(values.cpu().numpy().tobytes())
    path = out / f"likelihoods-{digest.hexdigest()[:12]}.npy"
    shape = (*shortlist.shape, len(orders))
    if not path.exists():
        with written_whole(path) as file:
            np.save(file, np.full(shape, np.nan))
    table = np.load(path, mmap_mode="r+")
    missing = np.flatnonzero(np.isnan(table).any((1, 2)))
    parts = class_log_likelihoods(model.transformer, tokens[missing], shortlist[missing], orders, **how)
    with tqdm(total=len(tokens), initial=len(tokens) - len(missing), desc=model.name, unit="image") as bar:
        for rows, values in parts:
            table[missing[rows]] = values.numpy()
            table.flush()
            bar.update(len(values))
    return np.array(table)


def chosen_classes(table: np.ndarray, shortlist: np.ndarray, count: int) -> np.ndarray:
    """The class of the highest mean over the first `count` orders, (n,), of equals the lowest.

    table: (n, k, K) log-likelihoods. shortlist: (n, k) their classes, ascending.
    """
    best = table[:, :, :count].mean(2).argmax(1)
    return shortlist[np.arange(len(shortlist)), best]


def shortlists(probe: LogisticProbe, rows: Rows, count: int) -> np.ndarray:
    """The `count` likeliest classes of each row by the probe (of equals the lowest), ascending: (n, count)."""
    table = probe.predict_proba(rows)
    if count > len(probe.classes):
        raise ValueError(f"--shortlist must be at most {len(probe.classes)}, the classes trained on, got {count}")
    return np.sort(probe.classes[np.argsort(-table, axis=1, kind="stable")[:, :count]], axis=1)


def fitted_probe(model: Model, config: Config) -> tuple[LogisticProbe, LabelledFeatures, Candidate]:
    """The probe, trained; and what it was trained on."""
    context = context_of(model.transformer, config.context, config.read)
    encoder = load_encoder(model, contexts=[context], reads=[config.read], dtype=config.dtype)
    layer = model.recommended_layers[0] if config.layer is None else config.layer
    output = f"{context}/{config.read}/{layer}"
    features = labelled_features(encoder, config, "mean", [output])
    (candidate,) = features.candidates(joined=False)
    probe = LogisticProbe(seed=config.seed).fit(candidate.train, features.train.labels)
    return probe, features, candidate


def check_classes(model: Model, names: list[str] | None, labels: np.ndarray) -> None:
    """ValueError if the data's classes cannot be the model's."""
    count = model.transformer.config.num_classes
    if (len(names) if names else int(labels.max()) + 1) != count:
        found = f"{len(names)} classes" if names else f"labels up to {labels.max()}"
        raise ValueError(f"{model.name} was trained on {count} classes, the data has {found}: they must be the same")
    if names and model.classes and set(names) == set(model.classes) and names != model.classes:
        raise ValueError(f"the data's classes are in another order than those of {model.name}: its are {model.classes}")


def labels_seen(model: str) -> int | None:
    """On how many labelled images a model was trained, as its folder records it; None where it does not."""
    path = Path(model) / "config.json"
    training = read_object(path).get("training") if path.is_file() else None
    data = training.get("data") if isinstance(training, dict) else None
    count = data.get("images") if isinstance(data, dict) else None
    return count if isinstance(count, int) else None


def warnings_of_labels(seen: int | None, fitted: int) -> list[str]:
    """What a reader must know of the labels that the model, and that the probe has seen."""
    if seen is None:
        return [
            "the model does not say on how many labelled images it was trained: it and the probe have seen the same "
            f"labels only if these are the {fitted:,} images that the probe was fitted on"
        ]
    unequal = (
        f"the model has seen the labels of {seen:,} images, the probe those of {fitted:,}: no difference between them "
        "is given, as it would not be one of reading the class"
    )
    return [] if seen == fitted else [unequal]


def image_tokens(model: Model, config: Config, rows: np.ndarray) -> Tensor:
    """Tokens (n, N) of the evaluation images of these row numbers."""
    split = config.evaluation_split or config.train_split
    source = open_data(config.data, split, model.image_size, config.reading)
    batches = source.batches(model.image_size, 1, rows=[range(row, row + 1) for row in rows.tolist()])
    pixels = (batch.pixels for batch in tqdm(batches, total=len(rows), desc="tokens", unit="image"))
    groups = iter(lambda: list(islice(pixels, TOKENIZED_AT_ONCE)), [])
    return torch.cat([model.tokenizer.encode(torch.cat(group).to(model.device)) for group in groups])


def measure(config: Config, out: Path) -> Measurement:
    """Writes predictions and what was computed to `out`."""
    model = load_model(config.model, config.device)
    if names := open_data(config.data, config.train_split, model.image_size, config.reading).label_names:
        check_classes(model, names, np.empty(0))  # before features are computed
    check_labels(config)
    probe, features, candidate = fitted_probe(model, config)
    check_classes(model, features.label_names, features.train.labels)
    places = np.random.default_rng(config.seed).permutation(len(candidate.evaluation))
    places = np.sort(places[: config.images])
    vectors, labels = SelectedRows(candidate.evaluation, places), features.evaluation.labels[places]
    count = len(probe.classes) if config.shortlist is None else config.shortlist
    shortlist = torch.from_numpy(shortlists(probe, vectors, count))
    tokens = image_tokens(model, config, features.evaluation.rows[places])
    orders = evaluation_orders(model.transformer, max(config.orders), config.seed)
    counts = sorted(count for count in config.orders if count <= len(orders)) or [len(orders)]
    how: dict[str, Any] = {"batch_size": config.batch_size, "dtype": resolved_dtype(config.dtype, model.device)}
    likelihoods = resumed_log_likelihoods(model, tokens, shortlist, orders, out, **how)
    by_probe = probe.predict(vectors)
    found = {k: chosen_classes(likelihoods, shortlist.numpy(), k) for k in counts}
    seen, fitted = labels_seen(config.model), len(features.train.rows)
    compared = by_probe if config.labels == "equal" and seen in (None, fitted) else None
    axes = {name: value for name, value in candidate.axes.items() if name not in ("encoder", "resolution")}
    about_probe = {"warnings": probe.warnings, "converged": probe.converged[probe.C]}
    of_probe = axes | {"normalization": "standardize", "probe": "logistic"} | _metrics(by_probe, labels, config.seed)
    rows = [*results(found, labels, compared, shortlist.numpy(), config.seed), of_probe | about_probe]
    artifacts = save_predictions(out, [*found.values(), by_probe], labels, features.label_names)
    about = {"resolution": model.image_size, "threshold_basis": None, "selection": config.selection()}
    return Measurement(
        protocol=protocol(config, candidate.axes["output"], one_order=len(orders) < max(config.orders)),
        axes=about | {"encoder": model.name},
        data=config.data_parts() | {"images": f"{len(labels)} of the evaluation images, seed {config.seed}"},
        weights={model.name: model.weights_hash},
        warnings=[*warnings_of_labels(seen, fitted), *features.unreadable(), *features.duplicates(config)],
        interval="percentile bootstrap over images",
        results=[Result.of(row) for row in rows],
        artifacts=artifacts,
    )


def protocol(config: Config, output: str, *, one_order: bool) -> str:
    """The protocol in words; output: what the probe was trained on; one_order: the model knows one order only."""
    among = "all classes"
    if config.shortlist is not None:
        among = f"{config.shortlist} classes shortlisted by a logistic probe of {output}"
    random_orders = f"antithetic pairs of random orders, seed {config.seed}, the same for all images"
    return (
        f"generative classification: the class of the highest mean over orders of log p(tokens | class), among "
        f"{among}; " + ("the order that the model was trained in" if one_order else random_orders)
    )


def results(
    found: dict[int, np.ndarray], labels: np.ndarray, by_probe: np.ndarray | None, shortlist: np.ndarray, seed: int
) -> Iterator[dict[str, Any]]:
    """A result for each number of orders.

    found, by_probe: predictions (n,), by orders and of the probe; None: they are not compared. labels: (n,);
    shortlist: (n, k).
    """
    nothing = dict.fromkeys(("layer", "context", "read", "pooling", "normalization"))
    recall = float((shortlist == labels[:, None]).any(1).mean())
    for count, predictions in found.items():
        about = {"output": "likelihood", **nothing, "orders": count, "probe": "generative"}
        about |= _metrics(predictions, labels, seed) | {"shortlist_recall": recall}
        if by_probe is not None:
            against = paired_bootstrap(_hits(predictions, labels), _hits(by_probe, labels), seed=seed)
            about |= {"against_probe": against._asdict()}
        yield about


def _metrics(predictions: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, Any]:
    hits = _hits(predictions, labels)
    by_class = mean_per_class_accuracy(predictions, labels)
    return {"accuracy": float(hits.mean()), "interval": bootstrap_interval(hits, seed=seed), "mean_per_class": by_class}


def _hits(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (predictions == labels).astype(np.float64)


run = Task("generative_classification", Config, measure)

if __name__ == "__main__":
    run_as_command("generative_classification")
