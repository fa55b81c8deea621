"""Every benchmark on every data set: `python -m benchmarks.suite --data cifar10/ camvid/ photo-digits --out runs/all`.

What is measured on a data set follows from what it has: labels (classification, retrieval), masks (segmentation),
corresponding points (matching). Each benchmark writes a folder of its own, at the end all go into one report. Run the
same command again to continue: what is there with the same options, weights and data is not done again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from benchmarks.datasets import PHOTO_DIGITS
from benchmarks.datasets.scenes import LABELS
from benchmarks.encoders import load_encoder
from benchmarks.jobs import Job, run_once
from benchmarks.options import Context, Dtype, Read, RunOptions
from benchmarks.report.write import BASELINES, write_report
from benchmarks.tasks import classification, correspondence, maps, retrieval, samples, segmentation
from benchmarks.tasks.dense import file_name
from randar_features.baselines import is_installed, is_network
from randar_features.cli import parse
from randar_features.cli.parse import Count, Seed, option
from randar_features.data import open_images, open_pairs
from randar_features.data.pairs import ImageMask

EVALUATION_SPLITS = ("validation", "val", "test")
BUILT_IN = {PHOTO_DIGITS: {"labels", "masks"}, "digits": {"points"}, "photographs": {"points"}}


DEFAULT_ENCODERS = (
    "pixels",
    "histogram",
    "codes",
    "latents",
    "randar-tiny",
    "randar-tiny?random",
    "timm:resnet18?random@64",
)
"""The model, and what it has to beat: no training, its tokens alone, untrained networks."""


@dataclass(frozen=True, kw_only=True)
class Settings(RunOptions):
    """Every benchmark on every data set: what is measured, on what.

    Attributes:
        data: folders or Parquet files; "photo-digits" (labels and masks), "digits" and "photographs" (points) are
            built in.
        preset: demo: the built-in data with few images, and samples of the model; other options override it.
        encoder: names, as `load_encoder` takes them.
        context: of generators; None: all that they have.
        read: of generators; None: all that they have.
        probe: of classification.
        pooling: of maps to vectors, for classification.
        single_layers: leave out the concatenation of all layers in classification.
        head: of segmentation.
        max_images: labelled images that are read of each split at most, the first ones; None: all.
        iterations: of segmentation's linear head.
        train_images: labelled images to train on at most, stratified; None: all.
        evaluation_images: labelled images to hold back where the data has one split only; None: a fifth.
        train_masks, evaluation_masks: images with masks to train on and to evaluate on at most; None: all.
        pairs: pairs of images for point matching; None: as many as that task takes.
        duplicates: look for near-duplicates between what is trained on, or searched, and what is evaluated.
        hold_out: which images are evaluated on where the data has one split only.
        resolution: pixels of the shorter side of images with masks, shown in tiles; None: squashed.
        samples: models, as `load_model` takes them, whose samples are drawn.
        maps: images whose feature maps are drawn as colours: "photographs", which are built in, folders, Parquet files.
        batch_size: images that are encoded at once.
        device: that encodes; None: CUDA where there is one.
        dtype: number format that encoders compute in.
        cache: folder that keeps features.
        seed: of every random choice.
    """

    data: tuple[str, ...] = ()
    preset: Literal["demo"] | None = None
    encoder: tuple[str, ...] = option("--encoders", default=DEFAULT_ENCODERS)
    context: tuple[Context, ...] | None = option("--contexts", default=None)
    read: tuple[Read, ...] | None = option("--reads", default=None)
    probe: tuple[Literal["logistic", "linear", "knn", "few-shot", "attentive"], ...] = option(
        "--probes", default=("logistic", "knn")
    )
    pooling: tuple[str, ...] = ("mean",)
    single_layers: bool = False
    head: tuple[Literal["linear", "knn", "logistic"], ...] = option("--heads", default=("linear", "knn"))
    iterations: Count = 1000
    max_images: Count | None = option("--max-rows", default=None)
    train_images: Count | None = option("--train-rows", default=None)
    evaluation_images: Count | None = option("--evaluation-rows", default=None)
    train_masks: Count | None = None
    evaluation_masks: Count | None = None
    pairs: Count | None = None
    duplicates: bool = True
    hold_out: Literal["stratified", "last"] = "stratified"
    resolution: int | None = None
    samples: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    batch_size: Count = 32
    device: str | None = None
    dtype: Dtype = "float32"
    cache: str = "runs/features"
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data and self.preset is None:
            raise ValueError(f"give --data, folders or Parquet files or {', '.join(BUILT_IN)}; or --preset demo")


PRESETS: dict[str, dict[str, Any]] = {
    "demo": {
        "data": ("photo-digits", "digits"),
        "encoder": ("pixels", "codes", "randar-tiny", "timm:resnet18?random@64", "efficientnet-lite0@64"),
        "read": ("image",),
        "probe": ("logistic", "knn"),
        "head": ("knn",),
        "single_layers": True,
        "max_images": 300,
        "train_masks": 48,
        "evaluation_masks": 24,
        "pairs": 40,
        "duplicates": False,
        "samples": ("randar-tiny",),
        "maps": ("photographs",),
    }
}
"""What each preset sets, of the options that are at their defaults."""


def with_preset(settings: Settings) -> Settings:
    """The settings with those of their preset in the place of defaults."""
    if settings.preset is None:
        return settings
    defaults = {each.name: each.default for each in fields(settings)}
    changed: dict[str, Any] = {n: v for n, v in PRESETS[settings.preset].items() if getattr(settings, n) == defaults[n]}
    if "encoder" in changed:
        changed["encoder"] = tuple(name for name in changed["encoder"] if is_installed(name))
    return replace(settings, **changed)


def kinds_of(data: str) -> set[str]:
    """What a data set has: some of labels, masks and points.

    Raises:
        FileNotFoundError: no such folder or file.
    """
    if data in BUILT_IN:
        return BUILT_IN[data]
    if not Path(data).exists():
        raise FileNotFoundError(f"no data at {data}: expected a folder, a Parquet file, or {', '.join(BUILT_IN)}")
    if (Path(data) / "PairAnnotation").is_dir():
        return {"points"}
    return {"masks"} if _opens(_first_pair, data, "train", None) else {"labels"}


def splits_of(data: str) -> tuple[str | None, str | None]:
    """The split to train on, None: all; and the one to evaluate on, None: images of the former are held back."""
    if data == PHOTO_DIGITS:
        return "train", "test"
    opened = _first_pair if "masks" in kinds_of(data) else open_images
    train, evaluation = _opens(opened, data, "train"), _opens(opened, data, *EVALUATION_SPLITS)
    return train and train[0], evaluation and evaluation[0]


def known_labels(data: str) -> str | None:
    """Which of `LABELS` the masks of a data set have, by its name; None: not known."""
    return next((known for known in LABELS if known in Path(data).name.lower()), None)


def _first_pair(data: str, *, split: str | None) -> ImageMask:
    return open_pairs(data, split=split)[0]


def _opens(opened: Callable[..., object], data: str, *splits: str | None) -> tuple[str | None] | None:
    """The first of the splits that can be opened, None if none can be."""
    for split in splits:
        try:
            opened(data, split=split)
        except (ValueError, TypeError, KeyError, FileNotFoundError):
            continue
        return (split,)
    return None


def name_of(data: str) -> str:
    """The name of a data set, for its folder of results: of a path, its last part that is a name."""
    name = file_name(data if data in BUILT_IN else Path(data).resolve().name)
    return name.strip(".") or "data"


def jobs(settings: Settings) -> Iterator[Job]:
    """All that is to be done, in order."""
    for data in settings.data:
        name, kinds = name_of(data), kinds_of(data)
        makers: dict[str, Callable[[Settings, str], Iterator[tuple[str, Any, Callable]]]] = {
            "labels": _labelled,
            "masks": _masked,
            "points": _matched,
        }
        for kind in sorted(kinds):
            for task, config, run in makers[kind](settings, data):
                yield Job(f"{name}/{task}", config, run)
    for data in settings.maps:
        yield from (Job(f"{name_of(data)}/{task}", config, run) for task, config, run in _drawn(settings, data, None))
    for model in settings.samples:
        config = samples.Config(model=model, seed=settings.seed, device=settings.device)
        yield Job(f"samples/{file_name(model)}", config, samples.run)


def _shared(settings: Settings) -> dict[str, Any]:
    names = ("encoder", "context", "read", "seed", "cache", "batch_size", "device", "dtype")
    return {name: getattr(settings, name) for name in names}


def _labelled(settings: Settings, data: str) -> Iterator[tuple[str, Any, Callable]]:
    train, evaluation = splits_of(data)
    names = ("hold_out", "max_images", "duplicates", "train_images", "evaluation_images")
    heads = ("probe", "pooling", "single_layers")
    config = classification.Config(
        data=data,
        train_split=train,
        evaluation_split=evaluation,
        **{name: getattr(settings, name) for name in (*names, *heads)},
        **_shared(settings),
    )
    yield "classification", config, classification.run
    shared = {"max_images": settings.max_images, "duplicates": settings.duplicates, **_shared(settings)}
    yield "retrieval", retrieval.Config(data=data, split=evaluation or train, **shared), retrieval.run


def _masked(settings: Settings, data: str) -> Iterator[tuple[str, Any, Callable]]:
    train, evaluation = splits_of(data)
    shared: dict[str, Any] = {"data": data, "train_split": train, "evaluation_split": evaluation}
    names = ("duplicates", "resolution", "iterations")
    shared |= {"labels": known_labels(data), **{name: getattr(settings, name) for name in names}}
    shared |= {"train_images": settings.train_masks, "evaluation_images": settings.evaluation_masks}
    for head in settings.head:
        config = segmentation.Config(head=head, **shared, **_shared(settings))
        yield f"segmentation-{head}", config, segmentation.run
    if data not in settings.maps:
        yield from _drawn(settings, data, evaluation)


def _drawn(settings: Settings, data: str, split: str | None) -> Iterator[tuple[str, Any, Callable]]:
    """Feature maps of every model."""
    for encoder in settings.encoder:
        if not (encoder.partition(":")[0] in (*BASELINES, "features") or is_network(encoder)):
            about: dict[str, Any] = {"device": settings.device, "dtype": settings.dtype}
            config = maps.Config(data=data, split=split, encoder=encoder, **about)
            yield f"maps-{file_name(encoder)}", config, maps.run


def _matched(settings: Settings, data: str) -> Iterator[tuple[str, Any, Callable]]:
    yield (
        "correspondence",
        correspondence.Config(data=data, pairs=settings.pairs, **_shared(settings)),
        correspondence.run,
    )


def run(settings: Settings, out: Path) -> Path:
    """Do what is not done yet, then write the report, whose path it gives.

    A benchmark that fails is named at the end, by an error, after all others have been done.
    """
    settings = with_preset(settings)
    views: dict[str, Any] = {"contexts": settings.context, "reads": settings.read, "device": settings.device}
    weights = {name: load_encoder(name, **views).weights for name in settings.encoder}
    planned, failures = list(jobs(settings)), []
    if twice := sorted({job.name for job in planned if [other.name for other in planned].count(job.name) > 1}):
        raise ValueError(f"two data sets or encoders have one name, and would share {', '.join(twice)}: rename one")
    for job in tqdm(planned, desc="suite", unit="benchmark"):
        try:
            run_once(job, out / job.name, weights)
        except Exception as error:  # whatever it is, the others are still worth doing
            failures.append(f"{job.name}: {type(error).__name__}: {error}")
            tqdm.write(f"{job.name} FAILED: {error}")
    report = write_report([out], out / "report.html", "Benchmarks") if len(failures) < len(planned) else None
    if report is None or failures:
        raise RuntimeError(f"{len(failures)} of {len(planned)} benchmarks failed:\n" + "\n".join(failures))
    return report


def command(settings: Settings) -> None:
    """Run, and say where the report is."""
    print(run(settings, settings.out or Path("runs") / (settings.preset or "suite")))


def main(arguments: Sequence[str] | None = None, program: str = "python -m benchmarks.suite") -> int:
    """Read the options, run, and return the exit status."""
    return parse.run(command, Settings, arguments, program=program, also=(RuntimeError,))


if __name__ == "__main__":
    sys.exit(main())
