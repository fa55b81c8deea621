"""Building an index of images, or of a table of features."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probes import KNNProbe
from probes.index import (
    KINDS,
    NORMALIZATIONS,
    check_continued,
    choose_settings,
    require_memory,
    settings_there,
)
from probes.index import build_index as build_vectors
from probes.index.settings import LEAST
from probes.inputs import check_counts
from probes.pooling import POOLINGS, pool
from randar_features.data.decode.opening import MAX_PIXELS
from randar_features.data.stored_images import check_apart
from randar_features.features import FeatureSpec, FeatureTable, model_specs
from randar_features.features.extract import Extraction
from randar_features.features.store import EncodedImages, FeatureStore, is_store
from randar_features.features.table import table_of
from randar_features.hub import Model, load_model
from randar_features.retrieval.search import Index
from randar_features.retrieval.tables import Vectors, as_vectors
from randar_features.store.files import path_to_write

FEATURES_FOLDER = "features"
TUNING_IMAGES = 5000
AUTO = "auto"
KIND_OF = {"M": "hnsw", "efConstruction": "hnsw", "nlist": "ivfpq", "code_bytes": "ivfpq"}
"""The kind of index that a size is of."""


def build_index(
    data: Any,
    folder: str | Path,
    spec: str | None = None,
    kind: str | None = None,
    *,
    model: str | Model = "randar-tiny",
    pooling: str = "mean",
    normalization: str = "unit",
    split: str | None = None,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
    memory_limit: int | None = None,
    threads: int = 1,
    checkpoint_rows: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = torch.float32,
    progress: bool = True,
    **sizes: Any,
) -> Index:
    """Index images, or the features of a table, in `folder`, and open the index.

    Call it again with more images to add them, or to continue after a kill. Images that cannot be read keep their
    numbers and are never found.

    Args:
        data: images in any form; or a table of features, its folder, or several tables of the same features.
        folder: of the index; created if needed. FOLDER/features keeps those of images: only new ones are encoded.
        spec: the feature, such as "reverse/image/2"; None: the only one of a table, or what the model recommends.
        kind: "flat" (exact), "hnsw" or "ivfpq"; None: that of the index that is there, else by the number of images,
            see `probes.index.choose_settings`.
        model: for images: a name, a folder, or a loaded model. Without effect on a table, which has its features.
        pooling: how maps become vectors, one of `probes.pooling.POOLINGS`.
        normalization: what is done to vectors before cosines: "unit", "standardized" or "whitened" (with
            `components=`), with the statistics of the indexed images; "auto": whichever classifies a part of the
            labelled images best by their neighbours.
        split: which split of the images, such as "train".
        value_range, max_pixels, batch_size, num_workers, device, dtype, progress: as in `extract_to_store`. Queries are
            read in the same range.
        memory_limit: bytes that this process may use; None: what the machine has available.
        threads, checkpoint_rows: as in `probes.index.build_index`.
        seed: seed of all random choices.
        sizes: `components`, `M`, `efConstruction`, `nlist`, `code_bytes`, `training_rows`, `block_rows`, in faiss's
            words, as `probes.index.choose_settings` takes them. Where the number of images chooses the kind, a size of
            another kind has no effect.

    Raises:
        ValueError, TypeError: unknown choices or sizes, before any image is encoded; maps or specs that do not fit.
        IndexFilesError: the folder holds an index of other features, or of images that have changed since; or
            another process is building there.
        IndexMemoryError: the index would take more memory than there is, which is known before images are encoded
            unless they are a stream.
    """
    check_options(kind, normalization, pooling, sizes)
    sizes = whole_numbers(sizes | {"seed": seed})
    check_counts(threads=threads)
    limits = whole_numbers({"memory_limit": memory_limit, "threads": threads, "checkpoint_rows": checkpoint_rows})
    folder = path_to_write(folder)
    kind, normalization, sizes = as_there(folder, kind, normalization, sizes)
    tables = _tables(data)
    if tables is None:
        wanted = {"pooling": pooling, "kind": kind, "normalization": normalization, **sizes}
        check = partial(check_room, folder=folder, memory_limit=limits["memory_limit"], **wanted)
        options: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "device": device}
        options |= {"dtype": dtype, "progress": progress, "split": split}
        options |= {"value_range": value_range, "max_pixels": max_pixels}
        store = _extract(data, folder / FEATURES_FOLDER, model, spec, pooling, check, options)
        tables, spec = [table_of(store)], None
    elif split is not None or value_range is not None:
        raise ValueError("split and value_range are for images, and data are tables of features: leave them out")
    vectors = as_vectors(tables, spec, pooling)
    if normalization == AUTO:
        normalization, sizes["components"] = _best_normalization(vectors, sizes["seed"])
    settings = choose_settings(len(vectors), vectors.dim, kind=kind, normalization=normalization, **sizes)
    build_vectors(
        vectors.blocks,
        len(vectors),
        folder,
        settings=settings,
        features={**vectors.about, "label_names": vectors.label_names, "source": vectors.source()},
        columns=vectors.columns(),
        progress=progress,
        **limits,
    )
    return Index(folder, verify=False)


def check_options(kind: str | None, normalization: str, pooling: str, sizes: dict[str, Any]) -> None:
    """Refuse what no index has before anything is encoded."""
    choices = {"kind": (kind, (None, AUTO, *KINDS)), "normalization": (normalization, (*NORMALIZATIONS, AUTO))}
    choices["pooling"] = (pooling, POOLINGS)
    for name, (value, expected) in choices.items():
        if value not in expected:
            raise ValueError(f"{name} must be one of {', '.join(map(str, expected))}, got {value!r}")
    known = set(inspect.signature(choose_settings).parameters) - {"count", "dim", "kind", "normalization"}
    if unknown := sorted(set(sizes) - known):
        raise TypeError(
            f"build_index has no option {', '.join(unknown)}: sizes of an index are {', '.join(sorted(known))}"
        )
    if sizes.get("components") is not None and normalization != "whitened":
        raise ValueError(f"components are for normalization whitened, got {sizes['components']} for {normalization}")
    for name, own in KIND_OF.items():
        if sizes.get(name) is not None and kind not in (None, AUTO, own):
            raise ValueError(f"{name} is for an index of kind {own}, got {sizes[name]} for {kind}: leave it out")


def as_there(
    folder: Path, kind: str | None, normalization: str, sizes: dict[str, Any]
) -> tuple[str | None, str, dict[str, Any]]:
    """The kind, the normalization and the sizes for `folder`: an index that is there gives what is not stated.

    Raises:
        IndexFilesError: something else is stated than the index has.
    """
    there = settings_there(folder)
    if there is None:
        return kind, normalization, sizes
    wanted = {"kind": None if kind == AUTO else kind, "normalization": None if normalization == AUTO else normalization}
    wanted |= {
        name: sizes.get(name) for name in ("components", *(size for size, of in KIND_OF.items() if of == there.kind))
    }
    check_continued(folder, there, {name: value for name, value in wanted.items() if value is not None})
    return there.kind, there.normalization, sizes | {"components": there.components or None}


def check_room(
    images: EncodedImages,
    *,
    folder: Path,
    pooling: str,
    kind: str | None,
    normalization: str,
    memory_limit: int | None,
    **sizes: Any,
) -> None:
    """Refuse an index of too many images for the memory, or sizes that do not fit, before they are encoded.

    Of a stream the number of images is not known before; an index that is there has its sizes.
    """
    if images.length is None or (folder / "manifest.json").exists():
        return
    (values,) = images.of_black.values()
    dim = (values if values.ndim == 2 else pool(values, pooling)).shape[1]
    measured = "unit" if normalization == AUTO else normalization
    settings = choose_settings(images.length, dim, kind=kind, normalization=measured, **sizes)
    require_memory(settings, images.length, memory_limit)


def whole_numbers(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers as Python's; ValueError for the first that is not whole, or too small for what its name says."""
    for name, value in numbers.items():
        least, whole = LEAST.get(name, 1), isinstance(value, Integral) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least):
            raise ValueError(f"{name} must be a whole number from {least} on, or None, got {value!r}")
    return {name: value if value is None else int(value) for name, value in numbers.items()}


def _tables(data: Any) -> list[FeatureTable] | None:
    """The tables that `data` is; None where it is images."""
    several = list(data) if isinstance(data, list | tuple) and len(data) else [data]
    stores = [FeatureStore(one) if is_store(one) else one for one in several]
    tables = [table_of(one) if isinstance(one, FeatureStore) else one for one in stores]
    if all(isinstance(one, FeatureTable) for one in tables):
        return tables
    if any(isinstance(one, FeatureTable) for one in tables):
        raise ValueError("data must be images or tables of features, got some of each")
    return None


def _extract(
    images: Any,
    folder: Path,
    model: str | Model,
    spec: str | None,
    pooling: str,
    check: Callable[[EncodedImages], None],
    options: dict[str, Any],
) -> FeatureStore:
    """The feature of all images, unless `check` refuses; those that the folder has already are not encoded again."""

    def checked(*given: Any, **reading: Any) -> EncodedImages:
        encoded = EncodedImages(*given, **reading)
        check(encoded)
        return encoded

    check_apart(images, folder.parent, options["split"])
    loaded = load_model(model, device=options["device"])
    chosen = model_specs(loaded)[0] if spec is None else FeatureSpec.parse(spec)
    return Extraction(
        model=loaded,
        store_dtype="float16",
        layers=chosen.layer,
        context=chosen.context,
        read=chosen.read,
        norm=chosen.norm,
        orders=chosen.orders,
        seed=chosen.seed,
        combine=chosen.combine,
        pool="mean" if pooling == "mean" else None,
        append=(folder / "manifest.json").exists(),
        **options,
    ).to_store(images, folder, checked)


def _best_normalization(vectors: Vectors, seed: int) -> tuple[str, int | None]:
    """The normalization, and its components, by which neighbours tell the class best.

    ValueError: too few labelled images to choose by.
    """
    labelled: Sequence[int] | np.ndarray = np.flatnonzero(vectors.labels >= 0)
    chosen = np.sort(np.random.default_rng(seed).permutation(labelled)[:TUNING_IMAGES])
    parts = [
        block[chosen[(chosen >= start) & (chosen < start + len(block))] - start]
        for start, block in vectors.blocks(4096)
    ]
    rows = np.concatenate(parts)
    usable = np.isfinite(rows).all(1)
    labels = vectors.labels[chosen][usable]
    if len(np.unique(labels)) < 2 or np.bincount(labels).max() < 3:
        raise ValueError("normalization auto is chosen by labels, and there are too few: give unit or whitened")
    probe = KNNProbe(k=min(20, max(1, len(labels) // 4)), normalization=AUTO, seed=seed).fit(rows[usable], labels)
    return probe.chosen_normalization, probe.chosen_components
