"""Indexes of feature stores: which features an index is of, and queries encoded the same way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.encoders import Encoder, load_encoder
from probes.index import Blocks, IndexFilesError, VectorIndex, build_index, choose_settings
from probes.pooling import pool
from randar_features.data.images import OK, ImageSource
from randar_features.encoding.store import FeatureStore

ENCODING = ("encoder", "weights", "image_size")


def describe_features(store: FeatureStore, output: str) -> dict[str, Any]:
    """What the vectors of one output of a store are: an index is refused for all others.

    ValueError: the store holds maps, not vectors.
    """
    store.shape(output)
    if store.manifest["pooling"] is None:
        raise ValueError(
            f"{store.folder} holds maps, and an index needs one vector an image: extract the features pooled, "
            "for example with --pool mean"
        )
    about = {name: store.manifest[name] for name in (*ENCODING, "pooling")}
    return about | _details(output, store.manifest["outputs"][output])


def warn_of_classes(features: Mapping[str, Any]) -> None:
    """Print a warning if these features, as `describe_features` tells of them, were made with the class given."""
    if (classes := features.get("classes")) is not None:
        print(
            f"warning: class-informed features: the encoder was given the class (classes={classes!r}), so that "
            "neighbours of one class may be near by their label, not by what is seen"
        )


def describe_encoding(encoder: Encoder, output: str, pooling: str) -> dict[str, Any]:
    """The same of what an encoder would give."""
    encoder.choose([output])
    about = {"encoder": encoder.name, "weights": encoder.weights, "image_size": encoder.image_size}
    return about | {"pooling": pooling} | _details(output, encoder.outputs[output])


def _details(output: str, details: Mapping[str, Any]) -> dict[str, Any]:
    """Only what is set: an encoder that never heard of a detail gives the same as one that leaves it off."""
    return {
        "output": output,
        **{name: value for name, value in details.items() if value is not None and value is not False},
    }


def index_stores(
    stores: Sequence[FeatureStore],
    output: str,
    folder: Path,
    *,
    kind: str = "auto",
    normalization: str = "unit",
    memory_limit: int | None = None,
    threads: int = 1,
    checkpoint_rows: int | None = None,
    progress: bool = True,
    **sizes: Any,
) -> VectorIndex:
    """An index of one output of one or several stores, one after the other; `sizes` as `choose_settings` takes them.

    With more stores, or more rows in the last, than the index in `folder` has, these are added to it.

    Raises:
        ValueError: the stores hold different features; else as `build_index`.
    """
    features = describe_features(stores[0], output)
    for store in stores[1:]:
        if (other := describe_features(store, output)) != features:
            raise ValueError(f"{store.folder} holds {other}, {stores[0].folder} {features}: one index, one kind")
    count, (dim,) = sum(map(len, stores)), stores[0].shape(output)
    settings = choose_settings(count, dim, kind=kind, normalization=normalization, **sizes)
    names = stores[0].label_names
    build_index(
        blocks_of_stores(stores, output),
        count,
        folder,
        settings=settings,
        features=features | {"label_names": names},
        columns={
            "path": [path for store in stores for path in store.paths],
            "label": [int(label) for store in stores for label in store.labels],
        },
        memory_limit=memory_limit,
        threads=threads,
        checkpoint_rows=checkpoint_rows,
        progress=progress,
    )
    return VectorIndex(folder, features=features, verify=False)


def blocks_of_stores(stores: Sequence[FeatureStore], output: str) -> Blocks:
    """The rows of several stores as if they were one."""

    def blocks(size: int) -> Iterator[tuple[int, np.ndarray]]:
        first = 0
        for store in stores:
            for start, block in store.blocks(output, size):
                yield first + start, block
            first += len(store)

    return blocks


def encoder_of(index: VectorIndex, name: str | None = None, device: str | None = None) -> Encoder:
    """The encoder that an index is of; `name`: where its model is now, if it has moved.

    Raises:
        IndexFilesError: what the encoder gives are not the features that the index is of.
    """
    features = index.features
    encoder = load_encoder(name or features["encoder"], orders=features.get("orders"), device=device)
    if encoder.weights == features["weights"] and name is not None:
        encoder.name = features["encoder"]  # a model may be called by its name or by its folder
    if features["output"] not in encoder.outputs:
        raise IndexFilesError(
            f"the index {index.folder} is of {features['output']!r}, which {encoder.name} does not have: "
            f"its outputs are {', '.join(encoder.outputs)}"
        )
    index.check_features(describe_encoding(encoder, features["output"], features["pooling"]))
    return encoder


def encode_images(
    encoder: Encoder, index: VectorIndex, source: ImageSource, batch_size: int = 32
) -> tuple[Tensor, list[str | None], list[str]]:
    """Features (n, D) of the images that could be read, their paths, and why others could not, in words."""
    output, pooling = index.features["output"], index.features["pooling"]
    found: list[Tensor] = []
    paths: list[str | None] = []
    unreadable: list[str] = []
    for batch in source.batches(encoder.image_size, batch_size):
        ok = [row for row, status in enumerate(batch.status) if status == OK]
        unreadable += [f"{batch.paths[row]}: {status}" for row, status in enumerate(batch.status) if status != OK]
        if ok:
            found.append(pool(encoder.encode(batch.pixels[ok], [output])[output], pooling).cpu())
            paths += [batch.paths[row] for row in ok]
    return torch.cat(found) if found else torch.empty(0, index.settings.dim), paths, unreadable


def images_of_rows(source: ImageSource, rows: Iterable[int], image_size: int) -> dict[int, np.ndarray]:
    """The pictures of some rows, uint8 (S, S, 3), by row; those that cannot be read are left out."""
    wanted = sorted(set(map(int, rows)))
    batches = source.batches(image_size, 1, rows=(range(row, row + 1) for row in wanted))
    return {
        row: (255 * batch.pixels[0]).round().byte().permute(1, 2, 0).numpy()
        for row, batch in zip(wanted, batches, strict=False)
        if batch.status[0] == OK
    }
