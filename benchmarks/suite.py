"""Every benchmark on every data set: `python -m benchmarks.suite --data cifar10/ camvid/ photo-digits --out runs/all`.

What a data set is asked for follows from what it has: labels (classification, retrieval), masks (segmentation),
corresponding points (matching). Each benchmark writes a folder of its own, at the end all go into one report. Run the
same command again to continue: what is there with the same options, weights and data is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from benchmarks.datasets import PHOTO_DIGITS
from benchmarks.datasets.scenes import LABELS
from benchmarks.encoders import load_encoder
from benchmarks.jobs import Job, run_once
from benchmarks.options import from_command_line
from benchmarks.report.write import BASELINES, write_report
from benchmarks.tasks import classification, correspondence, maps, retrieval, segmentation
from benchmarks.tasks.dense import file_name
from randar_features.command_line import run_command
from randar_features.data import open_images, open_pairs
from randar_features.data.pairs import ImageMask

EVALUATION_SPLITS = ("validation", "val", "test")
BUILT_IN = {PHOTO_DIGITS: {"labels", "masks"}, "digits": {"points"}, "photographs": {"points"}}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured, on what.

    Attributes:
        data: folders or Parquet files; "photo-digits" (labels and masks), "digits" and "photographs" (points) are
            built in.
        encoders: names, as `load_encoder` takes them.
        contexts, reads: of generators; None: all that they have.
        probes: of `benchmarks.classification`.
        pooling: of maps to vectors, for classification.
        heads: of `benchmarks.segmentation`.
        max_rows: labelled images that are read of each split at most, the first ones; None: all.
        iterations: of segmentation's linear head.
        train_rows: labelled images to train on at most, stratified; None: all.
        evaluation_rows: labelled images to hold back where the data has one split only.
        duplicates: look for near-duplicates between what is trained on, or searched, and what is evaluated.
        hold_out: "last" or "stratified": which rows are evaluated on where the data has one split only.
        resolution: pixels of the shorter side of images with masks, shown in tiles; None: squashed.
        cache: folder that keeps features.
        seed: of every random choice.
    """

    data: tuple[str, ...]
    encoders: tuple[str, ...] = ("pixels", "histogram", "codes", "latents", "randar-tiny")
    contexts: tuple[str, ...] | None = None
    reads: tuple[str, ...] | None = None
    probes: tuple[str, ...] = ("logistic", "knn")
    pooling: tuple[str, ...] = ("mean",)
    heads: tuple[str, ...] = ("linear", "knn")
    iterations: int = 1000
    max_rows: int | None = None
    train_rows: int | None = None
    evaluation_rows: int = 5000
    duplicates: bool = True
    hold_out: str = "stratified"
    resolution: int | None = None
    cache: str = "runs/features"
    seed: int = 0


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
    """The split to train on, None: all; and the one to evaluate on, None: rows of the former are held back."""
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


def jobs(settings: Settings) -> Iterator[Job]:
    """All that is to be done, in order."""
    for data in settings.data:
        name, kinds = Path(data).name, kinds_of(data)
        makers: dict[str, Callable[[Settings, str], Iterator[tuple[str, Any, Callable]]]] = {
            "labels": _labelled,
            "masks": _masked,
            "points": _matched,
        }
        for kind in sorted(kinds):
            for task, config, run in makers[kind](settings, data):
                yield Job(f"{name}/{task}", config, run)


def _shared(settings: Settings) -> dict[str, Any]:
    return {
        "encoder": settings.encoders,
        "contexts": settings.contexts,
        "reads": settings.reads,
        "seed": settings.seed,
        "cache": settings.cache,
    }


def _labelled(settings: Settings, data: str) -> Iterator[tuple[str, Any, Callable]]:
    train, evaluation = splits_of(data)
    config = classification.Config(
        data=data,
        train_split=train,
        evaluation_split=evaluation,
        hold_out=settings.hold_out,
        max_rows=settings.max_rows,
        duplicates=settings.duplicates,
        train_rows=settings.train_rows,
        evaluation_rows=settings.evaluation_rows,
        probe=settings.probes,
        pooling=settings.pooling,
        **_shared(settings),
    )
    yield "classification", config, classification.run
    searched = retrieval.Config(data=data, split=evaluation or train, max_rows=settings.max_rows, **_shared(settings))
    yield "retrieval", searched, retrieval.run


def _masked(settings: Settings, data: str) -> Iterator[tuple[str, Any, Callable]]:
    train, evaluation = splits_of(data)
    shared: dict[str, Any] = {"data": data, "train_split": train, "evaluation_split": evaluation}
    shared |= {"labels": known_labels(data), "duplicates": settings.duplicates}
    shared |= {"resolution": settings.resolution, "iterations": settings.iterations}
    for head in settings.heads:
        config = segmentation.Config(head=head, **shared, **_shared(settings))
        yield f"segmentation-{head}", config, segmentation.run
    for encoder in settings.encoders:
        if encoder.partition(":")[0] not in BASELINES:
            yield f"maps-{file_name(encoder)}", maps.Config(data=data, split=evaluation, encoder=encoder), maps.run


def _matched(settings: Settings, data: str) -> Iterator[tuple[str, Any, Callable]]:
    config = correspondence.Config(data=data, **_shared(settings))
    yield "correspondence", config, correspondence.run


def run(settings: Settings, out: Path) -> Path:
    """Do what is not done yet, then write the report, whose path it gives.

    A benchmark that fails is named at the end, by an error, after all others have been done.
    """
    views: dict[str, Any] = {"contexts": settings.contexts, "reads": settings.reads}
    weights = {name: load_encoder(name, **views).weights for name in settings.encoders}
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


def main() -> None:
    """Parse, run, say where the report is."""
    settings, out = from_command_line(Settings, __doc__, Path("runs/suite"))
    print(run(settings, out))


if __name__ == "__main__":
    run_command(main, RuntimeError)
