"""Filling a feature store: shard by shard, so that a killed run goes on at the first shard that is missing."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor
from tqdm.auto import tqdm

from randar_features.data.images import OK, ImageBatch, ImageSource
from randar_features.encoding.store import (
    FEATURES,
    FORMAT,
    MANIFEST,
    FeatureStore,
    Shard,
    expected_rows,
    find_shards,
    missing_rows,
    read_manifest,
    shard_name,
)
from randar_features.files import ASIDE, write_json, written_whole

DTYPES = ("float16", "float32")
SHARD_ROWS = 1024
CHECKED_ROWS = 8  # rows decoded to tell whether a store is of the images given
PATIENCE = 60.0  # seconds that the other processes wait for the first one's manifest
_POLL = 0.2

Encode = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the numbers of a store are: two extractions of equal content and equal images give equal numbers.

    Attributes:
        encoder, weights: name of the encoder, and a hash of its weights.
        outputs: details of each output, by name.
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
    shard_rows: int = SHARD_ROWS,
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
        shard_rows: rows a file: what a kill can cost.
        num_workers: processes that decode images.
        append: the images follow those that are there; files that are there already are passed over.
        progress: show a bar.

    Raises:
        ValueError: the folder holds features of another encoder, of other settings or of other images; an
            output does not fit its dtype.
    """
    folder, rank_and_world = Path(folder), _rank_and_world()
    if source.streamed and rank_and_world[1] > 1:
        raise ValueError("a stream of images cannot be shared out to several processes: run a single one")
    about = content.manifest() | {"label_names": source.label_names, "shard_rows": shard_rows}
    source, index = _agree(folder, about, source, data, append)
    if index is not None:
        manifest = read_manifest(folder)
        part = manifest["parts"][index]
        shards = _intact_shards(folder, part, shard_rows)
        checks = _rows_to_check(source, part, shards)
        runs = _missing_runs(source, part, shards, shard_rows)
        relative = (range(run.start - part["first"], run.stop - part["first"]) for run in chain(checks, runs))
        batches = source.batches(content.image_size, batch_size, num_workers, relative)
        _check_rows(folder, shards, checks, batches)
        runs = _missing_runs(source, part, shards, shard_rows)
        _fill(folder, encode, content.dtype, runs, batches, progress)
        if part["rows"] is None:
            part["rows"] = find_shards(folder)[-1].rows.stop - part["first"]
            write_json(folder / MANIFEST, manifest)
    return _finished(folder)


# What is in the folder already


def _agree(
    folder: Path, about: dict[str, Any], source: ImageSource, data: str, append: bool
) -> tuple[ImageSource, int | None]:
    """The images to read, and the place of their entry in the manifest's parts; None: nothing is to be added."""
    if not (folder / MANIFEST).exists():
        _publish(folder, {**about, "parts": [_part(source, data, 0)]})
        return source, 0
    manifest = read_manifest(folder)
    _check_content(folder, manifest, about)
    prints = [part["fingerprint"] for part in manifest["parts"]]
    if not append:
        if (own := fingerprint(source)) in prints:
            return source, prints.index(own)
        raise ValueError(
            f"{folder} was made of other images: {_images_in(manifest)}, now {source.length} of {data}. Give another "
            "folder, remove that one to make it again, or append what is new"
        )
    unfinished = bool(missing_rows(manifest, find_shards(folder)))
    first = manifest["parts"][-1]["first"] if unfinished else int(expected_rows(manifest) or 0)
    source = source.without(_known_paths(folder, first))
    if source.length == 0 or (own := fingerprint(source)) in prints[: None if not unfinished else -1]:
        return source, None
    if unfinished and own != prints[-1]:
        raise ValueError(f"{folder} is not finished ({_images_in(manifest)}): finish it before appending to it")
    if not unfinished:
        _publish(folder, manifest | {"parts": [*manifest["parts"], _part(source, data, first)]})
        prints.append(own)
    return source, len(prints) - 1


def _part(source: ImageSource, data: str, first: int) -> dict[str, Any]:
    return {"data": data, "fingerprint": fingerprint(source), "first": first, "rows": source.length}


def fingerprint(source: ImageSource) -> str:
    """16 hexadecimal digits of the number of images, the names of the classes, and the names and sizes of the files."""
    digest = hashlib.sha256(json.dumps([source.length, source.label_names]).encode())
    for file in source.files():
        digest.update(f"\n{file.name} {file.stat().st_size if file.exists() else 'missing'}".encode())
    return digest.hexdigest()[:16]


def _images_in(manifest: dict[str, Any]) -> str:
    return ", ".join(f"{part['rows'] or 'a stream'} of {part['data']}" for part in manifest["parts"])


def _check_content(folder: Path, manifest: dict[str, Any], about: dict[str, Any]) -> None:
    for name, value in about.items():
        if manifest[name] != value:
            raise ValueError(
                f"{folder} holds other features: its {name} is {_short(manifest[name])}, now {_short(value)}. "
                "Give another folder, or remove that one to make it again"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _known_paths(folder: Path, stop: int) -> set[str]:
    """The files of the rows below `stop`."""
    shards = (shard for shard in find_shards(folder) if shard.rows.start < stop)
    return {path for shard in shards for path in shard.about["paths"] if path is not None}


def _intact_shards(folder: Path, part: dict[str, Any], shard_rows: int) -> list[Shard]:
    """The part's shards; those of this process are read, and removed if they are damaged."""
    rank, world = _rank_and_world()
    intact = []
    for shard in _shards_of(folder, part):
        try:
            if (shard.rows.start - part["first"]) // shard_rows % world == rank:
                _ = shard.tensors
            intact.append(shard)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=3)
            shard.path.unlink()
    return intact


def _shards_of(folder: Path, part: dict[str, Any]) -> list[Shard]:
    stop = float("inf") if part["rows"] is None else part["first"] + part["rows"]
    return [shard for shard in find_shards(folder) if part["first"] <= shard.rows.start < stop]


def _rows_to_check(source: ImageSource, part: dict[str, Any], shards: list[Shard]) -> list[range]:
    """A few rows that were read before: the first of some shards, of a stream the first of all."""
    starts = [shard.rows.start for shard in shards]
    chosen = starts[:: max(1, -(-len(starts) // CHECKED_ROWS))]
    if source.streamed:
        chosen = [start for start in chosen if start == part["first"]]
    return [range(start, start + 1) for start in chosen]


def _check_rows(folder: Path, shards: list[Shard], checks: list[range], batches: Iterator[ImageBatch]) -> None:
    """ValueError if an image that was read before is another one now."""
    by_start = {shard.rows.start: shard for shard in shards}
    for row in checks:
        shard, batch = by_start[row.start], next(batches, None)
        held = int(shard.tensors["pixels"][0])
        if batch is None or _pixel_checksums(batch)[0] != held:
            raise ValueError(
                f"{folder} was made of other images: row {row.start} ({shard.about['paths'][0] or 'no path'}) has "
                "other pixels now. Give another folder, or remove that one to make it again"
            )


# What is still to be made


def _missing_runs(source: ImageSource, part: dict[str, Any], shards: list[Shard], shard_rows: int) -> Iterator[range]:
    """The rows of each shard that is missing and this process's; of a stream, of all from the first missing one on."""
    rank, world = _rank_and_world()
    present = {shard.rows.start for shard in shards}
    first, rows = part["first"], part["rows"]
    starts = count(first, shard_rows) if rows is None else range(first, first + rows, shard_rows)
    begun = False
    for number, start in enumerate(starts):
        begun |= start not in present
        if (begun if source.streamed else start not in present) and number % world == rank:
            yield range(start, start + shard_rows if rows is None else min(start + shard_rows, first + rows))


@torch.no_grad()
def _fill(
    folder: Path, encode: Encode, dtype: str, runs: Iterator[range], batches: Iterator[ImageBatch], progress: bool
) -> None:
    """Write a shard for each run, until the images end."""
    with tqdm(desc="features", unit="image", disable=not progress) as bar:
        for run in runs:
            rows = _Rows(run, dtype)
            while not rows.full and (batch := next(batches, None)) is not None:
                rows.add(encode(batch.pixels), batch)
                bar.update(len(batch.status))
            if rows.statuses:
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
        self.statuses: list[str] = []

    @property
    def full(self) -> bool:
        return len(self.statuses) == len(self.run)

    def add(self, values: Mapping[str, Tensor], batch: ImageBatch) -> None:
        rows = slice(len(self.statuses), len(self.statuses) + len(batch.status))
        failed = [status != OK for status in batch.status]
        for name, value in values.items():
            if name not in self.features:
                self.features[name] = np.empty((len(self.run), *value.shape[1:]), dtype=self.dtype)
            self.features[name][rows] = _converted(name, value, self.dtype, rows.start + self.run.start)
            self.features[name][rows][failed] = np.nan
        self.pixels += _pixel_checksums(batch)
        self.labels += [-1 if label is None else label for label in batch.labels]
        self.paths += batch.paths
        self.statuses += batch.status

    def write(self, folder: Path) -> None:
        number = len(self.statuses)
        about = json.dumps({"paths": self.paths, "status": self.statuses}).encode()
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


def _pixel_checksums(batch: ImageBatch) -> list[int]:
    """CRC-32 of each image in 8 bits; 0 where there is none."""
    pixels = (batch.pixels * 255).round().to(torch.uint8).numpy()
    return [zlib.crc32(image) if status == OK else 0 for image, status in zip(pixels, batch.status, strict=True)]


# Several processes


def _rank_and_world() -> tuple[int, int]:
    """Of this process, as torchrun tells it; a process alone is (0, 1)."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def _publish(folder: Path, manifest: dict[str, Any]) -> None:
    """The first process writes the manifest, the others wait for it."""
    if _rank_and_world()[0] == 0:
        write_json(folder / MANIFEST, manifest)
        return
    deadline = time.monotonic() + PATIENCE
    while not (folder / MANIFEST).exists() or read_manifest(folder) != manifest:
        if time.monotonic() > deadline:
            raise ValueError(f"process 0 did not write the same {folder / MANIFEST} in {PATIENCE:.0f} seconds")
        time.sleep(_POLL)


def _finished(folder: Path) -> FeatureStore:
    """The store, once the other processes have made their shards too; what a kill left behind is removed."""
    manifest = read_manifest(folder)
    while _rank_and_world()[1] > 1 and missing_rows(manifest, find_shards(folder)):
        time.sleep(_POLL)
    store = FeatureStore(folder)
    for path in folder.glob(f"rows-*{ASIDE}"):
        path.unlink(missing_ok=True)
    return store
