"""What an index is built from: one vector for each image of tables of features, and what the vectors are."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from probes.pooling import pool
from randar_features.features import FeatureSpec, FeatureTable
from randar_features.features.store import FeatureStore
from randar_features.precision import format_of, parse_format, weights_dtype
from randar_features.store.identity import hash_files


@dataclass(frozen=True)
class Vectors:
    """The vectors of one spec of one or several tables, one after the other.

    Attributes:
        tables: of the same features.
        name: the spec, as the tables name it.
        about: what the vectors are, with "pooling" of maps among it; queries must be the same.
    """

    tables: Sequence[FeatureTable]
    name: str
    about: dict[str, Any]

    def __len__(self) -> int:
        return sum(map(len, self.tables))

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """(first image, vectors (b, D) float32) one after the other; those of unreadable images are NaN."""
        first = 0
        for table in self.tables:
            for start, block in table.blocks(self.name, size):
                maps = torch.from_numpy(block)
                yield first + start, (maps if maps.ndim == 2 else pool(maps, self.about["pooling"])).numpy()
            first += len(table)

    @cached_property
    def dim(self) -> int:
        """D of the vectors."""
        return next(iter(self.blocks(1)))[1].shape[1]

    @cached_property
    def label_names(self) -> list[str] | None:
        """Names of the classes of all tables, those of the first table first; None where they have none."""
        first, *others = (table.label_names or [] for table in self.tables)
        new = dict.fromkeys(name for names in others for name in names if name not in first)
        return [*first, *new] or None

    @cached_property
    def labels(self) -> np.ndarray:
        """(n,) int64, -1 where an image has none; a class has one number, whichever table an image is in."""
        return np.concatenate([_labels(table, self.label_names or []) for table in self.tables])

    def columns(self) -> dict[str, list[Any]]:
        """Of each image its path, its label, a hash of its content, and whether that is a file of its own.

        The hash is "" where nothing is known of the content, as of a table in memory.
        """
        paths = [path for table in self.tables for path in table.paths]
        of_files = hashes(paths)
        known = [known for table in self.tables for known in _content(table)]
        return {
            "path": paths,
            "label": self.labels.tolist(),
            "content": [image or file for file, image in zip(of_files, known, strict=True)],
            "is_file": [
                # A file of the working directory may have the name of an image in a table.
                bool(file) and (image in ("", file) or os.path.isabs(path or ""))
                for path, file, image in zip(paths, of_files, known, strict=True)
            ],
        }

    def source(self) -> list[dict[str, str]]:
        """The stores that the vectors come from, and the state that they are in."""
        return [
            {"folder": str(store.folder.resolve()), "state": store_state(store)}
            for store in (table.store for table in self.tables)
            if store is not None
        ]


def as_vectors(tables: Sequence[FeatureTable], spec: str | None, pooling: str) -> Vectors:
    """The vectors of one spec of tables.

    Raises:
        ValueError: no such spec, several to choose from, tables that were pooled otherwise, tables of different
            features, or classes with names in one table and without in another.
    """
    name = chosen_name(tables[0], spec)
    about = [_describe(table, name, pooling) for table in tables]
    for table, other in zip(tables[1:], about[1:], strict=True):
        if other != about[0]:
            raise ValueError(f"{table} holds {other}, {tables[0]} {about[0]}: one index, one kind of features")
    named = {table.label_names is not None: table for table in tables if (_labels(table, []) >= 0).any()}
    if len(named) > 1:
        raise ValueError(
            f"the classes of {named[True]} have names, those of {named[False]} only numbers: label them alike"
        )
    return Vectors(tables, name, about[0])


def chosen_name(table: FeatureTable, spec: str | None) -> str:
    """What the table calls `spec` ("reverse/image/2", or its own name); None: the only one that it has."""
    names = table.specs
    if spec is None:
        if len(names) > 1:
            raise ValueError(f"{table} holds several features, choose one by spec: {', '.join(names)}")
        return names[0]
    if spec in names:
        return spec
    raise ValueError(f"{table} holds no {spec!r}: expected one of {', '.join(names)}")


def _describe(table: FeatureTable, name: str, pooling: str) -> dict[str, Any]:
    """What the vectors are."""
    details, pooled = table.details, table.details["pool"]
    about = {"encoder": details["model"], "weights": details["weights"], "image_size": details["image_size"]}
    if table.store is None:
        output = FeatureSpec.parse(name).details() | {"classes": details["classes"]}
    else:
        output = table.store.manifest["outputs"][name]
    if pooled is not None and pooling not in (pooled, "mean"):
        raise ValueError(f"{table} was pooled by {pooled}: extract maps (pool=None) for pooling {pooling!r}")
    return about | _reading(details) | {"pooling": pooled or pooling} | described(name, output)


def _reading(details: Mapping[str, Any]) -> dict[str, Any]:
    """The number format that features were computed in, and the values of black and white if they were stated."""
    dtype, weights, stated = (details.get(name) for name in ("dtype", "weights_dtype", "value_range"))
    if dtype is not None and weights is not None:  # else the format of the products is that of the weights too
        dtype = format_of(parse_format(dtype)[0], weights_dtype(weights))
    return {"dtype": dtype} | ({} if stated is None else {"value_range": list(stated)})


def described(name: str, details: Mapping[str, Any]) -> dict[str, Any]:
    """One spec of an encoder in an index's description: its name, and those of its details that are set."""
    return {
        "output": name,
        **{key: value for key, value in details.items() if value is not None and value is not False},
    }


def _content(table: FeatureTable) -> list[str]:
    """A hash of each image; "" where the table does not know it: one that was saved knows the features alone."""
    if table.store is not None and "table" not in table.store.manifest:
        return table.store.hashes
    return [""] * len(table)


def _labels(table: FeatureTable, names: Sequence[str]) -> np.ndarray:
    """(n,) int64, places of the labels among the class names `names`; without these as they are; -1 for none."""
    if table.labels is None:
        return np.full(len(table), -1, np.int64)
    labels, own = np.asarray(table.labels, np.int64), table.label_names or []
    if not names or own == list(names[: len(own)]):
        return labels
    return np.array([*map(names.index, own), -1])[labels]


def hashes(paths: Sequence[str | None]) -> list[str]:
    """A hash of each file's content, "" where there is no such file."""
    files = [path for path in paths if path is not None and os.path.isfile(path)]
    known = dict(zip(files, hash_files(files), strict=True))
    return [known.get(path, "") if path is not None else "" for path in paths]


def store_state(store: FeatureStore) -> str:
    """A hash that changes when the store does: of its manifest and its shards' names, which hold their checksums."""
    digest = hashlib.sha256((store.folder / "manifest.json").read_bytes())
    for shard in store.shards:
        digest.update(shard.path.name.encode())
    return digest.hexdigest()[:16]
