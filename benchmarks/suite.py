"""Every benchmark on every data set: `python -m benchmarks.suite --data cifar10/ camvid/ photo-digits --out runs/all`.

The data decide what is measured: labels (classification, retrieval), masks (segmentation), corresponding points
(matching). Each benchmark writes a folder of its own, and one report shows them all. Run the same command again to
continue: a result with the same options, weights and data is not measured again.
"""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from benchmarks.datasets import PHOTO_DIGITS
from benchmarks.datasets.scenes import LABELS
from benchmarks.encoders import load_encoder
from benchmarks.encoders.extract import file_name
from benchmarks.jobs import Job, run_once
from benchmarks.options import EncoderOptions, Head, HoldOut, MaskOptions, check_own
from benchmarks.report.write import BASELINES, write_report
from benchmarks.tasks.dense import correspondence, maps, segmentation
from benchmarks.tasks.generators import samples
from benchmarks.tasks.whole_images import classification, retrieval
from randar_features.baselines import is_installed, is_network
from randar_features.data import open_images, open_pairs
from randar_features.data.containers.layout import EVALUATION_SPLITS
from randar_features.data.pairs import ImageMask
from randar_features.options.command import run as run_command
from randar_features.options.parse import option, part
from randar_features.options.shared import Probe, VectorPooling
from randar_features.options.types import Count

BUILT_IN = {PHOTO_DIGITS: {"labels", "masks"}, "digits": {"points"}, "photographs": {"points"}}


DEFAULT_ENCODERS = (
    "pixels",
    "histogram",
    "codes",
    "latents",
    "randar-tiny",
    "randar-tiny-aligned",
    "randar-tiny?random",
    "timm:resnet18?random@64",
)
"""The bundled models, and what they have to beat: no training, tokens alone, untrained networks."""


@dataclass(frozen=True, kw_only=True)
class Settings(EncoderOptions, MaskOptions):
    """Run every benchmark on every data set, and write a report.

    Attributes:
        data: folders or Parquet files; "photo-digits" (labels and masks), "digits" and "photographs" (points) are
            built in. Masks in a folder whose name has a word that ends in "camvid" or "voc", such as PascalVOC2012,
            have the classes of that data set.
        preset: demo: few images of the built-in data, and samples of the model; other options override it.
        probe: probes of classification.
        pooling: how maps become vectors, for classification, one or several of mean, 1x1+2x2, mean+deviation, max,
            flat.
        single_layers: leave out the concatenation of all layers.
        head: head of segmentation.
        max_images: read only this many labelled images of each split, the first ones; none: all.
        iterations: iterations of segmentation's linear head.
        train_images: largest number of labelled images to train on, in proportion from each class; none: all.
        evaluation_images: labelled images to hold out if the data have only one split; none: a fifth.
        train_masks: largest number of images with masks to train on; none: all.
        evaluation_masks: largest number of images with masks to evaluate on; none: all.
        pairs: number of pairs of images for point matching; none: the default of that task.
        duplicates: search near-duplicates of the evaluation images in the training images, or in the gallery.
        hold_out: which images to hold out if the data have only one split. stratified: in proportion from each class;
            last: the last ones.
        resolution: show images with masks in tiles, at this shorter side in pixels; none: squash them to the input.
        samples: models whose samples are drawn.
        maps: images whose feature maps are drawn as colours: "photographs" (built in), folders, Parquet files.
    """

    data: tuple[str, ...] = ()
    preset: Literal["demo"] | None = None
    encoder: tuple[str, ...] = option("--encoders", default=DEFAULT_ENCODERS)
    probe: tuple[Probe, ...] = option("--probes", default=("logistic", "knn"))
    pooling: tuple[VectorPooling, ...] = ("mean",)
    single_layers: bool = False
    head: tuple[Head, ...] = option("--heads", default=("linear", "knn"))
    iterations: Count = 1000
    max_images: Count | None = option("--max-rows", default=None)
    train_images: Count | None = option("--train-rows", default=None)
    evaluation_images: Count | None = option("--evaluation-rows", default=None)
    train_masks: Count | None = None
    evaluation_masks: Count | None = None
    pairs: Count | None = None
    duplicates: bool = True
    hold_out: HoldOut = "stratified"
    resolution: Count | None = None
    samples: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data and self.preset is None:
            raise ValueError(f"give --data, folders or Parquet files or {', '.join(BUILT_IN)}; or --preset demo")
        check_own(self, {"iterations": ["linear"]}, self.head, "head")


PRESETS: dict[str, dict[str, Any]] = {
    "demo": {
        "data": ("photo-digits", "digits"),
        "encoder": (
            "pixels",
            "codes",
            "randar-tiny",
            "randar-tiny-aligned",
            "timm:resnet18?random@64",
            "efficientnet-lite0@64",
        ),
        "read": ("image",),
        "probe": ("logistic", "knn"),
        "head": ("knn",),
        "single_layers": True,
        "max_images": 300,
        "train_masks": 48,
        "evaluation_masks": 24,
        "pairs": 40,
        "duplicates": False,
        "samples": ("randar-tiny", "randar-tiny-aligned"),
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
    """The split to train on, None: all; and the one to evaluate on, None: images of the former are held out."""
    if data == PHOTO_DIGITS:
        return "train", "test"
    opened = _first_pair if "masks" in kinds_of(data) else open_images
    train, evaluation = _opens(opened, data, "train"), _opens(opened, data, *EVALUATION_SPLITS)
    return train and train[0], evaluation and evaluation[0]


def known_labels(data: str) -> str | None:
    """Which of `LABELS` masks have, by a word of their folder's name that ends so, as "PascalVOC2012"; else None."""
    name = Path(data).name.lower()
    return next((known for known in LABELS if re.search(rf"{known}(?![a-z])", name)), None)


def mask_classes(data: str, options: MaskOptions) -> dict[str, Any]:
    """What the masks of a data set hold: as its name says, else as the options say."""
    if known := known_labels(data):
        return {"labels": known, "num_classes": None, "ignore_index": None}
    return asdict(part(options, MaskOptions))


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


def options_of(kind: type, settings: object, **given: Any) -> Any:
    """Options of a task: those given, and of the others what `settings` has under the same name."""
    shared = {each.name: getattr(settings, each.name) for each in fields(kind) if hasattr(settings, each.name)}
    return kind(**{**shared, "out": None, **given})


def jobs(settings: Settings) -> Iterator[Job]:
    """All that is to be done, in order."""
    makers = {"labels": _labelled, "masks": _masked, "points": _matched}
    for data in settings.data:
        for kind in sorted(kinds_of(data)):
            yield from makers[kind](settings, data, name_of(data))
    for data in settings.maps:
        yield from _drawn(settings, data, None)
    for model in settings.samples:
        yield Job(f"samples/{file_name(model)}", options_of(samples.Config, settings, model=model), samples.run)


def probe_options(settings: object, data: str, **given: Any) -> classification.Config:
    """Options of classification, of the splits that the data have."""
    train, evaluation = splits_of(data)
    given |= {"evaluation_images": None} if evaluation else {}
    about = {"data": data, "train_split": train, "evaluation_split": evaluation}
    return options_of(classification.Config, settings, **about, **given)


def _labelled(settings: Settings, data: str, name: str) -> Iterator[Job]:
    options = probe_options(settings, data)
    yield Job(f"{name}/classification", options, classification.run)
    split = options.evaluation_split or options.train_split
    options = options_of(retrieval.Config, settings, data=data, split=split, pooling=("mean",))
    yield Job(f"{name}/retrieval", options, retrieval.run)


def _masked(settings: Settings, data: str, name: str) -> Iterator[Job]:
    train, evaluation = splits_of(data)
    given: dict[str, Any] = {"data": data, "train_split": train, "evaluation_split": evaluation}
    given |= {"train_images": settings.train_masks, "evaluation_images": settings.evaluation_masks}
    for head in settings.head:
        given["iterations"] = settings.iterations if head == "linear" else segmentation.Config.iterations
        options = options_of(segmentation.Config, settings, head=head, **mask_classes(data, settings), **given)
        yield Job(f"{name}/segmentation-{head}", options, segmentation.run)
    if data not in settings.maps:
        yield from _drawn(settings, data, evaluation)


def _drawn(settings: Settings, data: str, split: str | None) -> Iterator[Job]:
    """Feature maps of every model."""
    for encoder in settings.encoder:
        if not (encoder.partition(":")[0] in (*BASELINES, "features") or is_network(encoder)):
            options = options_of(maps.Config, settings, data=data, split=split, encoder=encoder, outputs=None)
            yield Job(f"{name_of(data)}/maps-{file_name(encoder)}", options, maps.run)


def _matched(settings: Settings, data: str, name: str) -> Iterator[Job]:
    options = options_of(correspondence.Config, settings, data=data, resolution=None)
    yield Job(f"{name}/correspondence", options, correspondence.run)


def run(settings: Settings, out: Path) -> Path:
    """Do what is not done yet, then write the report, whose path it gives.

    A benchmark that fails is named at the end, by an error, after all others have been done.
    """
    settings = with_preset(settings)
    weights = {name: load_encoder(name, **settings.loading).weights for name in settings.encoder}
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
    return run_command(command, Settings, arguments, program=program, also=(RuntimeError,))


if __name__ == "__main__":
    sys.exit(main())
