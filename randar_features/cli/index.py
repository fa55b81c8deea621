"""`randar index`: an index of a collection of images, which `randar search` searches."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from probes.index import in_words, process_memory
from randar_features import build_index
from randar_features.cli.extract import name_unreadable
from randar_features.data.stored_images import check_apart
from randar_features.features import model_specs
from randar_features.features.store import FeatureStore, is_store
from randar_features.options.command import run
from randar_features.options.parse import option, positional
from randar_features.options.shared import (
    DeviceOptions,
    ImageOptions,
    Normalization,
    VectorPooling,
    check_no_images,
    one_or_several,
)
from randar_features.options.types import Count, Seed
from randar_features.retrieval.build import FEATURES_FOLDER, as_there, check_options, check_room

UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
SIZES = ("components", "M", "efConstruction", "nlist", "code_bytes", "training_rows", "block_rows", "seed")


@dataclass(frozen=True, kw_only=True)
class IndexOptions(DeviceOptions, ImageOptions):
    """Index images, or the features of stores that `randar extract` wrote, for `randar search`.

    It first computes the memory that the index needs, and stops if there is not enough. If it was killed, run it again:
    it continues at its last checkpoint. It adds new images and stores; an image that moved gets its new path. An index
    that is there keeps its kind and sizes.

    Attributes:
        data: stores of features, or images: a folder, files, Parquet files or a tar.
        out: folder of the index.
        encoder: for images: a model, or an encoder of the benchmarks: pixels, codes:MODEL, timm:NAME, timm:NAME=FILE,
            timm:hf-hub:OWNER/NAME, MODULE:FACTORY, features:FILE (.npy or .parquet); none: randar-tiny.
        orders: average over this many random orders; none: one raster order.
        pooling: how maps become vectors.
        features: folder to keep the features of the images in; none: OUT/features.
        spec: which feature, such as reverse/image/2; none: what the model recommends, or the only one of a store.
        kind: kind of index; auto: that of the index that is there, else chosen by the number of images.
        normalization: what is done to vectors before cosines; auto: chosen by the labels.
        memory_limit: memory that this process may use, a number with its unit, such as 4GB; none: what is available.
        threads: number of threads; with more than one, an hnsw index differs from run to run.
        checkpoint_rows: images between two checkpoints; none: a tenth of all.
        components: for whitened, number of principal axes; none: half of D.
        M: for hnsw, neighbours of each vector in the graph; none: 32.
        efConstruction: for hnsw, candidates for each new vector; none: 64.
        nlist: for ivfpq, number of lists; none: about 2·√n.
        code_bytes: for ivfpq, bytes of each vector; none: about D/4.
        training_rows: images in the sample that the index is trained on; none: 65536, or for ivfpq 40 for each list,
            at least 10240.
        block_rows: images added at once; none: 16384.
        seed: seed of the sample, the centroids and the graph; none: 0.
    """

    data: tuple[str, ...] = positional()
    out: Path
    encoder: str | None = option("--model", default=None)
    orders: Count | None = None
    pooling: VectorPooling = "mean"
    features: Path | None = None
    spec: str | None = None
    kind: Literal["auto", "flat", "hnsw", "ivfpq"] = "auto"
    normalization: Normalization = "unit"
    memory_limit: str | None = None
    threads: Count = 1
    checkpoint_rows: Count | None = None
    components: Count | None = None
    M: Count | None = None
    efConstruction: Count | None = None
    nlist: Count | None = None
    code_bytes: Count | None = None
    training_rows: Count | None = None
    block_rows: Count | None = None
    seed: Seed | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self.kind, self.normalization, self.pooling, self.sizes)
        _ = self.memory_bytes

    @property
    def memory_bytes(self) -> int | None:
        """The memory limit in bytes."""
        return None if self.memory_limit is None else memory(self.memory_limit)

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes of the index that were given."""
        return {name: value for name in SIZES if (value := getattr(self, name)) is not None}


def index(options: IndexOptions) -> None:
    """Build the index or add to it, and say what it took."""
    from benchmarks.tasks.whole_images.feature_index import warn_of_classes

    start = time.perf_counter()
    as_there(options.out, options.kind, options.normalization, options.sizes)
    stores = stores_of(options)
    built = build_index(
        stores,
        options.out,
        options.spec,
        options.kind,
        pooling=options.pooling,
        normalization=options.normalization,
        memory_limit=options.memory_bytes,
        threads=options.threads,
        checkpoint_rows=options.checkpoint_rows,
        **options.sizes,
    )
    taken = time.perf_counter() - start
    about = [f"{name} {value}" for name, value in built.features.items() if name not in ("label_names", "source")]
    print(f"{built}\n  features: {', '.join(about)}")
    warn_of_classes(built.features)
    left_out = len(built.vectors.left_out)
    print(f"  {taken:.1f} s, {in_words(process_memory(peak=True))} at its peak, {left_out} images left out")
    sizes = built.vectors.bytes_per_vector
    print(f"  bytes a vector: {sizes['memory']:.0f} in memory, {sizes['disk']:.0f} on disk")
    for store in stores:
        name_unreadable(store, limit=1.0)


def stores_of(options: IndexOptions) -> list[FeatureStore]:
    """The stores that were given, or one with the features of the images."""
    are_stores = [is_store(name) for name in options.data]
    if all(are_stores):
        check_no_images(options, ("encoder", "features", "split", "value_range", "orders"), options.data[0])
        return [FeatureStore(name) for name in options.data]
    if any(are_stores):
        raise ValueError(f"give stores of features or images, not both: got {', '.join(options.data)}")
    return [extracted(options, one_or_several(options.data))]


def extracted(options: IndexOptions, data: Any) -> FeatureStore:
    """The features of the images, in OUT/features; those that are there are not computed again."""
    from benchmarks.encoders import DEFAULT_MODEL, add_to_store, load_encoder

    check_apart(data, options.out, options.split)
    encoder = load_encoder(options.encoder or DEFAULT_MODEL, orders=options.orders, device=options.device)
    about: dict[str, Any] = {"folder": options.out, "pooling": options.pooling, "memory_limit": options.memory_bytes}
    about |= {"kind": options.kind, "normalization": options.normalization}
    return add_to_store(
        encoder,
        data,
        options.features or options.out / FEATURES_FOLDER,
        [options.spec or recommended_output(encoder)],
        split=options.split,
        pooling=options.pooling,
        reading=options.reading,
        check=partial(check_room, **about, **options.sizes),
        batch_size=options.batch_size,
        num_workers=options.num_workers,
    )


def recommended_output(encoder: Any) -> str:
    """A model's image tokens at its recommended layer and context; another encoder's pooled or last features."""
    from benchmarks.encoders.generators import GeneratorEncoder

    if isinstance(encoder, GeneratorEncoder):
        return str(model_specs(encoder.model, orders=encoder.orders)[0])
    if "pooled" in encoder.outputs:
        return "pooled"
    layers = [output for output, details in encoder.outputs.items() if details["layer"] is not None]
    return layers[-1] if layers else next(iter(encoder.outputs))


def memory(text: str) -> int:
    """Bytes from "4GB", "512 MB", "2e9"."""
    number = text.strip().lower().removesuffix("b").strip()
    factor = UNITS.get(number[-1:], 1)
    try:
        return int(float(number.rstrip("kmgt")) * factor)
    except ValueError:
        raise ValueError(f"--memory-limit: expected bytes, such as 4GB or 512MB, got {text!r}") from None


main = partial(run, index, IndexOptions, program="randar index")
