"""Features of whole collections of images, with one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from randar_features.data import ImageBatch, ImageError, ImageSource, open_images
from randar_features.data.images import OK
from randar_features.data.labels import match_classes
from randar_features.data.opening import MAX_PIXELS
from randar_features.features.arguments import check_classes, check_numbers, check_pool
from randar_features.features.encode import encode
from randar_features.features.spec import FeatureSpec, check_orders, model_specs
from randar_features.features.table import FeatureTable, open_table
from randar_features.features.to_store import extract_to_store
from randar_features.hub import Model, load_model
from randar_features.precision import DType, check_dtype, name_of

_POSITIONS_PER_BATCH = 32768  # sequence positions that one forward pass handles where batch_size is None


@torch.no_grad()
def extract_features(
    images: Any,
    model: str | Model = "randar-tiny",
    *,
    layers: int | Iterable[int] | None = None,
    context: str | Sequence[str] | None = None,
    read: str | Sequence[str] = "image",
    orders: int | None = None,
    norm: bool = False,
    classes: str | int | Sequence[int] | Tensor | None = None,
    combine: str = "mean",
    seed: int = 0,
    pool: str | None = None,
    out: str | Path | None = None,
    append: bool = False,
    store_dtype: str = "float32",
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: DType = None,
    num_workers: int = 0,
    progress: bool = True,
    split: str | None = None,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> FeatureTable:
    """Bidirectional features of images, whatever form they are in.

    Args:
        images: paths, a folder, Parquet files, Pillow images, uint8 arrays (H, W, 3), float tensors
            (B, 3, H, W) in [0, 1], a torch Dataset or DataLoader, a `datasets.Dataset`. Each is cut to a
            square and brought to the model's size (`data.adm_center_crop`).
        model: a name (`list_models()`), a folder, or a loaded model.
        layers: block indices from 0, negative from the end; None: the model's recommended ones.
        context: "single" (a causal pass), "repeat" or "reverse" (the image shown twice, read at the second copy), one
            or several; None: "reverse", or "repeat" where the model knows one order only.
        read: at the "image" tokens, or what else the model has, see `encode_tokens`; one or several.
        orders: None: the model's own order (raster but for PAR); K: K seeded random orders in antithetic pairs.
        norm: apply the model's final norm.
        classes: None: the null class, so that no label leaks; "labels": the model's class of the same name as each
            image's own, which every image must have; an index for all, or one for each image.
        combine: "mean" of the K orders, or "concatenate" them along D.
        seed: of the K orders.
        pool: None: keep the maps; "mean": keep only their mean over locations.
        out: a folder: the table is written there, for any number of images in bounded memory; a killed extraction
            goes on where it was when it is called again. None: it is kept in memory.
        append: images that the table in `out` does not have yet, by content or path, are added.
        store_dtype: "float32" or "float16", format of the features in `out`.
        batch_size: images a forward pass; None: as many as fit some 32 thousand sequence positions, with `out` 32.
        device: None: CUDA where there is one.
        dtype: what the model computes in: "float32", "bfloat16", "float16", the torch dtype of that name, or "auto",
            the fastest of this machine; None: the format of the weights, float32 unless `load_model` was told
            another, or of the caller's autocast.
        num_workers: processes that decode images.
        progress: show a bar.
        split: which split of Parquet files.
        value_range: the values that are black and white, of pictures of more than 8 bits, such as (0, 4095); None: the
            range of their number type.
        max_pixels: a larger picture counts as one that cannot be read.

    Returns:
        A table, in memory or on disk, with one entry an image. An image that cannot be read keeps its place: NaN, and
        the reason in `status`.

    Raises:
        ValueError, IndexError, TypeError: settings that do not fit the model, or something that is no image.
        ImageError: not one image could be read.
    """
    check_dtype(dtype)
    check_orders(orders, seed, combine)
    check_numbers(batch_size, num_workers)
    check_pool(pool)
    if out is not None:
        extract_to_store(
            images,
            out,
            model,
            layers=layers,
            context=context,
            read=read,
            norm=norm,
            orders=orders,
            combine=combine,
            seed=seed,
            classes=classes,  # type: ignore[arg-type]  # what a store does not take is refused there
            pool=pool,
            store_dtype=store_dtype,
            append=append,
            batch_size=batch_size or 32,
            device=device,
            dtype=dtype,
            num_workers=num_workers,
            progress=progress,
            split=split,
            value_range=value_range,
            max_pixels=max_pixels,
        )
        table = open_table(out)
        _report_failures(table.status, table.paths, stacklevel=4)
        return table
    if append:
        raise ValueError("append=True adds images to a table on disk: give its folder as out")
    loaded, computing = load_model(model, device=device).fitted(dtype)
    specs = model_specs(
        loaded, layers=layers, context=context, read=read, orders=orders, norm=norm, seed=seed, combine=combine
    )
    classes = check_classes(classes, loaded)
    source = open_images(images, split=split, value_range=value_range, max_pixels=max_pixels)
    if isinstance(classes, list) and source.length not in (None, len(classes)):
        raise ValueError(f"{len(classes)} classes were given for {source.length} images: give one for each")
    wanted = classes_by_name(source, loaded) if isinstance(classes, str) else classes
    rows = _Rows(source.length)
    size = own_batch_size(loaded, specs) if batch_size is None else batch_size
    with tqdm(total=source.length, desc="features", unit="image", disable=not progress) as bar:
        for batch in source.batches(loaded.image_size, size, num_workers):
            given = _classes_of(wanted, batch, len(rows.status), loaded)
            maps = encode(loaded, batch.pixels, specs, given, dtype)
            rows.add(_kept(list(maps.values()), pool, batch), batch)
            bar.update(len(batch.status))
    if isinstance(classes, list) and len(classes) != len(rows.status):
        raise ValueError(f"{len(classes)} classes were given for {len(rows.status)} images: give one for each")
    details = {
        "layers": [spec.layer for spec in specs],
        "context": _one_or_several(spec.context for spec in specs),
        "read": _one_or_several(spec.read for spec in specs),
        "norm": norm,
        "orders": orders,
        "combine": combine,
        "seed": seed,
        "pool": pool,
        "classes": classes,
        "value_range": source.reading.value_range,
    }
    return rows.table(specs, source.label_names, details | origin(loaded, computing))


def _one_or_several(names: Iterable[str]) -> str | list[str]:
    several = list(dict.fromkeys(names))
    return several[0] if len(several) == 1 else several


def own_batch_size(model: Model, specs: Sequence[FeatureSpec]) -> int:
    """Images a forward pass where the caller leaves it open."""
    transformer = model.transformer
    longest = max(transformer.length_of(transformer.config.num_tokens, spec.context) for spec in specs)
    return max(1, _POSITIONS_PER_BATCH // longest)


def origin(model: Model, computing: torch.dtype) -> dict[str, Any]:
    """What the numbers depend on besides the settings: the weights, and the format of weights and products."""
    return {
        "dtype": name_of(computing),
        "weights_dtype": name_of(model.dtype),
        "image_size": model.image_size,
        "model": model.name,
        "revision": model.revision,
        "weights": model.weights_hash,
    }


def _kept(maps: Sequence[Tensor], pool: str | None, batch: ImageBatch) -> Tensor:
    """(b, S, G, G, D) or pooled (b, S, D) of all specs, NaN where an image could not be read."""
    stacked = torch.stack(list(maps), dim=1)
    kept = (stacked if pool is None else stacked.mean(dim=(2, 3))).cpu()
    kept[[status != OK for status in batch.status]] = torch.nan
    return kept


class ClassesByName(list[int]):
    """The model's class of each label of the data."""


def classes_by_name(source: ImageSource, model: Model) -> ClassesByName:
    """What classes="labels" means for these images.

    Raises:
        ValueError: a class of the data is none of the model's by name, or an image is known to have no label.
    """
    by_name = ClassesByName(match_classes(source.label_names, model.classes))
    if source.labels is not None and (source.labels < 0).any():
        raise ValueError(_without_label(int((source.labels < 0).argmax())))
    return by_name


def _without_label(number: int) -> str:
    return f"classes='labels' needs a label for every image, and image {number} has none: give the classes as a list"


def _classes_of(classes: int | list[int] | None, batch: ImageBatch, start: int, model: Model) -> Tensor | None:
    """The class index of each image of a batch whose first is number `start`; None: the null class."""
    count, null = len(batch.status), model.transformer.config.num_classes
    if classes is None:
        return None
    if isinstance(classes, ClassesByName):
        for number, (label, status) in enumerate(zip(batch.labels, batch.status, strict=True)):
            if label is None and status == OK:
                raise ValueError(_without_label(start + number))
        given = [null if label is None else classes[label] for label in batch.labels]
    elif isinstance(classes, int):
        given = [classes] * count
    else:
        given = classes[start : start + count]
    if len(given) < count:
        raise ValueError(f"{len(given)} classes are left for {count} images from number {start} on: give one for each")
    return torch.tensor(given, device=model.device)


class _Rows:
    """Features as they arrive; the array is allocated once where the number of images is known."""

    def __init__(self, expected: int | None) -> None:
        self.expected = expected
        self.parts: list[Tensor] = []
        self.array: Tensor | None = None
        self.labels: list[int | None] = []
        self.paths: list[str | None] = []
        self.status: list[str] = []

    def add(self, values: Tensor, batch: ImageBatch) -> None:
        start, stop = len(self.status), len(self.status) + len(values)
        if self.expected is None:
            self.parts.append(values)
        else:
            if self.array is None:
                self.array = values.new_empty((self.expected, *values.shape[1:]))
            self.array[start:stop] = values
        self.labels += batch.labels
        self.paths += batch.paths
        self.status += batch.status

    def table(self, specs: list[FeatureSpec], label_names: list[str] | None, details: dict[str, Any]) -> FeatureTable:
        _report_failures(self.status, self.paths, stacklevel=5)
        known = [-1 if label is None else label for label in self.labels]
        return FeatureTable(
            torch.cat(self.parts) if self.array is None else self.array[: len(self.status)],
            specs,
            labels=torch.tensor(known) if any(label >= 0 for label in known) else None,
            paths=self.paths,
            status=self.status,
            label_names=label_names,
            details=details,
        )


def _report_failures(status: list[str], paths: list[str | None], stacklevel: int) -> None:
    failed = [(number, reason) for number, reason in enumerate(status) if reason != OK]
    if not status:
        raise ImageError("there was no image to read")
    if not failed:
        return
    first = "; ".join(f"image {number} ({paths[number] or 'no path'}): {reason}" for number, reason in failed[:3])
    message = f"{len(failed)} of {len(status)} images could not be read. {first}"
    if len(failed) == len(status):
        raise ImageError(message)
    warnings.warn(f"{message}. Their features are NaN; `table.ok` tells them apart", stacklevel=stacklevel)
