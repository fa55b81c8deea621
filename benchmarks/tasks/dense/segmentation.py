"""Segmentation from frozen maps: `python -m benchmarks.segmentation --data camvid/ --labels camvid`.

A head learns the class of every pixel from the feature maps of the training images. Its options are chosen on a
tenth of these images, and the evaluation images are used once for each result. mIoU is that of the whole evaluation
set, at the size of the masks; its interval is bootstrapped over images. `--resolution` shows images larger than the
encoder's input as overlapping tiles.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.comparisons import differences_of
from benchmarks.datasets import PHOTO_DIGITS
from benchmarks.datasets.scenes import Labels, Scenes, labels_of
from benchmarks.encoders import Encoder, all_layers, load_encoders
from benchmarks.options import EncoderOptions, Head, MaskOptions, check_own
from benchmarks.report.overlays import segmentations
from benchmarks.result import Result, data_hash
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.tasks.dense.feature_maps import (
    DenseFeatures,
    Layout,
    Tiles,
    blended_probabilities,
    check_tiling,
    dense_features,
    file_name,
)
from benchmarks.tasks.duplicates.duplicate_pairs import Part, between
from probes import (
    KNNSegmenter,
    LinearSegmenter,
    LogisticSegmenter,
    intersections_and_unions,
    mean_iou,
    miou_difference,
    segment,
    segmentation_counts,
    segmentation_scores,
)
from probes.segmentation import Segmenter, resize_mask, tuning_images
from randar_features.options.types import Count
from randar_features.store.files import write_bytes

TUNING_SHARE = 0.1  # of the training images
SURE_IMAGES = 10  # of a class: fewer than 1 resample in 20 000 has none
COMPARED_SIZE = 64  # pixels at which near-duplicates are looked for
SHOWN = 4  # evaluation images in a picture
CLIP = "camvid"
CLIP_BLOCK = 25
PROTOCOLS = {
    "linear": "segmentation: batch normalisation and a 1×1 convolution on the token grid, logits up-sampled "
    "(after DINOv3, without augmentation)",
    "knn": "segmentation: kNN on patches, k and distance from a grid, votes up-sampled (CAPI)",
    "logistic": "segmentation: logistic regression on patches, C from a grid, log-probabilities up-sampled (CAPI)",
}
CHOSEN = ("learning_rate", "k", "distance", "C")  # what a head chooses on the tuning images, if it has it
OF_HEADS = {"iterations": ("linear",), "max_patches": ("knn", "logistic")}
"""The heads that an option has an effect on."""
NORMALIZATIONS = {"linear": "batch normalisation", "knn": None, "logistic": "standardised"}


@dataclass(frozen=True, kw_only=True)
class Config(EncoderOptions, MaskOptions):
    """Segmentation from frozen maps: a head learns the class of every pixel.

    Attributes:
        data: "photo-digits", a folder with images/ and masks/, or Parquet files.
        head: fitted head: linear (batch normalisation and a 1×1 convolution), knn or logistic (both on patches).
        train_split: split to train on.
        evaluation_split: split to evaluate on; none: "test" of photo-digits, else "validation".
        train_images: largest number of images to train on, a seeded random choice; none: all.
        evaluation_images: largest number of images to evaluate on, a seeded random choice; none: all.
        block: consecutive evaluation images that the bootstrap draws together, such as frames of a clip; none: 25 for
            camvid, whose evaluation images are one clip, else 1.
        size: side in pixels of the images of photo-digits.
        resolution: show images in tiles, at this shorter side in pixels; none: squash them to the input.
        stride: pixels from tile to tile; none: about 3/8 of the input, an odd number of cells of the grid.
        blend: what to blend where tiles overlap: their features, or the probabilities that the head gives for each
            tile. The head is fitted to blended features.
        resized: also score at the size in which the encoder sees images.
        duplicates: search near-duplicates of evaluation images among the training images, and warn of them.
        iterations: iterations of the linear head.
        max_patches: largest number of training patches for kNN and logistic regression, drawn at random; none: all.
        single_layers: leave out the concatenation of all layers.
    """

    data: str
    head: Head = "linear"
    train_split: str = "train"
    evaluation_split: str | None = None
    train_images: Count | None = None
    evaluation_images: Count | None = None
    block: Count | None = None
    size: Count = 64
    resolution: Count | None = None
    stride: Count | None = None
    blend: Literal["features", "probabilities"] = "features"
    resized: bool = False
    duplicates: bool = True
    iterations: Count = 1000
    max_patches: Count | None = 50_000
    single_layers: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tiling(self.resolution, self.stride)
        check_own(self, OF_HEADS, self.head, "head")
        check_own(self, {"size": [PHOTO_DIGITS]}, self.data, "data")
        if self.resolution is None and self.blend != "features":
            raise ValueError(f"--blend {self.blend} is for tiles that overlap: give --resolution, or leave it out")
        _ = self.classes

    @property
    def classes(self) -> Labels:
        """Names of the classes, and the value to ignore."""
        labels = PHOTO_DIGITS if self.data == PHOTO_DIGITS and self.labels is None else self.labels
        return labels_of(labels, self.num_classes, self.ignore_index)


@dataclass(frozen=True)
class SegmentationData:
    """The data of one run, and its classes."""

    config: Config
    labels: Labels
    train: Scenes
    evaluation: Scenes

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.labels.names)

    @property
    def shown(self) -> list[int]:
        """Numbers of the evaluation images that are drawn."""
        return np.unique(np.linspace(0, len(self.evaluation) - 1, SHOWN).round().astype(int)).tolist()


def load_task(config: Config) -> SegmentationData:
    """Read both splits once, to know which pairs can be read, and that enough are left to choose options on."""
    labels = config.classes
    evaluated = config.evaluation_split or ("test" if config.data == PHOTO_DIGITS else "validation")
    splits = {config.train_split: config.train_images, evaluated: config.evaluation_images}
    if len(splits) < 2:
        raise ValueError(
            f"images to train on and to evaluate on must differ, got the split {config.train_split!r} twice"
        )
    options: dict[str, Any] = {"size": config.size, "seed": config.seed, "reading": config.reading}
    train, evaluation = (Scenes(config.data, name, labels, count=n, **options) for name, n in splits.items())
    tuning_images(train.masks, TUNING_SHARE, config.seed, labels.ignore_index)
    return SegmentationData(config, labels, train, evaluation)


def make_head(task: SegmentationData) -> Segmenter:
    """The head that the configuration names, not fitted."""
    config = task.config
    options: dict[str, Any] = {"ignore_index": task.labels.ignore_index, "seed": config.seed}
    options["validation_fraction"] = TUNING_SHARE
    if config.head == "linear":
        return LinearSegmenter(task.num_classes, iterations=config.iterations, **options)
    if config.head == "knn":
        return KNNSegmenter(task.num_classes, max_patches=config.max_patches, **options)
    return LogisticSegmenter(task.num_classes, max_patches=config.max_patches, **options)


def settings(config: Config) -> str:
    """What the head is given, in words."""
    if config.head == "linear":
        return f"{config.iterations} iterations"
    return "all training patches" if config.max_patches is None else f"at most {config.max_patches} training patches"


@dataclass(frozen=True)
class Scored:
    """One row of a result.

    Attributes:
        parts: what it is compared by, `intersections_and_unions` (n, 2, C) of the images.
        predicted: classes (H, W) of the images that are drawn.
    """

    row: Result
    parts: np.ndarray
    predicted: list[np.ndarray]


def evaluate(encoder: Encoder, task: SegmentationData) -> list[Scored]:
    """One result for each output of the encoder, and for all layers of one context and read that have the same grid."""
    config = task.config
    grids = encoder.grids(config.chosen(encoder))
    layout = Layout(encoder.image_size, encoder.image_size // min(grids.values()), config.resolution, config.stride)
    train, evaluation = (_features(encoder, task, part, list(grids), layout) for part in ("train", "evaluation"))
    results = []
    for name, outputs in tqdm(
        heads_of(encoder, grids, config).items(), desc=f"{encoder.name} {config.head}", unit="head"
    ):
        start = time.perf_counter()
        head = make_head(task).fit(train.of(*outputs), task.train.masks)
        counts, small, predicted = count(head, evaluation, outputs, task)
        layers = [encoder.outputs[output]["layer"] for output in outputs]
        row = {
            "encoder": encoder.name,
            "output": name,
            **encoder.outputs[outputs[0]],
            "layer": layers[0] if len(layers) == 1 else layers,
            "resolution": f"{layout}, {config.blend} blended" if config.resolution else str(layout),
            **segmentation_scores(counts, block=block_of(task), seed=config.seed),
            **({"miou_resized": mean_iou(small.sum(0))} if config.resized else {}),
            "settings": settings(config),
            "validation": head.validation_miou,
            "chosen": {option: getattr(head, option) for option in CHOSEN if hasattr(head, option)},
            **({"converged": head.converged[head.C]} if isinstance(head, LogisticSegmenter) else {}),
            "grid": f"{grids[outputs[0]]}x{grids[outputs[0]]}",
            "seconds": round(time.perf_counter() - start, 1),
            "warnings": head.warnings,
        }
        results.append(Scored(Result.of(row), intersections_and_unions(counts), predicted))
    return results


def _features(
    encoder: Encoder, task: SegmentationData, part: Literal["train", "evaluation"], outputs: list[str], layout: Layout
) -> DenseFeatures:
    config, scenes = task.config, task.train if part == "train" else task.evaluation
    about: dict[str, Any] = {"part": part, "outputs": outputs, "layout": layout, **config.store}
    return dense_features(encoder, scenes.image, scenes.sizes, name=_cache_name(config, scenes, part), **about)


def block_of(task: SegmentationData) -> int | None:
    """How many consecutive images the bootstrap draws together; None: one."""
    wanted = task.config.block or (CLIP_BLOCK if task.config.labels == CLIP else 1)
    return min(wanted, len(task.evaluation) // 2) if min(wanted, len(task.evaluation) // 2) > 1 else None


def interval_words(task: SegmentationData) -> str:
    """How intervals are made."""
    block = block_of(task)
    if block is None:
        return "percentile bootstrap over evaluation images"
    return f"percentile bootstrap over blocks of {block} consecutive evaluation images"


def heads_of(encoder: Encoder, grids: Mapping[str, int], config: Config) -> dict[str, list[str]]:
    """The outputs that each head reads, by the name of its row; `grids`: the side of each output's grid."""
    together = {} if config.single_layers else all_layers({output: encoder.axes(output) for output in grids})
    alike = {name: outputs for name, outputs in together.items() if len({grids[each] for each in outputs}) == 1}
    return {output: [output] for output in grids} | alike


def count(
    head: Segmenter, features: DenseFeatures, outputs: Sequence[str], task: SegmentationData
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """`segmentation_counts` (n, C, C) of the evaluation images at the size of their masks, and at that of the canvas.

    The latter are empty unless `resized` is set. Last come the classes (H, W) of the images that are drawn.
    """
    native, small, shown = [], [], []
    options = task.num_classes, task.labels.ignore_index
    for number in range(len(task.evaluation)):
        mask, scores = task.evaluation.masks[number], scores_of(head, features, outputs, number, task.config)
        predicted = segment(scores, mask.shape)
        native.append(segmentation_counts(predicted, mask, *options))
        shown += [predicted.astype(np.int32)] if number in task.shown else []
        if task.config.resized:
            size = features.tiles.layout.canvas(*mask.shape)
            small.append(segmentation_counts(segment(scores, size), resize_mask(mask, size), *options))
    return np.stack(native), np.array(small), shown


def scores_of(head: Segmenter, features: DenseFeatures, outputs: Sequence[str], number: int, config: Config) -> Tensor:
    """Scores (h, w, C) of an image: of its blended features, or its tiles' probabilities blended at their pixels."""
    if config.blend == "features":
        return head.scores(features.of(*outputs)[number])
    maps, positions, canvas = features.tiles_of(outputs, number)
    return blended_probabilities(head, maps, positions, canvas, features.tiles.layout.size)


def _cache_name(config: Config, scenes: Scenes, part: str) -> str:
    size = f"-{config.size}" if config.data == PHOTO_DIGITS else ""
    content = f"{Path(config.data).name}-{data_hash(config.data)[-8:]}"
    return file_name(f"{content}{size}-{part}-{len(scenes)}-{scenes.fingerprint}")


def measure(config: Config, out: Path) -> Measurement:
    """Every output of every encoder; writes pictures to `out`."""
    task = load_task(config)
    rows: list[Result] = []
    parts: list[np.ndarray] = []
    weights: dict[str, str] = {}
    pictures: dict[str, str] = {}
    for encoder in load_encoders(config.encoder, **config.loading):
        scored = evaluate(encoder, task)
        rows, parts = rows + [each.row for each in scored], parts + [each.parts for each in scored]
        weights[encoder.name] = encoder.described_weights
        pictures |= draw(max(scored, key=lambda each: each.row["validation"]), task, out)
    block = block_of(task)
    differences = differences_of(
        rows, lambda one, other: miou_difference(parts[one], parts[other], block=block, seed=config.seed)
    )
    return Measurement(
        protocol=PROTOCOLS[config.head],
        results=rows,
        differences=differences,
        artifacts=pictures,
        interval=interval_words(task),
        axes={
            "pooling": None,
            "normalization": NORMALIZATIONS[config.head],
            "threshold_basis": None,
            "selection": "mIoU of a tenth of the training images",
        },
        data=data_parts(task),
        weights=weights,
        warnings=warnings_of(task),
    )


def draw(best: Scored, task: SegmentationData, out: Path) -> dict[str, str]:
    """A picture of some evaluation images as the best output of an encoder segments them; its file by its title."""
    scenes, encoder = task.evaluation, best.row["encoder"]
    images, truths = [scenes.image(n) for n in task.shown], [scenes.masks[n] for n in task.shown]
    labels, file = task.labels, f"overlays-{file_name(encoder)}.png"
    png = segmentations(images, truths, best.predicted, labels.names, ignore_index=labels.ignore_index)
    write_bytes(out / file, png)
    return {f"Segmentation by {encoder} ({task.config.head})": file}


def data_parts(task: SegmentationData) -> dict[str, str]:
    """Hash and number of images of both parts, and what their masks mean."""
    size = f" of {task.config.size} pixels" if task.config.data == PHOTO_DIGITS else ""
    content = f"{data_hash(task.config.data)}{size}, {task.num_classes} classes, {task.labels.ignore_index} ignored"
    parts = {"train": task.train, "evaluation": task.evaluation}
    return {part: f"{content}, {len(scenes)} images ({scenes.fingerprint})" for part, scenes in parts.items()}


def warnings_of(task: SegmentationData) -> list[str]:
    """Warnings: pairs that were left out, classes too rare for an interval, near-duplicates."""
    found = []
    for part, scenes in (("train", task.train), ("evaluation", task.evaluation)):
        named = "; ".join(entry["reason"] for entry in scenes.unreadable[:3])
        if scenes.unreadable:
            found.append(f"{len(scenes.unreadable)} {part} pairs could not be read: {named}")
    if rare := rare_classes(task):
        found.append(
            f"the interval of mIoU is not to be relied on: resamples of the images may lack {', '.join(rare)}, which "
            f"fewer than {SURE_IMAGES} evaluation images hold"
        )
    if task.config.duplicates:
        found += between(_compared(task, "train"), _compared(task, "evaluation"), task.config.cache)
    if task.config.labels == CLIP:
        found.append("the evaluation images are frames of one clip: another clip may differ by more than the interval")
    return found


def rare_classes(task: SegmentationData) -> list[str]:
    """Names of classes that some evaluation images hold, but too few for a resample to hold them surely."""
    labels = np.arange(task.num_classes)
    held = np.sum([np.isin(labels, np.unique(mask)) for mask in task.evaluation.masks], 0)
    return [name for label, name in enumerate(task.labels.names) if 0 < held[label] < SURE_IMAGES]


def _compared(task: SegmentationData, part: str) -> Part:
    """The images of a part, squashed, as near-duplicates are looked for."""
    scenes: Scenes = getattr(task, part)
    images = Tiles(scenes.image, scenes.sizes, Layout(COMPARED_SIZE, 1))
    return Part(images, name=file_name(f"{_cache_name(task.config, scenes, part)}-{COMPARED_SIZE}"))


run = Task("segmentation", Config, measure)

if __name__ == "__main__":
    run_as_command("segmentation")
