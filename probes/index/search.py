"""Searching an index: exact comparison of what it finds, ties by lowest id, the query itself left out by id."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from probes.index import files
from probes.index.faiss_file import FaissIndex, faiss, read_faiss
from probes.index.settings import IndexSettings
from probes.index.vectors import (
    VECTORS_FILE,
    feature_differences,
    load_transform,
    mapped_vectors,
    normalize,
    stored_vectors,
)
from probes.inputs import Array, Labels, feature_matrix, integer_vector, row_ids, whole_number
from probes.retrieval import Neighbours, best_rows

WALK_UP_TO = 2048  # for more candidates, reading everything is faster than walking a graph


class VectorIndex:
    """An index that `build_index` wrote.

    Attributes:
        manifest: settings, what the features are, files with their checksums.
        settings: kind and sizes.
        features: encoder, weights, output, pooling, as given when it was built.
        rows: how many rows it was built of; ids are 0 … rows − 1.
        left_out: the rows that could not be used (NaN) and are never found.
    """

    def __init__(self, folder: str | Path, *, features: Mapping[str, Any] | None = None, verify: bool = True) -> None:
        """Open the index in `folder`; `features`: of the queries, refused if they differ.

        verify: compare the checksums of all files. In any case each file must be of the kind and size that the manifest
        says, and nothing outside the folder is opened.

        Raises:
            FileNotFoundError: no finished index is there.
            IndexFilesError: a file is missing or damaged, or the index is of other features.
        """
        self.folder = Path(folder)
        manifest = self._manifest()
        try:
            self._open(manifest, verify)
        except files.IndexFilesError:
            # Another process may have added rows meanwhile, which removes the files of the smaller index.
            if (later := self._manifest()) == manifest:
                raise
            self._open(later, verify)
        if features is not None:
            self.check_features(features)

    def _manifest(self) -> dict[str, Any]:
        manifest = files.read_state(self.folder, files.MANIFEST)
        if manifest is None:
            unfinished = (self.folder / files.BUILDING).exists()
            what = "an index that is not finished; build it again, and it goes on" if unfinished else "no index"
            raise FileNotFoundError(f"{self.folder} holds {what} ({files.MANIFEST} is missing)")
        return manifest

    def _open(self, manifest: dict[str, Any], verify: bool) -> None:
        self.manifest = manifest
        self.settings = IndexSettings(**manifest["settings"])
        self.features: dict[str, Any] = manifest["features"]
        self.rows: int = manifest["rows"]
        self.left_out: list[int] = manifest["left_out"]
        self.__dict__.pop("columns", None)
        files.check_files(self.folder, manifest, content=verify)
        records = manifest["files"]
        self._index = read_faiss(self._path("index"), self.settings.kind, self.settings.width)
        count = self.rows - len(self.left_out)
        if self._index.ntotal != count or not count:
            raise self._unlike(f"{self._index.ntotal} vectors", f"{count}")
        self._ids = np.delete(np.arange(self.rows), self.left_out)
        plain = self.settings.normalization == "unit"
        self._transform = None if plain else load_transform(self._path("normalization"), self.settings)
        if (self.settings.kind == "ivfpq", plain) != ("vectors" in records, "normalization" not in records):
            raise self._unlike(
                f"{', '.join(records)}", f"those of a {self.settings.normalization} {self.settings.kind} index"
            )
        if "vectors" in records and records["vectors"] != records["vectors"] | self._halves(count):
            raise self._unlike(str(records["vectors"]), str(self._halves(count)))
        self._mapped = mapped_vectors(self.folder, count if "vectors" in records else 0, self.settings.width)

    def _path(self, kind: str) -> Path:
        """The path of a file that the manifest must name."""
        if kind not in self.manifest["files"]:
            raise self._unlike(f"no {kind}", f"one of {self.settings.normalization} {self.settings.kind}")
        return self.folder / self.manifest["files"][kind]["name"]

    def _halves(self, count: int) -> dict[str, Any]:
        return {"name": VECTORS_FILE, "bytes": 2 * count * self.settings.width}

    def _unlike(self, found: str, expected: str) -> files.IndexFilesError:
        path = self.folder / files.MANIFEST
        return files.IndexFilesError(f"{path} is damaged: it names {found}, expected {expected}. Build the index again")

    def __len__(self) -> int:
        """How many vectors can be found."""
        return len(self._ids)

    def __repr__(self) -> str:
        return f"VectorIndex({self.settings.kind}, {len(self)} vectors of {self.settings.dim} numbers, {self.folder})"

    def check_features(self, features: Mapping[str, Any]) -> None:
        """IndexFilesError that names the differences if these are not the features that the index was built from."""
        if differing := feature_differences(self.features, features):
            raise files.IndexFilesError(
                f"the index {self.folder} is of other features than the queries: {'; '.join(differing)}. "
                "Extract the queries' features as the index's were, or build an index of these"
            )

    @cached_property
    def columns(self) -> pa.Table:
        """The columns that were given when the index was built, and "row".

        IndexFilesError: the file is torn, or has not a row for each image.
        """
        return files.read_columns(self._path("columns"), self.rows)

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
        nprobe: int | None = None,
        efSearch: int | None = None,
        candidates: int | None = None,
    ) -> Neighbours:
        """The `k` rows most similar to each of `queries` (Q, D), features of the kind that the index was built from.

        Similarities are cosines with the vectors themselves (ivfpq: in half precision); the lowest id comes first among
        equals. hnsw and ivfpq may miss true neighbours, but always give k rows.

        Args:
            queries: not normalised; the index does it.
            k: how many, at most those that can be found.
            exclude: (Q,) the row that must not be found, such as the query itself; -1 for none.
            nprobe: ivfpq: number of lists that are searched; None: a 32nd of them, at least 8.
            efSearch: hnsw: least number of rows that the walk keeps; None: 128.
            candidates: ivfpq: least number of rows that are compared; None: 200.

        Raises:
            TypeError, ValueError: queries of another width or not finite, k or `exclude` out of range, or an option
                that this kind of index does not have.
        """
        rows = normalize(feature_matrix(queries, "queries", self.settings.dim), self._transform)
        return self._best(rows.cpu(), k, exclude, Effort(nprobe, efSearch, candidates))

    def check_search(self, k: int | None, **effort: int | None) -> None:
        """TypeError or ValueError for a `k` or an option that `search` would refuse, before the queries are made."""
        Effort(**effort).check(self.settings.kind)
        if k is not None:
            _check_k(k, len(self))

    def search_rows(self, rows: Labels, k: int, **effort: int | None) -> Neighbours:
        """The `k` rows most similar to each of the index's own `rows` (Q,), without itself; options as in `search`."""
        own = row_ids(integer_vector(rows, "rows"), "rows", len(rows), self.rows)
        return self._best(self.vectors(own), k, own, Effort(**effort))

    def vectors(self, rows: Labels) -> Tensor:
        """The vectors (n, D) of these rows, as the index compares them: normalised, of length 1.

        IndexError: a row that was left out.
        """
        wanted = row_ids(integer_vector(rows, "rows"), "rows", len(rows), self.rows)
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

    def _best(self, unit: Tensor, k: int, exclude: Labels | None, effort: Effort) -> Neighbours:
        effort.check(self.settings.kind)
        own = self._places(row_ids(exclude, "exclude", len(unit), self.rows))
        available = len(self) - int((own >= 0).any())
        k = _check_k(k, available)
        gallery = _Candidates(self._index, self._mapped, self.settings, effort)
        places, similarities = best_rows(unit, gallery, torch.from_numpy(own), k)
        return Neighbours(self._ids[places], similarities)


def _check_k(k: int, available: int) -> int:
    if not 1 <= (k := whole_number(k, "k")) <= available:
        raise ValueError(f"k must lie within 1 … {available}, the rows that can be found, got {k}")
    return k


class Effort(NamedTuple):
    """The options of `VectorIndex.search` that trade time for recall; None: the default."""

    nprobe: int | None = None
    efSearch: int | None = None
    candidates: int | None = None

    def check(self, kind: str) -> None:
        """ValueError for a number below 1, or one that this kind of index does not have; TypeError for no integer."""
        own = {"flat": (), "hnsw": ("efSearch",), "ivfpq": ("nprobe", "candidates")}[kind]
        for name, value in self._asdict().items():
            if value is not None and (name not in own or whole_number(value, name) < 1):
                expected = "at least 1" if name in own else f"None for an index of kind {kind}"
                raise ValueError(f"{name} must be {expected}, got {value}")


class _Candidates:
    """The index in the form that `best_rows` takes."""

    device = torch.device("cpu")

    def __init__(self, index: FaissIndex, mapped: np.memmap | None, settings: IndexSettings, effort: Effort) -> None:
        self.index, self.mapped, self.kind = index, mapped, settings.kind
        self.nprobe = min(settings.nlist, int(effort.nprobe or max(8, settings.nlist // 32)))
        self.count = index.ntotal
        self.estimates = settings.kind == "ivfpq"
        least = {"flat": 0, "hnsw": effort.efSearch or 128, "ivfpq": effort.candidates or 200}
        self.least_candidates = int(least[settings.kind])

    def unit(self, ids: Tensor) -> Tensor:
        return stored_vectors(self.index, self.mapped, ids.numpy())

    def nearest(self, queries: Tensor, own: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Searches one more than `width`, so that `own` can be left out."""
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
        nprobe = self.nprobe
        values, ids = self._look(vectors, width, nprobe)
        while len(short := np.flatnonzero(ids[:, -1] < 0)) and nprobe < self.index.nlist:
            nprobe = min(4 * nprobe, self.index.nlist)
            values[short], ids[short] = self._look(vectors[short], width, nprobe)
        return values, ids

    def _look(self, vectors: np.ndarray, width: int, nprobe: int) -> tuple[np.ndarray, np.ndarray]:
        values, ids = self.index.search(vectors, width, params=faiss.SearchParametersIVF(nprobe=nprobe))
        if self.mapped is not None and ids.max() >= len(self.mapped):
            beside = Path(str(self.mapped.filename)).parent
            raise files.IndexFilesError(f"{beside}: lists of the index name vectors that are not there: build it again")
        return values, ids

    def _walk(self, vectors: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        if width > WALK_UP_TO:
            return self.index.storage.search(vectors, width)
        values, ids = self.index.search(vectors, width, params=faiss.SearchParametersHNSW(efSearch=width))
        if len(short := np.flatnonzero(ids[:, -1] < 0)):  # a part of the graph that no walk reaches
            values[short], ids[short] = self.index.storage.search(vectors[short], width)
        return values, ids
