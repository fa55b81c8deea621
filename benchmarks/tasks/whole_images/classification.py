"""Probes of frozen features: `python -m benchmarks.classification --data FOLDER --encoder pixels codes randar-tiny`.

Every output of every encoder (layer, context, read), in every pooling, is classified by each probe. Options
of the heads are chosen on a tenth of the training images, and each head sees the evaluation images once. These
are a split of the data, or held out from it. All encoders get the same images, so that differences are paired.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from benchmarks.comparisons import differences_of
from benchmarks.encoders import Encoder, load_encoders
from benchmarks.encoders.stored import StoredEncoder
from benchmarks.options import EncoderOptions, check_own
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.tasks.whole_images.classification_probes import OF_PROBES, ProbeOptions, Scored, Training, score
from benchmarks.tasks.whole_images.labelled import (
    Candidate,
    LabelledData,
    LabelledFeatures,
    Split,
    check_labels,
    labelled_features,
    save_predictions,
)
from probes import paired_interval
from randar_features.features.store import FeatureStore, is_store
from randar_features.options.parse import option
from randar_features.options.shared import Probe, VectorPooling, check_no_images, given
from randar_features.precision import name_of

PROTOCOL = (
    "classification of frozen features by the probe that each row names: logistic regression, C of 45 values; linear "
    "head by SGD, learning rate of 13 values; 20 nearest neighbours by cosine, weighted, temperature 0.07, ties by "
    "lowest id; few-shot logistic regression; attentive pooling"
)
OF_IMAGES = ("train_split", "evaluation_split", "max_images", "value_range", "context", "read", "orders")
INTERVAL = "percentile bootstrap over evaluation images; of few-shot probes over draws as well"


@dataclass(frozen=True, kw_only=True)
class Config(LabelledData, EncoderOptions, ProbeOptions):
    """Probes of frozen features: every layer, context and read of every encoder is classified.

    Attributes:
        data: labelled images: "photo-digits", a folder of class folders, or Parquet files; or a store of their
            features, instead of the encoders.
        pooling: how maps become vectors, one or several of mean, 1x1+2x2, mean+deviation, max, flat.
        single_layers: leave out the concatenation of all layers.
        probe: one or several of logistic, linear, knn, few-shot, attentive.
        attentive_outputs: features on a grid that the attentive probe is trained on; none: for each encoder the one
            with the best tuning accuracy by the other probes, or all if there are no other probes.
    """

    encoder: tuple[str, ...] = option("--encoders", default=("pixels", "codes", "randar-tiny"))
    pooling: tuple[VectorPooling, ...] = ("mean",)
    single_layers: bool = False
    probe: tuple[Probe, ...] = option("--probes", default=("logistic",))
    attentive_outputs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_own(self, OF_PROBES, self.probe, "probe")
        if given(self, ["buffer_rows"]) and not self.on_disk:
            raise ValueError(f"--buffer-rows {self.buffer_rows} is for --on-disk: give that, or leave it out")
        if self.normalization == "batch" and {"logistic", "few-shot"} & {*self.probe}:
            raise ValueError("--normalization batch is for --probe linear: use standardize or none")

    def encoders(self) -> Iterator[Encoder]:
        """The encoders that are named, each loaded when its turn comes; for a store of features, the one that made it.

        Raises:
            ValueError: splits are named, or ways to encode, or another number format, for a store, which has its own.
        """
        if not is_store(self.data):
            yield from load_encoders(self.encoder, **self.loading)
            return
        stored = StoredEncoder(FeatureStore(self.data))
        check_no_images(self, OF_IMAGES, self.data)
        computed = name_of(stored.dtype)
        if self.dtype != computed:
            raise ValueError(f"the features in {self.data} were computed in {computed}: state --dtype {computed}")
        yield stored


def evaluate(encoder: Encoder, config: Config) -> tuple[list[Scored], LabelledFeatures]:
    """Every probe on every output and pooling; and the features, which know the labels."""
    features = [labelled_features(encoder, config, pooling, config.chosen(encoder)) for pooling in config.pooling]
    candidates = [c for each in features for c in each.candidates(joined=not config.single_layers)]
    labels = features[0].train.labels, features[0].evaluation.labels
    training = Training(
        train_labels=labels[0], labels=labels[1], options=config, seed=config.seed, on_disk=config.on_disk
    )
    found: list[Scored] = []
    for probe in config.probe:
        trained_on = maps_of(encoder, config, found) if probe == "attentive" else candidates
        for scored in score(probe, trained_on, training):
            row = scored.row
            words = f"{row['encoder']}, {row['output']}, {row['pooling'] or 'maps'}, {probe}, {row['settings']}"
            tqdm.write(f"{100 * row['accuracy']:5.1f} %  {words}")
            found.append(scored)
    return found, features[0]


def maps_of(encoder: Encoder, config: Config, found: Sequence[Scored]) -> list[Candidate]:
    """What the attentive probe is trained on: maps, of outputs that have a grid."""
    try:
        on_grid = encoder.grids()
    except ValueError:  # the other encoders may have one
        tqdm.write(f"{encoder.name} has no grid: the attentive probe is left out")
        return []
    wanted = [name for name in config.attentive_outputs or config.chosen(encoder) or on_grid if name in on_grid]
    others = [scored.row for scored in found if scored.row["output"] in wanted]
    if others and config.attentive_outputs is None:
        wanted = [max(others, key=lambda row: row["tuning"])["output"]]
    if not wanted:
        return []
    return list(labelled_features(encoder, config, None, wanted).candidates(joined=False))


def measure(config: Config, out: Path) -> Measurement:
    """Every encoder; predictions and curves over depth are written to `out`."""
    if not is_store(config.data):
        check_labels(config)
    scored: list[Scored] = []
    weights: dict[str, str] = {}
    warnings: list[str] = []
    evaluated: Split | None = None
    for encoder in config.encoders():
        found, features = evaluate(encoder, config)
        if evaluated is not None and not evaluated.same(features.evaluation):
            first = scored[0].row["encoder"]
            raise ValueError(f"{encoder.name} was given other evaluation images than {first}: run it on its own")
        evaluated, warnings = features.evaluation, [*warnings, *features.unreadable()]
        scored, weights = scored + found, weights | {encoder.name: encoder.described_weights}
    if evaluated is None or not scored:
        raise ValueError(f"nothing was measured: {', '.join(config.probe)} needs maps on a grid")
    rows = [each.row for each in scored]
    artifacts = save_predictions(out, [each.predictions for each in scored], evaluated.labels, features.label_names)
    compared = differences_of(
        rows, lambda one, other: paired_interval(scored[one].hits, scored[other].hits, seed=config.seed)
    )
    return Measurement(
        protocol=PROTOCOL,
        results=rows,
        axes={"threshold_basis": None, "selection": config.selection()},
        data=config.data_parts(),
        weights=weights,
        interval=INTERVAL,
        warnings=[*warnings, *features.duplicates(config)],
        artifacts=artifacts,
        differences=compared,
    )


run = Task("classification", Config, measure)

if __name__ == "__main__":
    run_as_command("classification")
