"""The labelled images that a classifier is trained on and evaluated on, and their features by output."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.datasets import open_data
from benchmarks.encoders import Encoder, all_layers, extract, unreadable
from benchmarks.encoders.stored import StoredEncoder
from benchmarks.options import FeatureOptions, HoldOut
from benchmarks.result import data_hash
from benchmarks.tasks.duplicates.duplicate_pairs import Part, between
from probes import stratified_holdout, stratified_rows
from probes.pooling import pool
from probes.rows import JoinedRows, Rows, SelectedRows, TensorRows, sharded_rows
from randar_features.features.store import FeatureStore
from randar_features.options.parse import option
from randar_features.options.types import Count
from randar_features.store.files import written_whole

PREDICTIONS = "predictions.npz"
HELD_SHARE = 0.2
ONE_EACH = "a probe needs one each"
ANY_SIZE = 64  # pixels; labels do not depend on it


@dataclass(frozen=True, kw_only=True)
class LabelledData(FeatureOptions):
    """Options of every benchmark that trains on some labelled images and is evaluated on others.

    Attributes:
        data: labelled images: "photo-digits", a folder of class folders, or Parquet files.
        train_split: split to train on; none: the data have one split.
        evaluation_split: split to evaluate on; none: hold out images of the training split.
        evaluation_images: number of images to hold out; none: a fifth.
        hold_out: which images to hold out. stratified: in proportion from each class; last: the last ones.
        train_images: largest number of images to train on, in proportion from each class; none: all.
        max_images: read only this many images of each split, the first ones; none: all.
        duplicates: search near-duplicates of evaluation images among the training images, and warn of them.
        on_disk: read features as they are needed, if they are larger than memory.
    """

    data: str
    train_split: str | None = None
    evaluation_split: str | None = None
    evaluation_images: Count | None = option("--evaluation-rows", default=None)
    hold_out: HoldOut = "stratified"
    train_images: Count | None = option("--train-rows", default=None)
    max_images: Count | None = option("--max-rows", default=None)
    duplicates: bool = True
    on_disk: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluation_split is not None and self.evaluation_split == self.train_split:
            raise ValueError(
                f"images to train on and to evaluate on must differ, got the split {self.train_split!r} twice: leave "
                "--evaluation-split out, and images of the training split are held out"
            )
        if self.evaluation_split is not None and self.evaluation_images is not None:
            raise ValueError(
                f"--evaluation-images {self.evaluation_images} holds out images of the training split, and "
                f"--evaluation-split {self.evaluation_split} names others: leave one of them out"
            )

    def data_parts(self) -> dict[str, str]:
        """The data's hash, and which images of it: equal where the same images were used."""
        first = f" first {self.max_images} images of each split," if self.max_images else ""
        content, train = data_hash(self.data) + first, self.train_split or "all"
        held = f"{self.evaluation_images or 'a fifth'} of {train}, {self.hold_out}"
        held += f", seed {self.seed}" if self.hold_out == "stratified" else ""
        trained = f"{train}, at most {self.train_images}, seed {self.seed}" if self.train_images else train
        if self.evaluation_split is not None:
            return {"train": f"{content} {trained}", "evaluation": f"{content} {self.evaluation_split}"}
        return {"train": f"{content} {trained} but {held}", "evaluation": f"{content} {held}"}

    def selection(self) -> str:
        """On which images options of heads are chosen, in words."""
        return f"a stratified tenth of the training images (seed {self.seed})"


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of a store, and the labels of those rows."""

    rows: np.ndarray
    labels: np.ndarray

    def part(self, places: np.ndarray) -> "Split":
        """Some of the rows, by their places."""
        return Split(self.rows[places], self.labels[places])

    def same(self, other: "Split") -> bool:
        """Whether the other one is of the same images, with the same labels."""
        return np.array_equal(self.rows, other.rows) and np.array_equal(self.labels, other.labels)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One output, pooled in one way: what a probe is trained and evaluated on."""

    axes: dict[str, Any]
    train: Rows
    evaluation: Rows

    @property
    def width(self) -> int:
        """D."""
        return self.train.shape[-1]


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """An encoder's features of the training and of the evaluation images."""

    encoder: Encoder
    train_store: FeatureStore
    evaluation_store: FeatureStore
    train: Split
    evaluation: Split
    pooling: str | None
    on_disk: bool

    @property
    def label_names(self) -> list[str] | None:
        """Names of the classes, or None."""
        return self.train_store.label_names

    def candidates(self, *, joined: bool) -> Iterator[Candidate]:
        """Every output; where `joined`, also all layers of one context and read, side by side."""
        singles = [self._candidate(name) for name in self.train_store.names]
        yield from singles
        if joined:
            yield from _all_layers(singles)

    def _candidate(self, output: str) -> Candidate:
        parts = (self.train_store, self.train.rows), (self.evaluation_store, self.evaluation.rows)
        train, evaluation = (self._rows(store, output, rows) for store, rows in parts)
        axes: dict[str, Any] = {"encoder": self.encoder.name, "output": output, **self.encoder.axes(output)}
        axes |= {"pooling": self.pooling, "resolution": self.encoder.image_size}
        return Candidate(axes, train, evaluation)

    def _rows(self, store: FeatureStore, output: str, rows: np.ndarray) -> Rows:
        """On disk until they are read, or in memory in the precision of the store."""
        found = SelectedRows(sharded_rows(store.rows(output)), rows)
        if self.pooling is not None and store.manifest["pooling"] is None:
            blocks = [pool(block.float(), self.pooling) for _, block in found.blocks()]
            return TensorRows(torch.cat(blocks))
        return found if self.on_disk else TensorRows(found.read(np.arange(len(rows))))

    def unreadable(self) -> list[str]:
        """A warning for each store that lacks images."""
        return unreadable(self.train_store, self.evaluation_store)

    def duplicates(self, options: LabelledData) -> list[str]:
        """A warning of evaluation images that have a near-duplicate among those trained on, where wanted."""
        if not options.duplicates:
            return []
        if isinstance(self.encoder, StoredEncoder):
            return ["near-duplicates were not looked for: a store holds features, not images"]
        trained = Part(options.data, options.train_split, options.max_images, self.train.rows, reading=options.reading)
        evaluated = trained._replace(split=options.evaluation_split or options.train_split)
        return between(trained, evaluated._replace(rows=self.evaluation.rows), options.cache)


def labelled_features(
    encoder: Encoder, options: LabelledData, pooling: str | None, outputs: Sequence[str] | None = None
) -> LabelledFeatures:
    """Extract what is not in the cache, and choose the rows; ValueError where labels are missing or do not match.

    pooling: of maps, or None for maps. outputs: of the encoder; None: all.
    """
    if isinstance(encoder, StoredEncoder):
        stores = [encoder.features(outputs, pooling)]
    else:
        about: dict[str, Any] = {**options.store, "max_images": options.max_images}
        about |= {"outputs": outputs, "pooling": pooling}
        stores = [extract(encoder, options.data, split=split, **about) for split in splits_read(options)]
    train, evaluation = choose_rows(stores[0], stores[-1] if options.evaluation_split is not None else None, options)
    return LabelledFeatures(encoder, stores[0], stores[-1], train, evaluation, pooling, options.on_disk)


def splits_read(options: LabelledData) -> list[str | None]:
    """The splits that are read, that to train on first."""
    return [*dict.fromkeys((options.train_split, options.evaluation_split or options.train_split))]


def check_labels(options: LabelledData) -> None:
    """ValueError where the labels allow no probe, as far as they are known before images are decoded.

    All images count as readable here; `choose_rows` decides once it is known which are.
    """
    sources = [open_data(options.data, name, ANY_SIZE, options.reading) for name in splits_read(options)]
    _check_same_classes([source.label_names for source in sources], options)
    splits = []
    for source in sources:
        if source.labels is None and not source.streamed:
            first = next(source.items(), None)
            if first is not None and (first.image, first.path) != (None, None) and first.label is None:
                raise ValueError(f"the first of {len(source)} images of {options.data} has no label: {ONE_EACH}")
        if source.labels is None:
            return
        labels = source.labels[: options.max_images]
        splits.append(Split(np.arange(len(labels)), labels))
    train, _ = choose(splits[0], None if options.evaluation_split is None else splits[1], options)
    stratified_holdout(train.labels, seed=options.seed)  # every head chooses its options on such images


def choose_rows(store: FeatureStore, other: FeatureStore | None, options: LabelledData) -> tuple[Split, Split]:
    """Rows to train on, of `store`, and to evaluate on, of `other`, or held out from `store`.

    Images that could not be read are left out.
    """
    _check_same_classes([each.label_names for each in (store, other) if each is not None], options)
    return choose(_readable(store), None if other is None else _readable(other), options)


def choose(train: Split, evaluation: Split | None, options: LabelledData) -> tuple[Split, Split]:
    """The images to train on and to evaluate on; `evaluation` None: some of `train` are held out."""
    for split in (train, evaluation):
        if split is not None and (split.labels < 0).any():
            raise ValueError(
                f"{(split.labels < 0).sum()} of {len(split.labels)} images of {options.data} have no label: {ONE_EACH}"
            )
    if evaluation is None:
        train, evaluation = hold_out(train, options)
    return fewer(train, options.train_images, options.seed), evaluation


def _check_same_classes(names: Sequence[list[str] | None], options: LabelledData) -> None:
    if names[0] != names[-1]:
        raise ValueError(
            f"the classes of {options.train_split} are {names[0]}, those of {options.evaluation_split} "
            f"are {names[-1]}: the same label would mean different things"
        )


def _readable(store: FeatureStore) -> Split:
    rows = np.flatnonzero(store.ok)
    return Split(rows, store.labels[rows])


def fewer(split: Split, count: int | None, seed: int) -> Split:
    """A seeded, stratified choice of `count` rows; None: all."""
    if count is None or count >= len(split.rows):
        return split
    return split.part(stratified_rows(split.labels, count, seed))


def save_predictions(
    out: Path, predictions: Sequence[np.ndarray], labels: np.ndarray, label_names: list[str] | None
) -> dict[str, str]:
    """Write the predicted classes of each result, (results, images), and the true ones; returns the entry of a card."""
    names = label_names or [str(label) for label in range(labels.max() + 1)]
    with written_whole(out / PREDICTIONS) as file:
        np.savez_compressed(file, labels=labels, predictions=np.stack(predictions), label_names=np.array(names))
    return {"predictions": PREDICTIONS}


def check_held(held: int, count: int) -> None:
    """ValueError unless some of `count` images are left where `held` are held out."""
    if not 0 < held < count:
        raise ValueError(f"{count} readable images cannot hold out {held} for evaluation: set --evaluation-images")


def hold_out(split: Split, options: LabelledData) -> tuple[Split, Split]:
    """Rows to train on and to evaluate on; the latter are the last ones, or a seeded share of each class.

    ValueError if too few images are left, or if the last ones are not of all classes, as in sorted data.
    """
    count = len(split.rows)
    held = options.evaluation_images or round(HELD_SHARE * count)
    check_held(held, count)
    if options.hold_out == "stratified":
        evaluated = stratified_rows(split.labels, held, options.seed, leave=1)
    else:
        evaluated = np.arange(count - held, count)
        missing = set(split.labels.tolist()) - set(split.labels[-held:].tolist())
        if missing:
            raise ValueError(
                f"the last {held} images hold none of {len(missing)} classes, {sorted(missing)[:5]} for example: "
                "use --hold-out stratified"
            )
    return split.part(np.setdiff1d(np.arange(count), evaluated)), split.part(evaluated)


def _all_layers(singles: Sequence[Candidate]) -> Iterator[Candidate]:
    """All layers of each context and read, concatenated."""
    by_name = {candidate.axes["output"]: candidate for candidate in singles}
    for name, outputs in all_layers({output: each.axes for output, each in by_name.items()}).items():
        group = [by_name[output] for output in outputs]
        joined = group[0].axes | {"output": name, "layer": [member.axes["layer"] for member in group]}
        parts = [member.train for member in group], [member.evaluation for member in group]
        yield Candidate(joined, *(JoinedRows(part) for part in parts))


def in_memory(rows: Rows) -> torch.Tensor:
    """All of them."""
    return rows.tensor if isinstance(rows, TensorRows) else rows.read(np.arange(len(rows)))
