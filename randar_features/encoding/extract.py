"""Features of whole collections of images, with one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from randar_features import sequence
from randar_features.data import ImageBatch, ImageError, open_images
from randar_features.data.images import OK
from randar_features.encoding.encoder import as_index, encode_orders, resolve_view
from randar_features.encoding.precision import autocast, default_dtype
from randar_features.hub import Model, load_model

_ROWS_PER_BATCH = 32768  # sequence rows that one forward pass handles when batch_size is None


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """What `extract_features` returns: one row for each image, in the order the images came.

    Attributes:
        maps: (n, L, G, G, D) float32 on the CPU, or None if only pooled features were kept.
        layers: the L layer indices, from 0.
        labels: (n,) int64, −1 where an image has none; None if no image has one.
        paths: file of each image, or None.
        status: "ok", or why an image could not be read; such a row's features are NaN.
        label_names: names of the classes, or None.
        details: the settings and weights that the numbers depend on.
    """

    maps: Tensor | None
    layers: list[int]
    labels: Tensor | None
    paths: list[str | None]
    status: list[str]
    label_names: list[str] | None
    details: dict[str, Any]
    _pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.status)

    def __repr__(self) -> str:
        values = self.maps if self.maps is not None else self._pooled
        assert values is not None
        kind = "maps" if self.maps is not None else "pooled"
        return (
            f"Features({kind} {tuple(values.shape)}, layers {self.layers}, {int(self.ok.sum())} of {len(self)} images)"
        )

    @property
    def ok(self) -> Tensor:
        """(n,) bool: the rows whose image could be read."""
        return torch.tensor([status == OK for status in self.status], dtype=torch.bool)

    def pooled(self, how: str = "mean") -> Tensor:
        """(n, L, D): the mean over locations."""
        sequence.check_choice("how", how, ("mean",))
        if self._pooled is not None:
            return self._pooled
        assert self.maps is not None
        return self.maps.mean(dim=(2, 3))


@torch.no_grad()
def extract_features(
    images: Any,
    model: str | Model = "randar-tiny",
    *,
    layers: int | Iterable[int] | None = None,
    context: str | None = None,
    read: str = "image",
    norm: bool = False,
    classes: str | int | Sequence[int] | Tensor | None = None,
    orders: int | None = None,
    combine: str = "mean",
    seed: int = 0,
    pool: str | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    num_workers: int = 0,
    progress: bool = True,
    split: str | None = None,
) -> Features:
    """Bidirectional features of images, whatever form they are in.

    Args:
        images: paths, a folder, Parquet files, Pillow images, uint8 arrays (H, W, 3), float tensors
            (B, 3, H, W) in [0, 1], a torch Dataset or DataLoader, a `datasets.Dataset`. Each is cut to a
            square and brought to the model's size (`data.adm_center_crop`).
        model: a name (`list_models()`), a folder, or a loaded model.
        layers: block indices from 0, negative from the end; None: the model's recommended ones.
        context: "single" (a causal pass), "repeat" or "reverse" (the image shown twice, read at the second copy);
            None: "reverse", or "repeat" where the model knows one order only.
        read: at the "image" tokens, or what else the model has, see `encode_tokens`.
        norm: apply the model's final norm.
        classes: None: the null class, so that no label leaks; "labels": each image's own label (the null class
            where it has none); an index for all, or one for each image.
        orders: None: the model's own order (raster but for PAR); K: K seeded random orders in antithetic pairs.
        combine: "mean" of the K orders, or "concatenate" them along D.
        seed: of the K orders.
        pool: None: keep the maps; "mean": keep only their mean over locations.
        batch_size: images a forward pass; None: as many as fit some 32 thousand sequence rows.
        device: None: CUDA where there is one.
        dtype: format of the matrix products; None: bfloat16 where the hardware has it, else float32.
        num_workers: processes that decode images.
        progress: show a bar.
        split: which split of Parquet files.

    Returns:
        Features, one row an image. An image that cannot be read keeps its row: NaN, and the reason in `status`.

    Raises:
        ValueError, IndexError, TypeError: settings that do not fit the model, or something that is no image.
        ImageError: not one image could be read.
    """
    loaded = load_model(model, device=device)
    transformer = loaded.transformer
    wanted, context = resolve_view(
        transformer, layers=layers, context=context, read=read, recommended=loaded.recommended_layers
    )
    length = transformer.length_of(transformer.config.num_tokens, context)
    if pool is not None:
        sequence.check_choice("pool", pool, ("mean",))
    options = {"layers": wanted, "context": context, "read": read, "norm": norm}
    options |= {"orders": orders, "combine": combine, "seed": seed}
    source = open_images(images, split=split)
    classes = _check_classes(classes, source.length)
    batch_size = max(1, _ROWS_PER_BATCH // length) if batch_size is None else batch_size
    batches = source.batches(loaded.image_size, batch_size, num_workers)
    rows = _Rows(source.length)
    with tqdm(total=source.length, desc="features", unit="image", disable=not progress) as bar:
        for batch in batches:
            given = _classes_of(classes, batch, len(rows.status), loaded)
            rows.add(_encode_batch(loaded, batch, given, pool, dtype, options), batch)
            bar.update(len(batch.status))
    if isinstance(classes, list) and len(classes) != len(rows.status):
        raise ValueError(f"{len(classes)} classes were given for {len(rows.status)} images: give one for each")
    details = {**options, "pool": pool, "classes": classes, **_origin(loaded, dtype)}
    return rows.features(wanted, pool, source.label_names, details)


def _origin(model: Model, dtype: torch.dtype | None) -> dict[str, Any]:
    """The part of `Features.details` that follows from the model and the machine."""
    return {
        "dtype": str(dtype or default_dtype(model.device)).removeprefix("torch."),
        "image_size": model.image_size,
        "model": model.name,
        "revision": model.revision,
        "weights": model.weights_hash,
    }


def _encode_batch(
    model: Model,
    batch: ImageBatch,
    classes: Tensor | None,
    pool: str | None,
    dtype: torch.dtype | None,
    options: dict[str, Any],
) -> Tensor:
    tokens = model.tokenizer.encode(batch.pixels.to(model.device))
    with autocast(tokens.device, dtype):
        maps = encode_orders(model.transformer, tokens, classes, **options)
    kept = (maps if pool is None else maps.mean(dim=(2, 3))).cpu()
    kept[[status != OK for status in batch.status]] = torch.nan
    return kept


def _check_classes(classes: Any, count: int | None) -> str | int | list[int] | None:
    """`classes` as None, "labels", one index or a list of them; `count` is the number of images if known."""
    if classes is None or (isinstance(classes, str) and classes == "labels"):
        return classes
    if isinstance(classes, str):
        raise ValueError(f'classes must be None, "labels", an index, or one index for each image; got {classes!r}')
    if hasattr(classes, "__index__") and not getattr(classes, "ndim", 0):
        return as_index(classes)
    given = [as_index(label) for label in classes]
    if count is not None and len(given) != count:
        raise ValueError(f"{len(given)} classes were given for {count} images: give one for each")
    return given


def _classes_of(classes: str | int | list[int] | None, batch: ImageBatch, start: int, model: Model) -> Tensor | None:
    """The class index of each row of a batch that starts at row `start`; None: the null class."""
    count, null = len(batch.status), model.transformer.config.num_classes
    if classes is None:
        return None
    if isinstance(classes, str):
        given = [null if label is None else label for label in batch.labels]
    elif isinstance(classes, int):
        given = [classes] * count
    else:
        given = classes[start : start + count]
    if len(given) < count:
        raise ValueError(f"{len(given)} classes are left for {count} images from row {start} on: give one for each")
    return torch.tensor(given, device=model.device)


class _Rows:
    """Rows as they arrive; the array is allocated once where the number of images is known."""

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

    def features(
        self, layers: list[int], pool: str | None, label_names: list[str] | None, details: dict[str, Any]
    ) -> Features:
        _report_failures(self.status, self.paths)
        values = torch.cat(self.parts) if self.array is None else self.array[: len(self.status)]
        known = [-1 if label is None else label for label in self.labels]
        return Features(
            maps=values if pool is None else None,
            layers=layers,
            labels=torch.tensor(known) if any(label >= 0 for label in known) else None,
            paths=self.paths,
            status=self.status,
            label_names=label_names,
            details=details,
            _pooled=values if pool is not None else None,
        )


def _report_failures(status: list[str], paths: list[str | None]) -> None:
    failed = [(row, reason) for row, reason in enumerate(status) if reason != OK]
    if not status:
        raise ImageError("there was no image to read")
    if not failed:
        return
    first = "; ".join(f"row {row} ({paths[row] or 'no path'}): {reason}" for row, reason in failed[:3])
    message = f"{len(failed)} of {len(status)} images could not be read. {first}"
    if len(failed) == len(status):
        raise ImageError(message)
    warnings.warn(f"{message}. Their rows are NaN; `features.ok` tells them apart", stacklevel=5)
