"""How token shards are written: each whole or not there, in any order, by any number of processes.

A shard covers `shard_size` consecutive rows of its source, or fewer at the source's end. Its files are
`shard-00000.tokens.npy` (count, views, N) uint16, `shard-00000.labels.npy` (count,) int64 and, written last,
`shard-00000.json`, which says what it was made of. `manifest.json` is written when all shards are there.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from reprlib import repr
from typing import Any

import numpy as np

from randar_features.store.files import read_json, write_json, written_whole

MAX_VOCAB_SIZE = 1 << 16
SHARD_SIZE = 8192
_CORNERS = ("top left", "top right", "bottom left", "bottom right", "centre")
VIEWS = {
    "two": ["centre crop", "mirror image"],
    "ten": [f"{corner} crop{of}" for of in ("", " of the mirror image") for corner in _CORNERS],
}
TOKENS, LABELS = "tokens.npy", "labels.npy"
CHECKED = 8  # images whose tokens must be those of the first shard that is there, for it to be of the same images
# What the manifest takes over from the settings that every shard was made with.
SETTINGS = ("views", "crop_range", "image_size", "tokenizer", "dtype", "vocab_size", "label_names", "shard_size")


@dataclass
class Shard:
    """Tokens (count, views, N) of consecutive rows; `rows` counts those that could not be read as well."""

    tokens: list[np.ndarray] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    unreadable: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0


@dataclass(frozen=True, kw_only=True)
class ShardWriter:
    """Writes the shards `rank`, `rank + world_size`, … of a store; others write the rest.

    Args:
        folder: of the store.
        shape: (views, N) of the tokens of an image.
        settings: whatever decides the tokens, as JSON; shards made with others are refused. `SETTINGS` must be in it.
        length: rows of the source, None for a stream that cannot tell.
        rank: this process among `world_size`.
    """

    folder: Path
    shape: tuple[int, int]
    settings: Mapping[str, Any]
    length: int | None
    rank: int = 0
    world_size: int = 1

    def missing(self) -> Iterator[tuple[int, range]]:
        """Number and rows of this process's shards that are not there, or damaged.

        Where the length is not known it goes on until a shard that is there was not full, the source's end.
        """
        size = self.settings["shard_size"]
        for number in count(self.rank, self.world_size):
            if self.length is not None and number * size >= self.length:
                return
            record = self.read(number)
            if record is None:
                if (self.folder / f"{_name(number)}.json").exists():
                    print(f"{self.folder}: {_name(number)} is damaged and is made anew")
                    (self.folder / "manifest.json").unlink(missing_ok=True)
                end = (number + 1) * size if self.length is None else min((number + 1) * size, self.length)
                yield number, range(number * size, end)
            elif record["rows"] < size:
                return

    def read(self, number: int, *, verify: bool = True) -> dict[str, Any] | None:
        """The record of a shard, None if it is not there or damaged; ValueError if it was made otherwise."""
        path = self.folder / f"{_name(number)}.json"
        if not path.exists():
            return None
        try:
            record = read_json(path)
        except ValueError:
            return None
        self._check_settings(record["settings"])
        for kind, expected in record["check_sums"].items() if verify else ():
            file = self.folder / f"{record['name']}.{kind}"
            if not file.exists() or check_sum(file) != expected:
                return None
        return record

    def write(self, number: int, shard: Shard) -> None:
        """Write one shard; OSError on a full disk, which leaves the shards before it whole."""
        tokens = np.concatenate([np.empty((0, *self.shape), np.uint16), *shard.tokens])
        record = {
            "name": _name(number),
            "count": len(shard.labels),
            "rows": shard.rows,
            "check_sums": {
                TOKENS: _save(self.folder / f"{_name(number)}.{TOKENS}", tokens),
                LABELS: _save(self.folder / f"{_name(number)}.{LABELS}", np.asarray(shard.labels, dtype=np.int64)),
            },
            "unreadable_images": shard.unreadable,
            "settings": dict(self.settings),
        }
        write_json(self.folder / f"{_name(number)}.json", record)

    def write_manifest(self) -> bool:
        """Write the manifest if all shards are there; False if not.

        Raises ValueError if no image of any shard could be read.
        """
        records = self._all_records()
        if records is None:
            return False
        unreadable = [entry for record in records for entry in record["unreadable_images"]]
        images = sum(record["count"] for record in records)
        if not images:
            first = unreadable[0]["reason"] if unreadable else "there is none"
            raise ValueError(f"none of {len(unreadable)} images could be read; the first: {first}")
        manifest = {
            "shape": [images, *self.shape],
            **{name: self.settings[name] for name in SETTINGS},
            "unreadable": len(unreadable),
            "unreadable_images": unreadable,
            "shards": [{name: each[name] for name in ("name", "count", "check_sums")} for each in records],
        }
        if self._manifest_is(manifest):
            return True
        # Aside under this process's own name: the last processes of a run may all find that nothing is missing.
        aside = self.folder / f"manifest-{self.rank}.json"
        write_json(aside, manifest)
        os.replace(aside, self.folder / "manifest.json")
        return True

    def _manifest_is(self, manifest: Mapping[str, Any]) -> bool:
        try:
            return bool(read_json(self.folder / "manifest.json") == json.loads(json.dumps(manifest)))
        except (FileNotFoundError, ValueError):  # torn, it is written anew
            return False

    def _all_records(self) -> list[dict[str, Any]] | None:
        """Records in order, to the source's end; None if one is missing."""
        records: list[dict[str, Any]] = []
        size = self.settings["shard_size"]
        while self.length is None or len(records) * size < self.length:
            record = self.read(len(records), verify=False)
            if record is None:
                return None
            records.append(record)
            if record["rows"] < size:
                break
        return records

    def _check_settings(self, found: Mapping[str, Any]) -> None:
        for name, value in self.settings.items():
            if found.get(name) == value:
                continue
            if name == "tokenizer":
                what = f"holds tokens made by tokenizer {found.get(name)}, but the one given is {value}"
            else:
                what = f"was made of other images: {name} is {repr(found.get(name))} there, now {repr(value)}"
            raise ValueError(f"{self.folder} {what}. Give another folder, or remove that one to make it again")


def _name(number: int) -> str:
    return f"shard-{number:05d}"


def _save(path: Path, array: np.ndarray) -> int:
    with written_whole(path) as file:
        np.save(file, array)
    return check_sum(path)


def in_time(deadline: float | None) -> bool:
    """Whether `time.monotonic` has not come to the deadline yet; there is time for ever if that is None."""
    return deadline is None or time.monotonic() < deadline


def check_sum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
