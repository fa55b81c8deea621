"""Features of collections that fit no memory, or that a killed run must not cost: into a store on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from randar_features.data import open_images
from randar_features.data.opening import MAX_PIXELS
from randar_features.data.stored_images import name_of, root_of
from randar_features.features.arguments import check_classes, check_numbers, check_pool
from randar_features.features.encode import encode as encode_images
from randar_features.features.spec import check_orders, model_specs
from randar_features.features.store import FeatureStore
from randar_features.features.store_writer import Content, write_store
from randar_features.hub import Model, load_model
from randar_features.precision import DType, check_dtype, format_of


def extract_to_store(
    images: Any,
    folder: str | Path,
    model: str | Model = "randar-tiny",
    *,
    layers: int | Iterable[int] | None = None,
    context: str | Sequence[str] | None = None,
    read: str | Sequence[str] = "image",
    norm: bool = False,
    orders: int | None = None,
    combine: str = "mean",
    seed: int = 0,
    classes: int | None = None,
    pool: str | None = "mean",
    store_dtype: str = "float16",
    append: bool = False,
    retry: bool = False,
    batch_size: int = 32,
    shard_rows: int | None = None,
    device: str | torch.device | None = None,
    dtype: DType = None,
    num_workers: int = 0,
    progress: bool = True,
    split: str | None = None,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> FeatureStore:
    """`extract_features` into a folder, of any number of images, in bounded memory.

    A killed extraction goes on where it was when it is called again; a finished one is given back. An image
    that cannot be read keeps its row, of NaN, and its reason in `status`. Under torchrun each process makes
    its own shards.

    Args:
        images, model, layers, norm, orders, combine, seed, device, dtype, num_workers, progress, split: as for
            `extract_features`.
        folder: where the store goes; it holds one store.
        context, read: one or several of each, None: the context that the model recommends; those that go together
            are read, all from one tokenization. Outputs are named "reverse/image/2".
        classes: one index for all images; None: the null class, so that no label leaks.
        pool: "mean" over locations, rows (D,); None: maps (G, G, D).
        store_dtype: "float16" or "float32", on disk.
        append: images that the store does not have, by content or path, are added; changed ones are read anew and moved
            ones renamed, with a warning that names them. An append that was killed goes on.
        retry: images that could not be read are read again.
        batch_size: images a forward pass.
        shard_rows: images a file, as memory must hold; None: 1024, or as many as make 64 MiB.

    Raises:
        ValueError: settings that do not fit the model; or a folder with the features of another model, of other
            settings, or of other images.
    """
    check_dtype(dtype)
    check_orders(orders, seed, combine)
    check_numbers(batch_size, num_workers)
    check_pool(pool)
    loaded, computing = load_model(model, device=device).fitted(dtype)
    specs = model_specs(
        loaded, layers=layers, context=context, read=read, norm=norm, orders=orders, seed=seed, combine=combine
    )
    own = check_classes(classes, loaded)
    if own is not None and not isinstance(own, int):
        raise ValueError("features on disk take classes=None or one index for all images: leave out `out` for others")

    def encode(pixels: Tensor) -> dict[str, Tensor]:
        maps = encode_images(loaded, pixels, specs, own, dtype)
        return {str(spec): values if pool is None else values.mean(dim=(1, 2)) for spec, values in maps.items()}

    given = {} if own is None else {"classes": own}
    source = open_images(images, split=split, value_range=value_range, max_pixels=max_pixels)
    content = Content(
        encoder=loaded.name,
        weights=loaded.weights_hash,
        outputs={str(spec): spec.details() | given for spec in specs},
        image_size=loaded.image_size,
        pooling=pool,
        dtype=store_dtype,
        compute_dtype=format_of(computing, loaded.dtype),
        value_range=source.reading.value_range,
    )
    return write_store(
        source,
        folder,
        encode,
        content,
        data=name_of(images, split),
        root=root_of(images, split),
        batch_size=batch_size,
        shard_rows=shard_rows,
        num_workers=num_workers,
        append=append,
        retry=retry,
        progress=progress,
    )
