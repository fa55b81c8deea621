"""Filling a feature store: shard by shard, so that a killed run goes on at the first shard that is missing."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor
from tqdm.auto import tqdm

from randar_features.data import ImageError
from randar_features.data.images import OK, ImageBatch, ImageSource
from randar_features.encoding.store import (
    FEATURES,
    FORMAT,
    MANIFEST,
    FeatureStore,
    find_shards,
    missing_rows,
    read_manifest,
    shard_name,
)
from randar_features.encoding.store_resume import (
    POLL,
    agree,
    check_rows,
    intact_shards,
    missing_runs,
    pixel_checksums,
    rank_and_world,
    rows_to_check,
)
from randar_features.store.files import ASIDE, write_json, written_whole

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
    """

    encoder: str
    weights: str
    outputs: Mapping[str, Mapping[str, Any]]
    image_size: int
    pooling: str | None
    dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"a store's dtype must be one of {', '.join(DTYPES)}; got {self.dtype!r}")
        if not self.outputs:
            raise ValueError("no outputs were asked for: give at least one")

    def manifest(self) -> dict[str, Any]:
        """As JSON has it."""
        about = asdict(self) | {"transform": f"ADM centre crop of {self.image_size} pixels"}
        return {"format": FORMAT, **json.loads(json.dumps(about))}


def write_store(
    source: ImageSource,
    folder: str | Path,
    encode: Encode,
    content: Content,
    *,
    data: str,
    batch_size: int = 32,
    shard_rows: int | None = None,
    num_workers: int = 0,
    append: bool = False,
    progress: bool = True,
) -> FeatureStore:
    """Fill a store, go on with one that is not finished, or give back one that is.

    A shard that is damaged is named in a warning, and made anew. Under torchrun each process makes its own shards.

    Args:
        source: the images, as `open_images` gives them.
        folder: of the store.
        encode: images (b, 3, S, S) to the rows (b, …) of each output, float.
        content: what `encode` gives.
        data: name of the images, for the record.
        batch_size: images a call of `encode`.
        shard_rows: rows a file, which is as many as a kill can cost and as memory must hold; None: those that the
            store has, in a new one 1024 or what makes 64 MiB.
        num_workers: processes that decode images.
        append: the images follow those that are there; files that are there already are passed over.
        progress: show a bar.

    Raises:
        ValueError: the folder holds features of another encoder, of other settings or of other images; an
            output does not fit its dtype.
    """
    folder = Path(folder)
    if source.streamed and rank_and_world()[1] > 1:
        raise ValueError("a stream of images cannot be shared out to several processes: run a single one")
    shard_rows = _rows_a_shard(folder, encode, content, batch_size) if shard_rows is None else shard_rows
    source, index = agree(folder, content.manifest() | {"shard_rows": shard_rows}, source, data, append)
    if index is None:
        return _finished(folder)
    manifest = read_manifest(folder)
    part = manifest["parts"][index]
    shards = intact_shards(folder, part, shard_rows)
    checks = rows_to_check(source, part, shards)
    runs = partial(missing_runs, source, part, shards, shard_rows)
    own = (range(run.start - part["first"], run.stop - part["first"]) for run in chain(checks, runs()))
    batches = source.batches(content.image_size, batch_size, num_workers, own)
    check_rows(folder, shards, checks, batches)
    total = None if part["rows"] is None else sum(map(len, runs()))
    bar = tqdm(total=total, desc="features", unit="image", disable=not progress)
    _fill(folder, encode, content.dtype, runs(), batches, bar)
    if part["rows"] is None:
        part["rows"] = _count(folder) - part["first"]
        write_json(folder / MANIFEST, manifest)
    return _finished(folder)


@torch.no_grad()
def _rows_a_shard(folder: Path, encode: Encode, content: Content, batch_size: int) -> int:
    if (folder / MANIFEST).exists():
        return read_manifest(folder)["shard_rows"]
    rows = encode(torch.zeros(1, 3, content.image_size, content.image_size))
    size = sum(values.numel() for values in rows.values()) * np.dtype(content.dtype).itemsize
    fitting = min(SHARD_ROWS, max(1, SHARD_BYTES // size))
    return fitting - fitting % batch_size or fitting


def _count(folder: Path) -> int:
    if not (shards := find_shards(folder)):
        raise ImageError("there was no image to read")
    return shards[-1].rows.stop


@torch.no_grad()
def _fill(
    folder: Path, encode: Encode, dtype: str, runs: Iterator[range], batches: Iterator[ImageBatch], progress: tqdm
) -> None:
    """Write a shard for each run, until the images end."""
    with progress as bar:
        for run in runs:
            rows = _Rows(run, dtype)
            while not rows.full and (batch := next(batches, None)) is not None:
                rows.add(encode(batch.pixels), batch)
                bar.update(len(batch.status))
            if rows.status:
                rows.write(folder)
            if not rows.full:
                return


class _Rows:
    """The rows of one shard as they come; `write` makes the file."""

    def __init__(self, run: range, dtype: str) -> None:
        self.run, self.dtype = run, dtype
        self.features: dict[str, np.ndarray] = {}
        self.pixels: list[int] = []
        self.labels: list[int] = []
        self.paths: list[str | None] = []
        self.status: list[str] = []

    @property
    def full(self) -> bool:
        return len(self.status) == len(self.run)

    def add(self, values: Mapping[str, Tensor], batch: ImageBatch) -> None:
        rows = slice(len(self.status), len(self.status) + len(batch.status))
        failed = [status != OK for status in batch.status]
        for name, value in values.items():
            if name not in self.features:
                self.features[name] = np.empty((len(self.run), *value.shape[1:]), dtype=self.dtype)
            self.features[name][rows] = _converted(name, value, self.dtype, rows.start + self.run.start)
            self.features[name][rows][failed] = np.nan
        self.pixels += pixel_checksums(batch)
        self.labels += [-1 if label is None else label for label in batch.labels]
        self.paths += batch.paths
        self.status += batch.status

    def write(self, folder: Path) -> None:
        number = len(self.status)
        about = json.dumps({"paths": self.paths, "status": self.status}).encode()
        arrays = {FEATURES + name: values[:number] for name, values in self.features.items()}
        arrays["labels"] = np.asarray(self.labels, dtype=np.int64)
        arrays["pixels"] = np.asarray(self.pixels, dtype=np.int64)
        arrays["rows"] = np.frombuffer(about, dtype=np.uint8)
        content = save(arrays)
        with written_whole(folder / shard_name(self.run.start, number, zlib.crc32(content))) as file:
            file.write(content)


def _converted(name: str, values: Tensor, dtype: str, first: int) -> np.ndarray:
    array = values.float().cpu().numpy()
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    lost = np.isinf(converted) & np.isfinite(array)
    if lost.any():
        row = first + int(np.argwhere(lost)[0, 0])
        raise ValueError(f'{name} is {array[lost][0]:.4g} in row {row}, beyond {dtype}: store it as "float32"')
    return converted


def _finished(folder: Path) -> FeatureStore:
    """The store, once the other processes have made their shards too; what a kill left behind is removed."""
    manifest = read_manifest(folder)
    while rank_and_world()[1] > 1 and missing_rows(manifest, find_shards(folder)):
        time.sleep(POLL)
    store = FeatureStore(folder)
    for path in folder.glob(f"rows-*{ASIDE}"):
        path.unlink(missing_ok=True)
    return store
