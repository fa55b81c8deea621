"""How good samples are: `randar bench generation --reference VIRTUAL_imagenet256_labeled.npz --network inception`.

FID, sFID, Inception Score, precision, recall, density, coverage and kernel distance of a model's samples, or of a
folder, an .npz in ADM's form or a file of features, against a training set or its statistics. With several scales of
`--guidance`, and several `--steps` and `--orders`, it is a search: every setting on `--coarse-images` samples, the best
scale of each order and number of steps on `--images`. Run it again to continue; what is drawn and what is encoded is
not done again. Over several GPUs or processes: `torchrun --nproc-per-node 8 -m benchmarks generation …`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.datasets.image_npz import IMAGES, write_npz
from benchmarks.encoders import extract, load_encoder, unreadable
from benchmarks.encoders.judges import Judge, same_classes
from benchmarks.result import NO_AXES, Result
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.tasks.generators.judged_sets import (
    JudgedSet,
    JudgeOptions,
    arrays_in,
    described,
    few,
    is_feature_file,
    is_statistics,
    judged,
    measures,
    open_set,
    processes,
    protocol_of,
    read_feature_set,
    read_statistics,
    save_statistics,
    size_of,
    top_1,
)
from benchmarks.tasks.generators.sampler import (
    GuidanceSchedule,
    Labels,
    Setting,
    class_labels,
    draw,
    guidance_at,
    scales_of,
    speed_of,
)
from probes import LogisticProbe
from probes.rows import Rows, SelectedRows, sharded_rows
from randar_features import Model, load_model
from randar_features.data.containers.layout import split_role
from randar_features.features.store import FeatureStore
from randar_features.generation.load import load_for_decoding
from randar_features.generation.recipe import recipe_of
from randar_features.models.base import context_of
from randar_features.options.parse import flag, option
from randar_features.options.shared import Order, WeightsDType, given
from randar_features.options.types import Count, Natural, Positive, Share
from randar_features.store.files import write_bytes

COARSE, FULL = "coarse", "full"
TOP_1 = "top-1"
OF_MODELS = (
    "model", "coarse_images", "labels", "guidance", "guidance_schedule", "steps", "order", "temperature", "top_k",
    "top_p", "weights_dtype", "probe_data", "probe_split", "probe_images", "npz",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(JudgeOptions):
    """How good a model's samples are, or images that were made elsewhere.

    Attributes:
        reference: a training set, as images (a folder, a data set, an .npz in ADM's form) or as statistics (an .npz
            with mu and sigma); or a file of features (.npy, .parquet) if the samples are one too.
        reference_split: split of the reference.
        reference_images: largest number of images of the reference, evenly spread; none: all.
        model: the model that draws the samples: its name, a folder that training wrote, or owner/name on the Hub.
        samples: images to measure instead of samples of the model: a folder, a data set, an .npz in ADM's form, or a
            file of features.
        samples_split: split of the images of --samples.
        images: number of samples to draw; with --samples, the largest number to take of them, evenly spread.
        coarse_images: samples of each setting in the first round of a search; the best scales are measured again on all
            images; none: every setting is measured on all.
        labels: classes of the samples: balanced, one class after the other; uniform, at random as ADM, LlamaGen and
            RandAR do.
        guidance: scales: FIRST:LAST:STEP such as 1.0:8.0:0.5, or several scales; none: the recommended one.
        guidance_schedule: linear: the scale grows to its value; constant: every token has it; none: as published with
            the model.
        steps: numbers of decoding steps; -1: one token in each step; none: the recommended number.
        order: orders of the tokens; none: the order of the model's training.
        temperature: temperature of the sampling; near 0 it is greedy.
        top_k: sample among this many of the most likely codes; 0: all; 1: greedy.
        top_p: sample among the most likely codes with this total probability.
        weights_dtype: number format of the model that draws.
        probe_data: labelled images to fit a probe on the model's own features, which then classifies the samples;
            none: no probe.
        probe_split: split of the images of --probe-data.
        probe_images: largest number of images of --probe-data, evenly spread.
        npz: write the samples of each full setting as an .npz in ADM's form.
        save_statistics: file for mu and sigma of the reference, for use as a reference later.
    """

    reference: str
    reference_split: str | None = None
    reference_images: Count | None = None
    model: str = "randar-tiny"
    samples: str | None = None
    samples_split: str | None = None
    images: Count = 50_000
    coarse_images: Count | None = None
    labels: Labels = "balanced"
    guidance: tuple[str, ...] | None = None
    guidance_schedule: GuidanceSchedule | None = None
    steps: tuple[int, ...] | None = None
    order: tuple[Order, ...] | None = option("--orders", default=None)
    temperature: Positive = 1.0
    top_k: Natural = 0
    top_p: Share = 1.0
    weights_dtype: WeightsDType = "float32"
    probe_data: str | None = None
    probe_split: str | None = None
    probe_images: Count = 10_000
    npz: bool = False
    save_statistics: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for text in self.guidance or ():
            scales_of(text)
        if is_feature_file(self.samples) != is_feature_file(self.reference) and not (
            is_feature_file(self.samples) and is_statistics(self.reference)
        ):
            raise ValueError(
                "a file of features is compared with a file of features, or both are images; "
                f"got --samples {self.samples} and --reference {self.reference}"
            )
        if self.coarse_images is not None and self.coarse_images > self.images:
            raise ValueError(f"--coarse-images {self.coarse_images} is more than --images {self.images}")
        if self.samples is not None and (named := given(self, OF_MODELS)):
            raise ValueError(f"{flag(named[0])} is for samples of a model, and --samples are given: leave one out")
        for whole, parts in {"samples": ("samples_split",), "probe_data": ("probe_split", "probe_images")}.items():
            if getattr(self, whole) is None and (named := given(self, parts)):
                raise ValueError(f"{flag(named[0])} is for {flag(whole)}: give that too")
        if self.save_statistics is not None and (is_statistics(self.reference) or is_feature_file(self.reference)):
            raise ValueError(
                f"--save-statistics is for a reference of images, got --reference {self.reference}: leave one out"
            )

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of `generate` that all settings share."""
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}


def measure(config: Config, out: Path) -> Measurement:
    """A result for given samples; of a model one for each setting."""
    processes()  # each takes its own GPU
    return measure_model(config, out) if config.samples is None else measure_samples(config, config.samples)


def measure_samples(config: Config, samples: str) -> Measurement:
    """One result for samples that were made elsewhere; which network made features in a file is not known."""
    judge: Judge | None = None
    if is_feature_file(samples):
        given = is_statistics(config.reference)
        real = read_statistics(config.reference, None, "generation") if given else read_feature_set(config.reference)
        fake, warnings = read_feature_set(samples), list[str]()
        data = {"reference": described(config.reference, None, None), "samples": described(samples, None, None)}
    else:
        about = config.samples_split, config.images, config.cache, config.reading
        source = open_set(samples, *about, size=config.resolution or 64)  # photo-digits needs one: see size_of
        judge = config.judge(config.resolution or size_of(source, samples))
        real, fake = reference_of(config, judge), judged(judge, source, config, f"samples {samples} {len(source)}")
        warnings = warnings_of(config, real, fake)
        data = {"reference": described(config.reference, config.reference_split, config.reference_images)}
        data |= {"samples": described(samples, config.samples_split, config.images)}
    row = {"images": fake.moments.count, **measured(real, fake, judge, config)}
    return Measurement(
        protocol=protocol_of(judge, config),
        axes={**NO_AXES, "encoder": samples, "resolution": None if judge is None else judge.image_size},
        data=data,
        weights={} if judge is None else {judge.name: judge.described_weights},
        results=[Result.of(main_first(row))],
        warnings=[*warnings, *few(fake.moments.count or 0, len(fake.moments.mean))],
    )


def measure_model(config: Config, out: Path) -> Measurement:
    """A result for every setting; in a search, all settings on few samples, then the best on all."""
    model, _ = load_for_decoding(config.model, config.device, config.weights_dtype)
    judge = config.judge(config.resolution or model.image_size)
    settings = list(settings_of(config, model))
    real, probe = reference_of(config, judge), own_probe(config, model)
    study = Study(config, model, judge, real, probe)
    searched = config.coarse_images is not None and len(settings) > len({(s.order, s.steps) for s in settings})
    coarse = [study.row(setting, config.coarse_images or 0, COARSE) for setting in settings] if searched else []
    chosen = best_scales(settings, coarse, judge) if searched else settings
    full = [study.row(setting, config.images, FULL) for setting in chosen]
    add_comparisons(full, judge, clock_of(model))
    if config.npz and processes().is_main_process:
        for setting in chosen:
            files, classes = study.samples(setting, config.images)
            images = (np.asarray(Image.open(file)) for file in files)
            write_npz(out / f"{setting.folder}.npz", images, len(files), classes)
    details: dict[str, Any] = {f"reference {TOP_1}": top_1(real, judge)}
    if probe is not None:
        details["probe, validation accuracy"] = probe.accuracy
    artifacts = write_plots(out, coarse, full, judge, clock_of(model)) if processes().is_main_process else {}
    shared = {**NO_AXES, "encoder": model.name, "resolution": judge.image_size}
    return Measurement(
        protocol=f"{config.labels} labels, image i of seed {config.seed} + i; {protocol_of(judge, config)}",
        axes={name: value for name, value in shared.items() if name != "orders"},
        data={"reference": described(config.reference, config.reference_split, config.reference_images)},
        weights={model.name: model.weights_hash, judge.name: judge.described_weights},
        results=[Result.of(main_first(row)) for row in (*full, *coarse)],
        warnings=[
            *warnings_of(config, real),
            *warnings_of_count(config, model, real),
            *(probe.warnings if probe else ()),
        ],
        artifacts=artifacts,
        details=details,
    )


def settings_of(config: Config, model: Model) -> Iterator[Setting]:
    """Every order with every number of steps and every scale; ValueError for what the model cannot do."""
    transformer = model.transformer
    own = recipe_of(transformer).guidance
    recommended = own[1] if isinstance(own, tuple) else own
    scales = [recommended] if config.guidance is None else [s for text in config.guidance for s in scales_of(text)]
    if transformer.fixed_order and config.order is not None:
        raise ValueError(f"{model.name} knows one order only: leave --orders out")
    orders = [None] if transformer.fixed_order else config.order or [transformer.trained_order]
    for order, steps, scale in product(orders, config.steps or [model.recommended_steps], dict.fromkeys(scales)):
        setting = Setting(order, steps, scale, guidance_at(scale, config.guidance_schedule, transformer))
        setting.length(transformer)  # refuses steps that the model cannot take
        yield setting


def reference_of(config: Config, judge: Judge) -> JudgedSet:
    """The reference as the network sees it; of a file with both, statistics and images."""
    given = None
    if is_statistics(config.reference):
        given = read_statistics(config.reference, judge, "generation")
        if IMAGES not in arrays_in(config.reference):
            return given
    about = config.reference_split, config.reference_images, config.cache, config.reading
    source = open_set(config.reference, *about, size=judge.image_size)
    name = f"reference {config.reference} {config.reference_split or 'all'} {config.reference_images or 'all'}"
    found = judged(judge, source, config, name)
    if config.save_statistics is not None and processes().is_main_process:
        save_statistics(config.save_statistics, found, judge, "generation")
    return found if given is None else replace(found, moments=given.moments, spatial=given.spatial)


@dataclass(frozen=True, eq=False)
class OwnProbe:
    """A logistic probe of a model's own features.

    Attributes:
        model, output: whose features, and which of them.
        config: how images are read, and where features are kept.
        probe: fitted.
        classes: the model's class of each of the probe's.
        accuracy: on images held out from those it was fitted on.
        warnings: of images that could not be read.
    """

    model: Model
    config: Config
    output: str
    probe: LogisticProbe
    classes: np.ndarray
    accuracy: float
    warnings: list[str]

    def top_1(self, files: Sequence[Path], labels: np.ndarray, name: str) -> float:
        """Share of the samples that the probe takes for their class."""
        features, _ = own_features(self.model, self.config, files, name, self.output)
        return float((self.classes[self.probe.predict(features)] == labels).mean())


def own_features(model: Model, config: Config, images: Any, name: str, output: str) -> tuple[Rows, FeatureStore]:
    """The model's features of the images that can be read, of the output, mean-pooled; and the store that has all."""
    context, read, _ = output.split("/")
    encoder = load_encoder(model, contexts=[context], reads=[read], device=config.device)
    about: dict[str, Any] = {"batch_size": config.batch_size, "dtype": "float32", "outputs": [output]}
    store = extract(encoder, images, folder=config.cache, name=name, **about)
    return SelectedRows(sharded_rows(store.rows(output)), np.flatnonzero(store.ok)), store


def own_probe(config: Config, model: Model) -> OwnProbe | None:
    """Fitted on the data given for it."""
    if config.probe_data is None:
        return None
    plain = load_model(config.model, config.device)
    context = context_of(plain.transformer, None, "image")
    output = f"{context}/image/{plain.recommended_layers[0]}"
    about = config.probe_split, config.probe_images, config.cache, config.reading
    source = open_set(config.probe_data, *about, size=model.image_size)
    names = source.label_names
    if not names or not plain.classes or (known := same_classes(names, plain.classes)).min() < 0:
        raise ValueError(f"--probe-data {config.probe_data} must have the classes of {model.name} by name")
    features, store = own_features(plain, config, source, f"probe {config.probe_data} {len(source)}", output)
    labels = store.labels[store.ok]
    if (labels < 0).any():
        raise ValueError(f"{(labels < 0).sum()} images of --probe-data {config.probe_data} have no label")
    held = np.arange(len(labels)) % 5 == 0
    values = features.read(np.arange(len(held)))
    probe = LogisticProbe(seed=config.seed).fit(values[~held], labels[~held])
    accuracy = float((probe.predict(values[held]) == labels[held]).mean())
    return OwnProbe(plain, config, output, probe, known, accuracy, unreadable(store))


@dataclass(frozen=True, eq=False)
class Study:
    """What all settings of a model share."""

    config: Config
    model: Model
    judge: Judge
    real: JudgedSet
    probe: OwnProbe | None

    def samples(self, setting: Setting, count: int) -> tuple[list[Path], np.ndarray]:
        """Files and classes of the first samples of a setting, drawn where they are not there."""
        config, model = self.config, self.model
        classes = class_labels(config.labels, count, model.transformer.config.num_classes, config.seed)
        about: dict[str, Any] = {"settings": config.sampling, "notes": {"number_format": config.weights_dtype}}
        about |= {"seed": config.seed, "batch_size": config.batch_size}
        return draw(model, setting, classes, self.folder(setting), **about), classes

    def folder(self, setting: Setting) -> Path:
        """Where the samples of a setting lie, whatever their labels and number."""
        sampling = "".join(f"_{name}-{value:g}" for name, value in self.config.sampling.items())
        home = Path(self.config.cache) / "samples" / f"{Path(self.model.name).name}-{self.model.weights_hash[:12]}"
        home = home if self.config.weights_dtype == "float32" else home / self.config.weights_dtype
        return home / f"{setting.folder}{sampling}"

    def row(self, setting: Setting, count: int, stage: str) -> dict[str, Any]:
        """One result: the setting, what was measured, and the time."""
        files, classes = self.samples(setting, count)
        name = f"{self.folder(setting).name}-{self.config.labels}-{self.config.seed}-{count}"
        name = name if self.config.weights_dtype == "float32" else f"{name}-{self.config.weights_dtype}"
        fake = judged(self.judge, files, self.config, name, labels=classes, class_names=self.model.classes)
        row: dict[str, Any] = {"orders": setting.order, "stage": stage, "steps": setting.length(self.model.transformer)}
        row |= {"guidance": setting.scale, "images": count, **measured(self.real, fake, self.judge, self.config)}
        if self.probe is not None:
            row[f"{TOP_1} own probe"] = self.probe.top_1(files, classes, name)
        return row | speed_of(self.folder(setting)) | {"guidance schedule": str(setting.guidance)}


def measured(real: JudgedSet, fake: JudgedSet, judge: Judge | None, config: Config) -> dict[str, Any]:
    """The measures, and how often the network, where it is known, sees the class that was meant."""
    found: dict[str, Any] = measures(real, fake, judge, config)
    if judge is not None and (share := top_1(fake, judge)) is not None:
        found[f"{TOP_1} {judge.title}"] = share
    return found


def main_first(row: Mapping[str, Any]) -> dict[str, Any]:
    """The Fréchet distance first, which makes it the main metric."""
    main = next(name for name in row if name.startswith(("FID", "FD-")))
    return {main: row[main], **row}


def best_scales(settings: Sequence[Setting], rows: Sequence[Mapping[str, Any]], judge: Judge) -> list[Setting]:
    """The scale of the smallest Fréchet distance, of each order and number of steps."""
    found: dict[Any, list[tuple[float, Setting]]] = {}
    for setting, row in zip(settings, rows, strict=True):
        found.setdefault((setting.order, setting.steps), []).append((row[judge.named("FID")], setting))
    return [min(each, key=lambda pair: pair[0])[1] for each in found.values()]


def clock_of(model: Model) -> str:
    """Seconds of the clock on a GPU; on a CPU, which other work may share, of processor time."""
    return "cpu_seconds_per_image" if model.device.type == "cpu" else "seconds_per_image"


def add_comparisons(rows: Sequence[dict[str, Any]], judge: Judge, clock: str) -> None:
    """How far each setting stands from the most steps of its order, and whether none is both faster and better."""
    name = judge.named("FID")
    for row in rows:
        longest = max((other for other in rows if other["orders"] == row["orders"]), key=lambda other: other["steps"])
        row[f"{name} above {longest['steps']} steps"] = row[name] - longest[name]
        better = [other for other in rows if other[name] < row[name] and other[clock] <= row[clock]]
        row["front"] = "no" if better else "yes"


def write_plots(
    out: Path, coarse: Sequence[Mapping[str, Any]], full: Sequence[Mapping[str, Any]], judge: Judge, clock: str
) -> dict[str, str]:
    """Distance and IS against the scale; distance against steps and against time."""
    from benchmarks.report.charts import curves  # takes the extra "benchmarks"

    plots: dict[str, tuple[Sequence[Mapping[str, Any]], str, str]] = {}
    distance, score = judge.named("FID"), judge.named("IS")
    scaled = coarse or full
    if len({row["guidance"] for row in scaled}) > 1:
        plots["distance-guidance"] = scaled, "guidance", distance
        if score in scaled[0]:
            plots["score-guidance"] = scaled, "guidance", score
    if len({row["steps"] for row in full}) > 1:
        plots["distance-steps"] = full, "steps", distance
        plots["distance-seconds"] = full, clock, distance
    files = {}
    for name, (rows, x, y) in plots.items():
        panels = {"": lines_of(rows, x, y)}
        write_bytes(out / f"{name}.png", curves(panels, x_label=x.replace("_", " "), y_label=y, shares=False))
        files[f"{y} against {x.replace('_', ' ')}"] = f"{name}.png"
    return files


def lines_of(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> dict[str, list[tuple[float, float, None]]]:
    """Sorted points of each order; against the scale of each number of steps, else of each scale if all are there."""
    lines: dict[str, list[tuple[float, float, None]]] = {}
    every_scale = len(rows) > len({(row["orders"], row["steps"]) for row in rows})
    for row in rows:
        name = row["orders"] or "own order"
        if x == "guidance":
            name += f", {row['steps']} steps"
        elif every_scale:
            name += f", scale {row['guidance']:g}"
        lines.setdefault(name, []).append((row[x], row[y], None))
    return {name: sorted(points) for name, points in lines.items()}


def warnings_of(config: Config, real: JudgedSet, fake: JudgedSet | None = None) -> list[str]:
    """What a reader must know of the sets."""
    found = [*real.warnings, *(fake.warnings if fake is not None else ())]
    if split_role(config.reference_split or "") in ("validation", "test"):
        found.append(
            f"the reference is the {config.reference_split} split: published numbers are against the training set, "
            "and are not comparable"
        )
    if real.features is None:
        found.append("the reference is statistics alone: there is no precision, recall, density, coverage and KID")
    return found


def warnings_of_count(config: Config, model: Model, real: JudgedSet) -> list[str]:
    """Warnings: too few samples, or classes with more samples than others."""
    found = few(config.images, len(real.moments.mean))
    if config.coarse_images is not None:
        found.append(f"coarse results are of {config.coarse_images} samples: compare them among each other only")
    if config.labels == "balanced" and config.images % model.transformer.config.num_classes:
        found.append(f"{config.images} samples are not as many of each class: some classes have one more")
    return found


run = Task("generation", Config, measure)

if __name__ == "__main__":
    run_as_command("generation")
