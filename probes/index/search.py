"""Searching an index: exact comparison of what it finds, ties by lowest id, the query itself left out by id."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from torch import Tensor

from ..inputs import Array, Labels, feature_matrix, row_ids
from ..retrieval import Neighbours, best_rows
from . import files
from .settings import IndexSettings
from .vectors import (
    FaissIndex,
    faiss,
    feature_differences,
    load_standardizer,
    mapped_vectors,
    normalize,
    stored_vectors,
)

WALK_UP_TO = 2048  # more candidates than that are faster found by reading everything than by walking a graph


class VectorIndex:
    """An index that `build_index` wrote.

    Attributes:
        manifest: settings, what the features are, files with their checksums.
        settings: kind and sizes.
        features: encoder, weights, output, pooling, as given when it was built.
        rows: how many rows it was built of; ids are 0 … rows − 1.
        left_out: those of them that could not be used (NaN), which are never found.
    """

    def __init__(self, folder: str | Path, *, features: Mapping[str, Any] | None = None, verify: bool = True) -> None:
        """Open the index in `folder`; `features`: what the queries will be, refused if they are others.

        verify: compare the checksums of all files.

        Raises:
            FileNotFoundError: no finished index is there.
            IndexFilesError: a file is missing or damaged, or the index is of other features.
        """
        folder = Path(folder)
        manifest = files.read_state(folder, files.MANIFEST)
        if manifest is None:
            unfinished = (folder / files.BUILDING).exists()
            what = "an index that is not finished; build it again, and it goes on" if unfinished else "no index"
            raise FileNotFoundError(f"{folder} holds {what} ({files.MANIFEST} is missing)")
        self.folder, self.manifest = folder, manifest
        self.settings = IndexSettings(**manifest["settings"])
        self.features: dict[str, Any] = manifest["features"]
        self.rows: int = manifest["rows"]
        self.left_out: list[int] = manifest["left_out"]
        if features is not None:
            self.check_features(features)
        if verify:
            files.check_files(folder, manifest)
        self._load()

    def _load(self) -> None:
        records = self.manifest["files"]
        self._index = faiss.read_index(str(self.folder / records["index"]["name"]))
        self._ids = np.delete(np.arange(self.rows), self.left_out)
        if self._index.ntotal != len(self._ids):
            raise files.IndexFilesError(
                f"{self.folder} holds {self._index.ntotal} vectors, its manifest says {len(self._ids)}: build it again"
            )
        named = records.get("normalization")
        self._standardizer = None if named is None else load_standardizer(self.folder / named["name"])
        count = len(self._ids) if "vectors" in records else 0
        self._mapped = mapped_vectors(self.folder, count, self.settings.dim)

    def __len__(self) -> int:
        """How many vectors can be found."""
        return len(self._ids)

    def __repr__(self) -> str:
        return f"VectorIndex({self.settings.kind}, {len(self)} vectors of {self.settings.dim} numbers, {self.folder})"

    def check_features(self, features: Mapping[str, Any]) -> None:
        """IndexFilesError that says in what these features differ from those that the index is of."""
        if differing := feature_differences(self.features, features):
            raise files.IndexFilesError(
                f"the index {self.folder} is of other features than the queries: {'; '.join(differing)}. "
                "Extract the queries' features as the index's were, or build an index of these"
            )

    @cached_property
    def columns(self) -> pa.Table:
        """What is known of each row: "row" and the columns given when it was built."""
        return parquet.read_table(self.folder / self.manifest["files"]["columns"]["name"])

    @property
    def bytes_per_vector(self) -> dict[str, float]:
        """Bytes in memory (the index) and on disk (the index and the vectors that candidates are compared with)."""
        records = self.manifest["files"]
        memory = records["index"]["bytes"] / len(self)
        return {"memory": memory, "disk": memory + records.get("vectors", {"bytes": 0})["bytes"] / len(self)}

    def search(
        self,
        queries: Array,
        k: int,
        exclude: Labels | None = None,
        *,
        probes: int | None = None,
        candidates: int | None = None,
    ) -> Neighbours:
        """The `k` rows most similar to each of `queries` (Q, D), features as the index was built of.

        Similarities are cosines with the vectors themselves (ivfpq: in half precision). Equal ones rank by
        lowest id. Of hnsw and ivfpq some of the true neighbours may be missing, but never some of the k.

        Args:
            queries: not normalised; the index does it.
            k: how many, at most those that can be found.
            exclude: (Q,) the row that must not be found, such as the query itself; -1 for none.
            probes: ivfpq: lists looked into; None: a 32nd of them, 8 at least.
            candidates: rows that are compared at least; None: 200 (ivfpq), 128 (hnsw).

        Raises:
            TypeError, ValueError: queries of another width or not finite, k or `exclude` out of range.
        """
        rows = normalize(feature_matrix(queries, "queries", self.settings.dim), self._standardizer)
        return self._best(rows.cpu(), k, exclude, probes, candidates)

    def search_rows(
        self, rows: Labels, k: int, *, probes: int | None = None, candidates: int | None = None
    ) -> Neighbours:
        """The `k` rows most similar to each of the index's own `rows` (Q,), without itself; options as in `search`."""
        own = row_ids(rows, "rows", len(rows), self.rows)
        return self._best(self.vectors(own), k, own, probes, candidates)

    def vectors(self, rows: Labels) -> Tensor:
        """The vectors (n, D) of these rows, as the index compares them: normalised, of length 1.

        IndexError: a row that was left out.
        """
        wanted = row_ids(rows, "rows", len(rows), self.rows)
        places = self._places(wanted)
        if (wanted < 0).any():
            raise IndexError(f"rows of this index are 0 … {self.rows - 1}, got {wanted.min()}")
        if (places < 0).any():
            raise IndexError(f"row {wanted[places < 0][0]} is not in the index: its features were not finite")
        return stored_vectors(self._index, self._mapped, places)

    def _places(self, rows: np.ndarray) -> np.ndarray:
        """Where the index holds these rows, -1 for those it does not."""
        places = np.searchsorted(self._ids, rows).clip(max=len(self._ids) - 1)
        return np.where(self._ids[places] == rows, places, -1)

    def _best(
        self, unit: Tensor, k: int, exclude: Labels | None, probes: int | None, candidates: int | None
    ) -> Neighbours:
        own = self._places(row_ids(exclude, "exclude", len(unit), self.rows))
        available = len(self) - int((own >= 0).any())
        if not 1 <= k <= available:
            raise ValueError(f"k must lie within 1 … {available}, the rows that can be found, got {k}")
        for name, value in (("probes", probes), ("candidates", candidates)):
            if value is not None and value < 0:
                raise ValueError(f"{name} must be at least 1, or 0 for the default, got {value}")
        gallery = _Candidates(self._index, self._mapped, self.settings, probes, candidates)
        places, similarities = best_rows(unit, gallery, torch.from_numpy(own), k)
        return Neighbours(self._ids[places], similarities)


class _Candidates:
    """The index as `best_rows` asks it."""

    device = torch.device("cpu")

    def __init__(
        self,
        index: FaissIndex,
        mapped: np.ndarray | None,
        settings: IndexSettings,
        probes: int | None,
        candidates: int | None,
    ) -> None:
        self.index, self.mapped, self.kind = index, mapped, settings.kind
        self.probes = min(settings.lists, probes or max(8, settings.lists // 32))
        self.count = index.ntotal
        self.estimates = settings.kind == "ivfpq"
        self.least_candidates = 0 if settings.kind == "flat" else candidates or (200 if self.estimates else 128)

    def unit(self, ids: Tensor) -> Tensor:
        return stored_vectors(self.index, self.mapped, ids.numpy())

    def nearest(self, queries: Tensor, own: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """One more than asked for is looked for, so that `own` can go."""
        vectors, wanted = np.ascontiguousarray(queries.numpy()), min(width + 1, self.count)
        values, ids = map(torch.from_numpy, self._search(vectors, wanted))
        values[(ids == own[:, None]) | (ids < 0)] = -torch.inf
        values, order = values.sort(dim=1, descending=True, stable=True)
        return values[:, :width], ids.gather(1, order)[:, :width]

    def _search(self, vectors: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        if self.kind == "flat":
            return self.index.search(vectors, width)
        if self.kind == "hnsw":
            return self._walk(vectors, width)
        probes = self.probes
        values, ids = self._look(vectors, width, probes)
        while len(short := np.flatnonzero(ids[:, -1] < 0)) and probes < self.index.nlist:
            probes = min(4 * probes, self.index.nlist)
            values[short], ids[short] = self._look(vectors[short], width, probes)
        return values, ids

    def _look(self, vectors: np.ndarray, width: int, probes: int) -> tuple[np.ndarray, np.ndarray]:
        return self.index.search(vectors, width, params=faiss.SearchParametersIVF(nprobe=probes))

    def _walk(self, vectors: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        if width > WALK_UP_TO:
            return self.index.storage.search(vectors, width)
        values, ids = self.index.search(vectors, width, params=faiss.SearchParametersHNSW(efSearch=width))
        if len(short := np.flatnonzero(ids[:, -1] < 0)):  # a part of the graph that no walk reaches
            values[short], ids[short] = self.index.storage.search(vectors[short], width)
        return values, ids
