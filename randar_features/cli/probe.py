"""`randar probe`: how well features tell classes apart, on held-out images."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from randar_features.cli.index import recommended_output
from randar_features.features.store import FeatureStore, is_store
from randar_features.options.command import run
from randar_features.options.parse import option, positional
from randar_features.options.shared import (
    DeviceOptions,
    DType,
    ImageOptions,
    Probe,
    VectorPooling,
    check_no_images,
    fields_of,
)
from randar_features.options.types import Count, Seed
from randar_features.precision import name_of

if TYPE_CHECKING:
    from benchmarks.tasks.whole_images.classification import Config

DEFAULT_ENCODER = "randar-tiny"
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(DeviceOptions, ImageOptions):
    """Train a probe on the features of labelled images, and evaluate it on a held-out fifth of them.

    DATA is a folder of class folders, other labelled images, or a store that `randar extract` wrote. The command writes
    result.json with its card, tables and predictions into OUT. `randar bench classification` has more options and
    compares encoders.

      randar probe FOLDER --encoder randar-tiny --probe logistic

    Attributes:
        data: labelled images, or a store of their features.
        out: folder of the result.
        encoder: a model, or pixels, histogram, codes:MODEL, latents:MODEL, timm:NAME; none: randar-tiny, or the
            encoder of the store.
        spec: one or several features, such as reverse/image/2; all: every one; none: what the model recommends, or
            all that the store holds.
        probe: one or several heads.
        pooling: how maps become vectors.
        evaluation_split: split of the data to evaluate on; none: hold out images of the training split.
        evaluation_images: number of images to hold out, in proportion from each class; none: a fifth.
        duplicates: search near-duplicates of the held-out images, and warn of them.
        dtype: number format of the encoder; none: float32, or the format of the store.
        cache: folder that keeps features.
        seed: seed of the choice of held-out images and of the head.
    """

    data: str = positional()
    out: Path = Path("runs/probe")
    encoder: str | None = option("--model", default=None)
    spec: tuple[str, ...] | None = None
    probe: tuple[Probe, ...] = ("logistic",)
    pooling: VectorPooling = "mean"
    evaluation_split: str | None = None
    evaluation_images: Count | None = None
    duplicates: bool = True
    dtype: DType | None = None
    cache: str = "runs/features"
    seed: Seed = 0


def probe(options: ProbeOptions) -> None:
    """Measure, and print the accuracies and where the result lies."""
    from benchmarks.result import read_result
    from benchmarks.tasks.whole_images.classification import run as classification

    path = classification(configured(options), options.out)
    result = read_result(path)
    for row in result["results"]:
        bounds = " to ".join(f"{100 * end:.1f}" for end in row.get("interval", ())) or "–"
        words = f"{row['encoder']}, {row['output']}, {row['probe']}"
        print(f"accuracy {100 * row['accuracy']:.1f} % (95 % interval {bounds}): {words}")
    for warning in result["card"]["warnings"]:
        print(f"note: {warning}")
    print("\n".join(str(file) for file in sorted(path.parent.iterdir()) if file.is_file()))


def configured(options: ProbeOptions) -> "Config":
    """The options of the benchmark that measures it.

    Raises:
        ValueError: an encoder is named for a store of features, which knows its own, or how images are read.
    """
    from benchmarks.encoders.stored import StoredEncoder
    from benchmarks.tasks.whole_images.classification import Config

    stored = FeatureStore(options.data) if is_store(options.data) else None
    if stored is not None:
        check_no_images(options, ("encoder", "split", "value_range"), options.data)
    encoder = options.encoder or DEFAULT_ENCODER
    held: dict[str, Any] = {"dtype": options.dtype or "float32"}
    if stored is not None:
        held = {"dtype": options.dtype or name_of(StoredEncoder(stored).dtype), "store_dtype": stored.manifest["dtype"]}
    return Config(
        encoder=(encoder,),
        outputs=specs_of(options, encoder, stored),
        single_layers=True,
        pooling=(pooling_of(options, stored),),
        train_split=options.split,
        **fields_of(options, but=("out", "encoder", "spec", "pooling", "split", "dtype")),
        **held,
    )


def specs_of(options: ProbeOptions, encoder: str, stored: FeatureStore | None) -> tuple[str, ...] | None:
    """The features to measure; None: all."""
    if options.spec == (ALL,) or (options.spec is None and stored is not None):
        return None
    if options.spec is not None:
        return options.spec
    from benchmarks.encoders import load_encoder

    return (recommended_output(load_encoder(encoder, device=options.device)),)


def pooling_of(options: ProbeOptions, stored: FeatureStore | None) -> VectorPooling:
    """The pooling that is stated; for a store of vectors, the one that made them."""
    held = None if stored is None else stored.manifest["pooling"]
    return options.pooling if held is None or options.pooling != "mean" else held


main = partial(run, probe, ProbeOptions, program="randar probe")
