"""Filling a feature store from images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randar_features.data.images import OK, ImageBatch, ImageSource
from randar_features.data.stored_images import StoredImages
from randar_features.features.store import FeatureStore, read_manifest
from randar_features.store.manifest import MANIFEST, check_format
from randar_features.store.writer import StoreWriter, rank_and_ranks

DTYPES = ("float16", "float32")
SHARD_ROWS = 1024
SHARD_BYTES = 64 << 20

Encode = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the numbers of a store are: two extractions of equal content and equal images give equal numbers.

    Attributes:
        encoder, weights: name of the encoder, and a hash of its weights.
        outputs: details of each output, by name; "classes" among them where the encoder was given the class.
        image_size: S, pixels a side of what the encoder is given.
        pooling: how a map became one vector; None: it did not.
        dtype: "float16" or "float32", on disk.
        compute_dtype: number format that the encoder computed in.
        value_range: the values that were black and white, of pictures of more than 8 bits; None: as their type has it.
    """

    encoder: str
    weights: str
    outputs: Mapping[str, Mapping[str, Any]]
    image_size: int
    pooling: str | None
    dtype: str = "float16"
    compute_dtype: str = "float32"
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"a store's dtype must be one of {', '.join(DTYPES)}; got {self.dtype!r}")
        if not self.outputs:
            raise ValueError("no outputs were named: give at least one")

    def manifest(self) -> dict[str, Any]:
        """As JSON has it."""
        about = asdict(self) | {"transform": f"ADM centre crop of {self.image_size} pixels"}
        if self.value_range is None:
            del about["value_range"]
        return json.loads(json.dumps(about))


def write_store(
    source: ImageSource,
    folder: str | Path,
    encode: Encode,
    content: Content,
    *,
    data: str,
    root: Path | None = None,
    batch_size: int = 32,
    shard_rows: int | None = None,
    num_workers: int = 0,
    progress: bool = True,
    **writing: Any,
) -> FeatureStore:
    """Fill a store, go on with one that is not finished, or give back one that is.

    A shard that is damaged is named in a warning, and made anew. Under torchrun each process makes its own shards.
    A kill costs some seconds of work.

    Args:
        source: the images, as `open_images` gives them.
        folder: of the store.
        encode: images (b, 3, S, S) to the values (b, …) of each output, float.
        content: what `encode` gives.
        data: name of the images, for the record.
        root: the folder that they lie in, see `StoredImages`.
        batch_size: images a call of `encode`.
        shard_rows: images a file, as memory must hold; None: those that the store has, in a new one 1024 or what
            makes 64 MiB.
        num_workers: processes that decode images.
        progress: show a bar.
        writing: `append`, `retry` and `reuse` of `store.writer.StoreWriter`.

    Raises:
        ValueError: the folder holds features of another encoder, of other settings or of other images, which are
            named; an output does not fit its dtype.
        FolderLockedError: another process writes to the folder.
    """
    folder = Path(folder)
    rank, world_size = rank_and_ranks()
    if source.streamed and world_size > 1:
        raise ValueError("a stream of images cannot be shared out to several processes: run a single one")
    writer = StoreWriter(
        folder=folder,
        kind=FeatureStore,
        content=content.manifest(),
        shard_rows=_shard_rows(folder, encode, content, batch_size) if shard_rows is None else shard_rows,
        data=data,
        rank=rank,
        world_size=world_size,
        progress="features" if progress else None,
        **writing,
    )
    images = StoredImages(
        source,
        _as_values(encode, content.dtype),
        image_size=content.image_size,
        batch_size=batch_size,
        num_workers=num_workers,
        root=root,
    )
    if not writer.fill(images):
        writer.wait()
    return FeatureStore(folder)


@torch.no_grad()
def _shard_rows(folder: Path, encode: Encode, content: Content, batch_size: int) -> int:
    """Images a shard: of the store that is there, else as many as fit."""
    check_format(folder, FeatureStore.made_by)
    if (folder / MANIFEST).exists():
        return int(read_manifest(folder)["shard_rows"])
    values = encode(torch.zeros(1, 3, content.image_size, content.image_size))
    size = sum(value.numel() for value in values.values()) * np.dtype(content.dtype).itemsize
    fitting = min(SHARD_ROWS, max(1, SHARD_BYTES // size))
    return fitting - fitting % batch_size or fitting


def _as_values(encode: Encode, dtype: str) -> Callable[[ImageBatch], Mapping[str, np.ndarray]]:
    """`encode` for a store: arrays in its dtype, NaN where there is no image."""

    @torch.no_grad()
    def values(batch: ImageBatch) -> dict[str, np.ndarray]:
        failed = [status != OK for status in batch.status]
        found = {}
        for name, value in encode(batch.pixels).items():
            found[name] = _converted(name, value, dtype, batch)
            found[name][failed] = np.nan
        return found

    return values


def _converted(name: str, values: Tensor, dtype: str, batch: ImageBatch) -> np.ndarray:
    array = values.float().cpu().numpy()
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    lost = np.isinf(converted) & np.isfinite(array)
    if lost.any():
        path = batch.paths[int(np.argwhere(lost)[0, 0])] or "an image without a name"
        raise ValueError(f'{name} is {array[lost][0]:.4g} of {path}, beyond {dtype}: store it as "float32"')
    return converted
