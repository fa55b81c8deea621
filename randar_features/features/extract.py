"""Features of whole collections of images, with one call: in memory, or in a store on disk."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from randar_features import sequence
from randar_features.data import ImageBatch, ImageError, ImageSource, open_images
from randar_features.data.ahead import ahead, fetched
from randar_features.data.containers.labels import match_classes
from randar_features.data.decode.opening import MAX_PIXELS
from randar_features.data.stored_images import name_of as name_of_images
from randar_features.features.encode import encode
from randar_features.features.spec import FeatureSpec, check_numbers, check_orders, model_specs
from randar_features.features.store import DTYPES, Content, Encode, EncodedImages, FeatureStore, write_store
from randar_features.features.table import FeatureTable, open_table
from randar_features.hub import Model, load_model
from randar_features.precision import DType, check_dtype, format_of, name_of
from randar_features.sequence import as_flag, as_index, has_several
from randar_features.store.records import OK

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
    retry: bool = False,
    store_dtype: str = "float32",
    shard_rows: int | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: DType = None,
    num_workers: int = 0,
    progress: bool = True,
    split: str | None = None,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> FeatureTable:
    """Extract bidirectional features of images in any form.

    Args:
        images: paths, a folder, Parquet files, Pillow images, uint8 arrays (H, W, 3), float tensors (B, 3, H, W) in
            [0, 1], a torch Dataset or DataLoader, a `datasets.Dataset`; see `open_images`. ADM's centre crop is taken.
        model: a name (`list_models()`), a folder, or a loaded model.
        layers: block indices from 0, negative from the end; None: the model's recommended ones.
        context: one or several of "single" (a causal pass), "repeat" and "reverse" (the image is shown twice, and read
            at the second copy); None: "reverse", or "repeat" if the model knows only one order.
        read: one or several of the model's reads: "image" tokens, or others, see `encode_tokens`.
        orders: None: the model's own order (raster except for PAR); K: K seeded random orders, in pairs of an order
            and its reverse.
        norm: apply the model's final norm.
        classes: None: the null class, so that no label leaks; "labels": the model's class with the same name as the
            image's label, so every image needs one; an index for all images, or (not with `out`) one for each image.
        combine, seed: "mean" of the K orders, or "concatenate" them along D; the seed that draws the orders.
        pool: None: keep the maps; "mean": keep only their mean over locations.
        out: a folder: write the table there, for any number of images in bounded memory. If an extraction was killed,
            call it again to continue. Under torchrun each process makes its own shards. None: keep it in memory.
        append: add images that the table in `out` does not have yet: images are told apart by path, content and label.
            Changed images are read again and moved ones renamed, with a warning that names them. Of a stream the
            images are added whose content and label the table does not have.
        retry: with `out`, read the images again that could not be read.
        store_dtype: "float32" or "float16", format of the features in `out`.
        shard_rows: images in one file of `out`, which must fit into memory; None: 1024, or as many as make 64 MiB.
        batch_size: images in one forward pass; None: about 32 thousand sequence positions, or 32 images with `out`.
        device: None: CUDA if there is one.
        dtype: number format of the computation: "float32", "bfloat16", "float16", the torch dtype of that name, or
            "auto", the fastest of this machine; None: the format of the caller's autocast, else of the weights
            (float32 unless `load_model` was told another).
        num_workers, progress: number of processes that decode images; whether to show a bar.
        split: which split of the data, such as "train".
        value_range: for pictures of more than 8 bits, the values of black and of white, such as (0, 4095); None: the
            range of their number type.
        max_pixels: larger pictures count as unreadable.

    Returns:
        A table, in memory or on disk, with one entry for each image. An image that cannot be read keeps its place: its
        features are NaN, and `status` gives the reason.

    Raises:
        ValueError, IndexError, TypeError: the settings do not fit the model, or something is not an image; or `out`
            holds features of another model, of other settings or of other images.
        ImageError: no image could be read.
    """
    options = dict(locals())
    images, out = options.pop("images"), options.pop("out")
    extraction = Extraction(**options)
    return extraction.to_memory(images) if out is None else extraction.to_table(images, out)


def extract_to_store(
    images: Any,
    folder: str | Path,
    model: str | Model = "randar-tiny",
    *,
    pool: str | None = "mean",
    store_dtype: str = "float16",
    **options: Any,
) -> FeatureStore:
    """`extract_features` with `out=folder`, pooled and in float16 unless stated otherwise; returns the store."""
    return Extraction(model=model, pool=pool, store_dtype=store_dtype, **options).to_store(images, folder)


@dataclass(kw_only=True)
class Extraction:
    """The options of `extract_features`, which documents them; wrong ones are refused when it is made."""

    model: str | Model = "randar-tiny"
    layers: int | Iterable[int] | None = None
    context: str | Sequence[str] | None = None
    read: str | Sequence[str] = "image"
    orders: int | None = None
    norm: bool = False
    classes: Any = None
    combine: str = "mean"
    seed: int = 0
    pool: str | None = None
    append: bool = False
    retry: bool = False
    store_dtype: str = "float32"
    shard_rows: int | None = None
    batch_size: int | None = None
    device: str | torch.device | None = None
    dtype: DType = None
    num_workers: int = 0
    progress: bool = True
    split: str | None = None
    value_range: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        check_orders(self.orders, self.seed, self.combine)
        check_numbers(self.num_workers, batch_size=self.batch_size, shard_rows=self.shard_rows)
        sequence.check_choice("store_dtype", self.store_dtype, DTYPES)
        if self.pool is not None:
            sequence.check_choice("pool", self.pool, ("mean",))
        for name in ("norm", "append", "retry"):
            setattr(self, name, as_flag(name, getattr(self, name)))
        for name in ("orders", "seed", "batch_size", "shard_rows", "num_workers"):
            value = getattr(self, name)  # of NumPy's short integers products could overflow
            setattr(self, name, None if value is None else as_index(name, value))

    @cached_property
    def loaded(self) -> tuple[Model, torch.dtype]:
        """The model in a format that it can compute in, and the format of the products."""
        return load_model(self.model, device=self.device).fitted(self.dtype)

    def specs(self) -> list[FeatureSpec]:
        """The features, as the model has them."""
        return model_specs(
            self.loaded[0], layers=self.layers, context=self.context, read=self.read, norm=self.norm,
            orders=self.orders, seed=self.seed, combine=self.combine,
        )  # fmt: skip

    def source(self, images: Any) -> ImageSource:
        """The images, opened."""
        return open_images(images, split=self.split, value_range=self.value_range, max_pixels=self.max_pixels)

    def _values(self, pixels: Tensor, specs: Sequence[FeatureSpec], classes: Tensor | int | None) -> dict[str, Tensor]:
        """Maps (b, G, G, D), or (b, D) pooled, by the spec's name, in any thread: none has the autocast of another."""
        model, computing = self.loaded
        maps = encode(model, pixels, specs, classes, None if computing == model.dtype else computing)
        return {str(spec): one if self.pool is None else one.mean(dim=(1, 2)) for spec, one in maps.items()}

    def stored(self) -> tuple[Encode, Content]:
        """What makes the values of a store, and what these are; of images that are read by the range of their type."""
        model, computing = self.loaded
        specs, classes = self.specs(), check_classes(self.classes, model)
        if classes is not None and not isinstance(classes, int):
            raise ValueError(
                "features on disk take classes=None or one index for all images: leave out `out` for others"
            )
        given = {} if classes is None else {"classes": classes}
        return lambda pixels: self._values(pixels, specs, classes), Content(
            encoder=model.name,
            weights=model.weights_hash,
            outputs={str(spec): spec.details() | given for spec in specs},
            image_size=model.image_size,
            pooling=self.pool,
            dtype=self.store_dtype,
            compute_dtype=format_of(computing, model.dtype),
        )

    def to_store(
        self, images: Any, folder: str | Path, images_of: Callable[..., EncodedImages] = EncodedImages
    ) -> FeatureStore:
        """Fill the store in a folder, go on with one that is not finished, or give back one that is.

        images_of: what reads and encodes the images, with the arguments of `EncodedImages`.
        """
        values, content = self.stored()
        source = self.source(images)
        content = replace(content, value_range=source.reading.value_range)
        return write_store(
            images_of(source, values, content, batch_size=self.batch_size or 32, num_workers=self.num_workers),
            folder,
            content,
            data=name_of_images(images, self.split),
            shard_rows=self.shard_rows,
            append=self.append,
            retry=self.retry,
            progress=self.progress,
        )

    def to_table(
        self, images: Any, folder: str | Path, images_of: Callable[..., EncodedImages] = EncodedImages
    ) -> FeatureTable:
        """`to_store`, opened as a table, with a warning that names images that could not be read."""
        self.to_store(images, folder, images_of)
        table = open_table(folder)
        _report_failures(table.status, table.paths, stacklevel=5)
        return table

    def to_memory(self, images: Any) -> FeatureTable:
        """The table in memory."""
        for name in ("append", "retry", "shard_rows", "store_dtype"):
            if (value := getattr(self, name)) != getattr(Extraction, name):
                raise ValueError(f"{name}={value} is for a table on disk: give its folder as out")
        model, _ = self.loaded
        specs, classes = self.specs(), check_classes(self.classes, model)
        source = self.source(images)
        if isinstance(classes, list):
            _check_count(classes, source.length)
        by_name = match_classes(source.label_names, model.classes) if classes == "labels" else None
        if by_name is not None and source.labels is not None and (source.labels < 0).any():
            raise ValueError(_without_label(int((source.labels < 0).argmax())))
        rows, done = _Rows(source.length), 0
        size = own_batch_size(model, specs) if self.batch_size is None else self.batch_size

        def encoded(batch: ImageBatch) -> Callable[[], dict[str, Tensor]]:
            nonlocal done
            given: Any = classes
            if by_name is not None:
                given = _classes_by_name(batch, done, by_name, model.transformer.config.num_classes)
            elif isinstance(classes, list):
                given = classes[done : done + len(batch.status)]
                if len(given) < len(batch.status):  # of a stream
                    _check_count(classes, f"at least {done + len(batch.status)}")
            done += len(batch.status)
            return fetched(self._values(batch.pixels, specs, given))

        with tqdm(total=source.length, desc="features", unit="image", disable=not self.progress) as bar:
            for batch, maps in ahead(encoded, source.batches(model.image_size, size, self.num_workers)):
                rows.add(list(maps().values()), batch)
                bar.update(len(batch.status))
        if isinstance(classes, list):
            _check_count(classes, len(rows.status))
        return rows.table(specs, source.label_names, self._details(specs, classes, source.reading.value_range))

    def _details(self, specs: Sequence[FeatureSpec], classes: Any, value_range: Any) -> dict[str, Any]:
        """What the features were computed by."""
        model, computing = self.loaded
        return {
            "layers": [spec.layer for spec in specs],
            "context": _one_or_several(spec.context for spec in specs),
            "read": _one_or_several(spec.read for spec in specs),
            "norm": self.norm,
            "orders": self.orders,
            "combine": self.combine,
            "seed": self.seed,
            "pool": self.pool,
            "classes": classes,
            "value_range": value_range,
            "dtype": name_of(computing),
            "weights_dtype": name_of(model.dtype),
            "image_size": model.image_size,
            "model": model.name,
            "revision": model.revision,
            "weights": model.weights_hash,
        }


def _one_or_several(names: Iterable[str]) -> str | list[str]:
    several = list(dict.fromkeys(names))
    return several[0] if len(several) == 1 else several


def own_batch_size(model: Model, specs: Sequence[FeatureSpec]) -> int:
    """Images a forward pass where the caller leaves it open."""
    transformer = model.transformer
    longest = max(transformer.sequence_length(spec.context) for spec in specs)
    return max(1, _POSITIONS_PER_BATCH // longest)


# The classes that the model is given


def check_classes(classes: Any, model: Model) -> str | int | list[int] | None:
    """`classes` as None, "labels", one index or a list of them, all from 0 to C, the null class.

    Raises:
        TypeError, ValueError: they are anything else.
    """
    if classes is None or (isinstance(classes, str) and classes == "labels"):
        return classes
    if isinstance(classes, str):
        raise ValueError(f'classes must be None, "labels", an index, or one index for each image; got {classes!r}')
    if isinstance(classes, set | frozenset | Mapping):
        raise TypeError(f"classes in a {type(classes).__name__} have no order: give a list, one for each image")
    several = has_several(classes)
    given = [as_index("classes", label) for label in (classes if several else [classes])]
    null = model.transformer.config.num_classes
    if wrong := [label for label in given if not 0 <= label <= null]:
        raise ValueError(f"classes must lie in 0 … {null - 1}, or be {null} for the null class; got {wrong[0]}")
    return given if several else given[0]


def _check_count(classes: list[int], images: int | str | None) -> None:
    if images not in (None, len(classes)):
        raise ValueError(f"{len(classes)} classes were given for {images} images: give one for each")


def _without_label(number: int) -> str:
    return f"classes='labels' needs a label for every image, and image {number} has none: give the classes as a list"


def _classes_by_name(batch: ImageBatch, start: int, by_name: list[int], null: int) -> list[int]:
    """The model's class of each image of a batch whose first is number `start`, by the classes of its labels."""
    for number, (label, status) in enumerate(zip(batch.labels, batch.status, strict=True)):
        if label is None and status == OK:
            raise ValueError(_without_label(start + number))
    return [null if label is None else by_name[label] for label in batch.labels]


class _Rows:
    """Features as they arrive; the array is allocated once where the number of images is known."""

    def __init__(self, expected: int | None) -> None:
        self.expected = expected
        self.parts: list[Tensor] = []
        self.array: Tensor | None = None
        self.labels: list[int] = []
        self.paths: list[str | None] = []
        self.status: list[str] = []

    def add(self, maps: Sequence[Tensor], batch: ImageBatch) -> None:
        """Each of the S specs (b, G, G, D) or (b, D); NaN where an image could not be read."""
        start, count = len(self.status), len(batch.status)
        if self.expected is None:
            own = torch.stack(list(maps), dim=1)
            self.parts.append(own)
        else:
            if self.array is None:
                self.array = maps[0].new_empty((self.expected, len(maps), *maps[0].shape[1:]))
            own = self.array[start : start + count]
            for number, values in enumerate(maps):
                own[:, number] = values
        own[[status != OK for status in batch.status]] = torch.nan
        self.labels += [-1 if label is None else label for label in batch.labels]
        self.paths += batch.paths
        self.status += batch.status

    def table(self, specs: list[FeatureSpec], label_names: list[str] | None, details: dict[str, Any]) -> FeatureTable:
        _report_failures(self.status, self.paths, stacklevel=6)
        return FeatureTable(
            torch.cat(self.parts) if self.array is None else self.array[: len(self.status)],
            specs,
            labels=torch.tensor(self.labels, device="cpu") if any(label >= 0 for label in self.labels) else None,
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
