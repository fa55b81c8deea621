"""Features on disk: one value for each image and spec, in a store of `randar_features.store`; filled from images."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from randar_features.data.ahead import fetched
from randar_features.data.images import ImageBatch, ImageSource
from randar_features.data.profile import ALL, part
from randar_features.data.stored_images import StoredImages
from randar_features.sequence import as_index
from randar_features.store.files import path_to_write
from randar_features.store.manifest import MANIFEST, check_format
from randar_features.store.manifest import read_manifest as read_any_manifest
from randar_features.store.records import OK, Source
from randar_features.store.store import Rows, Store
from randar_features.store.writer import StoreWriter, abandon_store, rank_and_ranks

MADE_BY = "`randar extract`"
DTYPES = ("float16", "float32")
SHARD_ROWS = 1024
SHARD_BYTES = 64 << 20

Encode = Callable[[Tensor], Mapping[str, Tensor]]


class FeatureStore(Store):
    """A store of features: the features of each image, its path, label and status.

    Args:
        folder: a folder that `extract_to_store` wrote.
        names: the features to read, such as "reverse/image/2"; None: all.

    Attributes:
        folder: as given.
        manifest: "encoder", "weights", "transform", "image_size", "pooling", "dtype" (on disk), "compute_dtype",
            "outputs" (details of each feature, by name), "label_names", and "parts": the data sets in the store, each
            with the number of its first image.
        names: the names of the features.
        shards: the files.

    The ends of each shard are checked when the store is opened, its checksum when it is first read.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: its extraction did not finish, a shard is missing, torn or (when read) damaged, or an output
            is unknown.
    """

    kind: ClassVar[str] = "features"
    made_by: ClassVar[str] = f"its extraction ({MADE_BY})"

    def __init__(self, folder: str | Path, names: Sequence[str] | None = None) -> None:
        super().__init__(folder)
        if not isinstance(self.manifest.get("outputs"), dict):
            raise ValueError(f"{self.folder / MANIFEST} names no outputs: make the store anew with {MADE_BY}")
        known = list(self.manifest["outputs"])
        if unknown := sorted(set(names or ()) - set(known)):
            raise ValueError(f"{self.folder} holds no {', '.join(unknown)}; its outputs are: {', '.join(known)}")
        self._names = known if names is None else list(names)

    @property
    def names(self) -> list[str]:
        """The names of the features."""
        return self._names

    def __repr__(self) -> str:
        """Encoder, images and outputs."""
        return (
            f"FeatureStore({str(self.folder)!r}: {len(self)} images, {len(self.names)} outputs "
            f"of {self.manifest['encoder']}, weights {self.manifest['weights']})"
        )

    def array(self, name: str, rows: Rows = None) -> NDArray[np.float32]:
        """One feature as float32 (n, …); NaN for images that could not be read.

        Args:
            name: of the feature.
            rows: the images: their numbers in any order, a slice, or a boolean mask; None: all.

        Raises:
            ValueError: the store has no feature of that name.
            IndexError, TypeError: see `store.store.row_numbers`.
        """
        return self.take(name, rows, dtype=np.float32)

    def blocks(self, name: str, size: int = 4096) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, float32 (size, …)) one after the other; the last may be shorter."""
        if as_index("size", size) < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        return ((start, self.array(name, slice(start, start + size))) for start in range(0, len(self), size))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a feature store; FileNotFoundError without one, ValueError if it is damaged or another one."""
    return read_any_manifest(folder, FeatureStore.kind, FeatureStore.made_by)


def is_store(path: Any) -> bool:
    """Whether this is a folder that holds a store of features."""
    if not isinstance(path, str | os.PathLike):
        return False
    manifest = Path(path) / MANIFEST
    return manifest.is_file() and b'"outputs"' in manifest.read_bytes()


def abandon_extraction(folder: str | Path) -> int:
    """Undo an unfinished extraction: remove what it has added to a store.

    Args:
        folder: the store. If nothing was in it before the extraction, the whole store is removed.

    Returns:
        Number of images that stay; 0: the store is removed.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: the extraction is finished.
        FolderLockedError: another process writes to it.
    """
    return abandon_store(folder, FeatureStore)


# Filling


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
            raise ValueError("no features were named: give at least one")

    def manifest(self) -> dict[str, Any]:
        """As JSON has it."""
        return json.loads(json.dumps(asdict(self) | {"transform": f"ADM centre crop of {self.image_size} pixels"}))


class EncodedImages(StoredImages):
    """Images as a store of features takes them.

    Args:
        source: the images, as `open_images` gives them.
        encode: images (b, 3, S, S) to the values (b, …) of each output, float.
        content: what `encode` gives.
        reading: `batch_size` and `num_workers` of `StoredImages`.
    """

    def __init__(self, source: ImageSource, encode: Encode, content: Content, **reading: Any) -> None:
        super().__init__(source, lambda batch: fetched(encode(batch.pixels)), image_size=content.image_size, **reading)
        self.values, self.dtype = encode, content.dtype

    def finished(self, found: Callable[[], Mapping[str, Tensor]], batch: ImageBatch) -> dict[str, np.ndarray]:
        """Arrays in the dtype of the store, NaN where there is no image."""
        failed = [status != OK for status in batch.status]
        values = {}
        for name, value in found().items():
            array = value.float().numpy()
            with np.errstate(over="ignore", under="ignore"):
                converted = array.astype(self.dtype, copy=False)
            lost = np.isinf(converted) & np.isfinite(array)
            if lost.any():
                path = batch.paths[int(np.argwhere(lost)[0, 0])] or "an image without a name"
                raise ValueError(
                    f'{name} is {array[lost][0]:.4g} of {path}, beyond {self.dtype}: store it as "float32"'
                )
            converted[failed] = np.nan
            values[name] = converted
        return values

    @cached_property
    def of_black(self) -> Mapping[str, Tensor]:
        """The values (1, …) of each output of a black image, which tell their shapes before anything is read."""
        with torch.no_grad():
            return self.values(torch.zeros(1, 3, self.image_size, self.image_size, device="cpu"))

    def shard_rows(self) -> int:
        """Images that make a file of 1024, or of 64 MiB if that is less."""
        size = sum(value.numel() for value in self.of_black.values()) * np.dtype(self.dtype).itemsize
        fitting = min(SHARD_ROWS, max(1, SHARD_BYTES // size))
        return fitting - fitting % self.batch_size or fitting


class FeatureImages(Source, Protocol):
    """Images with their features, which a store of these is filled from."""

    def shard_rows(self) -> int:
        """Images a file, as memory must hold."""


@torch.no_grad()
def write_store(
    images: FeatureImages,
    folder: str | Path,
    content: Content,
    *,
    data: str,
    shard_rows: int | None = None,
    progress: bool = True,
    **writing: Any,
) -> FeatureStore:
    """`store.writer.StoreWriter` for features; under torchrun each process makes its own shards.

    Args:
        images: with their features.
        folder: of the store.
        content: what the features are.
        data: name of the images, for the record.
        shard_rows: images a file; None: those that the store has, in a new one what `images` say.
        progress: show a bar.
        writing: `append`, `retry` and `reuse` of `StoreWriter`.

    Raises:
        ValueError: the folder holds features of another encoder, of other settings or of other images, which are
            named; an output does not fit its dtype.
        FolderLockedError: another process writes to the folder.
    """
    folder = path_to_write(folder)
    rank, world_size = rank_and_ranks()
    if images.streamed and world_size > 1:
        raise ValueError("a stream of images cannot be shared out to several processes: run a single one")
    if shard_rows is None:
        check_format(folder, FeatureStore.made_by)
        there = (folder / MANIFEST).exists()
        shard_rows = int(read_manifest(folder)["shard_rows"]) if there else images.shard_rows()
    writer = StoreWriter(
        folder=folder,
        kind=FeatureStore,
        content=content.manifest(),
        shard_rows=shard_rows,
        data=data,
        rank=rank,
        world_size=world_size,
        progress="features" if progress else None,
        **writing,
    )
    with part(ALL, 0):
        if not writer.fill(images):
            writer.wait()
    return FeatureStore(folder)
