"""Which rows of a feature store are there already, and whether they are what is asked for."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch

from randar_features.data.images import OK, ImageBatch, ImageSource
from randar_features.encoding.store import MANIFEST, Shard, expected_rows, find_shards, missing_rows, read_manifest
from randar_features.store.files import write_json

CHECKED_ROWS = 8  # rows decoded to tell whether a store is of the images given
PATIENCE = 60.0  # seconds that the other processes wait for the first one's manifest
POLL = 0.2
FINGERPRINT_SIZE = 32


def agree(
    folder: Path, about: dict[str, Any], source: ImageSource, data: str, append: bool
) -> tuple[ImageSource, int | None]:
    """The images to read, and the place of their entry in the manifest's parts; None: nothing is to be added."""
    if not (folder / MANIFEST).exists():
        publish(folder, about | {"label_names": source.label_names, "parts": [_part(source, data, 0)]})
        return source, 0
    manifest = read_manifest(folder)
    _check_content(folder, manifest, about)
    if append:
        return _append(folder, manifest, source, data)
    own = fingerprint(source)
    for index, part in enumerate(manifest["parts"]):
        if part["fingerprint"] == own:
            return source, index
    raise ValueError(
        f"{folder} was made of other images: {_images_in(manifest)}, now {source.length} of {data}. Give another "
        "folder, remove that one to make it again, or append what is new"
    )


def _append(folder: Path, manifest: dict[str, Any], source: ImageSource, data: str) -> tuple[ImageSource, int | None]:
    """As `agree`: the part that these images were appended as, or a new one of those that are not there."""
    if source.label_names not in (None, manifest["label_names"]):
        raise ValueError(
            f"{folder} cannot take images of other classes: its label_names are {_short(manifest['label_names'])}, "
            f"now {_short(source.label_names)}, and the same label would mean different things"
        )
    parts = manifest["parts"]
    for index in reversed(range(len(parts))):
        rest = source.without(_known_paths(folder, parts[index]["first"]))
        finished_stream = source.streamed and parts[index]["rows"] is not None  # it may be another one
        if fingerprint(rest) == parts[index]["fingerprint"] and not finished_stream:
            return rest, index
    if missing_rows(manifest, find_shards(folder)):
        raise ValueError(f"{folder} is not finished ({_images_in(manifest)}): finish it before appending to it")
    first = expected_rows(manifest) or 0
    source = source.without(_known_paths(folder, first))
    if source.length == 0:
        return source, None
    publish(folder, manifest | {"parts": [*parts, _part(source, data, first)]})
    return source, len(parts)


def _part(source: ImageSource, data: str, first: int) -> dict[str, Any]:
    return {"data": data, "fingerprint": fingerprint(source), "first": first, "rows": source.length}


def fingerprint(source: ImageSource) -> str:
    """16 hexadecimal digits of the number of images, the names of the classes, and the names and sizes of the files.

    Of images that are in no files, some pixels instead; of a stream, which would pass by, nothing.
    """
    digest = hashlib.sha256(json.dumps([source.length, source.label_names]).encode())
    files = source.files()
    for file in files:
        digest.update(f"\n{file.name} {file.stat().st_size if file.exists() else 'missing'}".encode())
    if not files and not source.streamed and len(source):
        rows = sorted({0, len(source) // 2, len(source) - 1})
        for batch in source.batches(FINGERPRINT_SIZE, 1, rows=[range(row, row + 1) for row in rows]):
            digest.update(str(pixel_checksums(batch)).encode())
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


def intact_shards(folder: Path, part: dict[str, Any], shard_rows: int) -> list[Shard]:
    """The part's shards; those of this process are read, and removed if they are damaged."""
    rank, world = rank_and_world()
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


def rows_to_check(source: ImageSource, part: dict[str, Any], shards: list[Shard]) -> list[range]:
    """A few rows that were read before: the first of some shards, of a stream the first of all."""
    starts = [shard.rows.start for shard in shards]
    chosen = starts[:: max(1, -(-len(starts) // CHECKED_ROWS))]
    if source.streamed:
        chosen = [start for start in chosen if start == part["first"]]
    return [range(start, start + 1) for start in chosen]


def check_rows(folder: Path, shards: list[Shard], checks: list[range], batches: Iterator[ImageBatch]) -> None:
    """ValueError if an image that was read before is another one now."""
    by_start = {shard.rows.start: shard for shard in shards}
    for row in checks:
        shard, batch = by_start[row.start], next(batches, None)
        held = int(shard.tensors["pixels"][0])
        if batch is None or pixel_checksums(batch)[0] != held:
            raise ValueError(
                f"{folder} was made of other images: row {row.start} ({shard.about['paths'][0] or 'no path'}) has "
                "other pixels now. Give another folder, or remove that one to make it again"
            )


def missing_runs(source: ImageSource, part: dict[str, Any], shards: list[Shard], shard_rows: int) -> Iterator[range]:
    """The rows of each shard that is missing and this process's; of a stream, of all from the first missing one on."""
    rank, world = rank_and_world()
    present = {shard.rows.start for shard in shards}
    first, rows = part["first"], part["rows"]
    starts = count(first, shard_rows) if rows is None else range(first, first + rows, shard_rows)
    begun = False
    for number, start in enumerate(starts):
        begun |= start not in present
        if (begun if source.streamed else start not in present) and number % world == rank:
            yield range(start, start + shard_rows if rows is None else min(start + shard_rows, first + rows))


def pixel_checksums(batch: ImageBatch) -> list[int]:
    """CRC-32 of each image in 8 bits; 0 where there is none."""
    pixels = (batch.pixels * 255).round().to(torch.uint8).numpy()
    return [zlib.crc32(image) if status == OK else 0 for image, status in zip(pixels, batch.status, strict=True)]


# Several processes


def rank_and_world() -> tuple[int, int]:
    """Of this process, as torchrun tells it; a process alone is (0, 1)."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def publish(folder: Path, manifest: dict[str, Any]) -> None:
    """The first process writes the manifest, the others wait for it."""
    if rank_and_world()[0] == 0:
        write_json(folder / MANIFEST, manifest)
        return
    deadline = time.monotonic() + PATIENCE
    while not (folder / MANIFEST).exists() or read_manifest(folder) != manifest:
        if time.monotonic() > deadline:
            raise ValueError(f"process 0 did not write the same {folder / MANIFEST} in {PATIENCE:.0f} seconds")
        time.sleep(POLL)
