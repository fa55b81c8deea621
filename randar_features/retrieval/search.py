"""Searching an index with images, with vectors, or with its own images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes import Neighbours
from probes.index import IndexSettings, VectorIndex
from probes.inputs import Array, integer_vector
from randar_features.data.decode.opening import MAX_PIXELS
from randar_features.data.decode.ranges import Reading
from randar_features.features import FeatureTable
from randar_features.features.store import FeatureStore
from randar_features.hub import Model
from randar_features.retrieval.encoders import Encoder, check_encoder, encode, encoder_of
from randar_features.retrieval.tables import hashes, store_state
from randar_features.sequence import as_index
from randar_features.store.identity import UNREADABLE
from randar_features.store.records import OK, escape

K = 10


@dataclass(frozen=True, eq=False)
class Hits:
    """What was found for each query, best first.

    Attributes:
        ids: int64 (Q, k), numbers of the indexed images; -1 for a query that could not be read.
        scores: float32 (Q, k), cosines in [-1, 1]; NaN for a query that could not be read.
        paths: (Q, k) file of each image, or None.
        labels: int64 (Q, k), -1 where an image has none.
        label_names: names of the classes, or None.
        queries: file of each query, or None.
        own: int64 (Q,), the indexed image that is the query itself and was left out, -1 for none.
        status: "ok" of each query, or why it could not be read.
    """

    ids: np.ndarray
    scores: np.ndarray
    paths: list[list[str | None]]
    labels: np.ndarray
    label_names: list[str] | None
    queries: list[str | None]
    own: np.ndarray
    status: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Hits({self.ids.shape[1]} images for each of {len(self)} queries)"

    def label_of(self, label: int) -> str | int | None:
        """The name of a class, or its number where it has none; None for no label."""
        if label < 0:
            return None
        return self.label_names[label] if self.label_names else int(label)

    def to_dicts(self) -> list[dict[str, Any]]:
        """A dictionary for each image found: query, query_path, rank, id, score, path, label."""
        return [
            {
                "query": query,
                "query_path": self.queries[query],
                "rank": place + 1,
                "id": int(self.ids[query, place]),
                "score": float(self.scores[query, place]),
                "path": self.paths[query][place],
                "label": self.label_of(int(self.labels[query, place])),
            }
            for query in range(len(self))
            for place in range(self.ids.shape[1])
            if self.ids[query, place] >= 0
        ]

    def to_pandas(self) -> Any:
        """`to_dicts` as a pandas DataFrame. Names that are no UTF-8 are escaped, see `store.records.escape`."""
        import pandas

        names = ["query", "query_path", "rank", "id", "score", "path", "label"]
        found = [
            {name: escape(value) if isinstance(value, str) else value for name, value in hit.items()}
            for hit in self.to_dicts()
        ]
        return pandas.DataFrame(found, columns=names)


def open_index(folder: str | Path, *, verify: bool = True) -> Index:
    """Open the index that `build_index` made in `folder`; warns if its store or its images have changed.

    Args:
        folder: of the index.
        verify: compare the checksums of its files.

    Raises:
        FileNotFoundError: there is no index, or it is not finished.
        IndexFilesError: a file is missing, damaged or of another index.
    """
    index = Index(folder, verify=verify)
    if changes := index.changes():
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        todo = "Build the index again; where images have changed or are gone, remove its folder first"
        warnings.warn(f"{index.folder}: {'; '.join(changes[:3])}{more}. {todo}", stacklevel=2)
    return index


class Index:
    """An index of images, to find those that are most similar to a query.

    Attributes:
        vectors: the index of the vectors of the images.
        folder: folder of the index.
        features: encoder, weights, spec and pooling of the vectors.
        settings: kind, sizes and normalization.
        label_names: names of the classes, or None.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True) -> None:
        self.vectors = VectorIndex(folder, verify=verify)
        self.folder = self.vectors.folder
        self.features: dict[str, Any] = self.vectors.features
        self.settings: IndexSettings = self.vectors.settings
        self.label_names: list[str] | None = self.features.get("label_names")
        self._encoder: Encoder | None = None

    def __len__(self) -> int:
        """How many images can be found."""
        return len(self.vectors)

    def __repr__(self) -> str:
        spec = self.features.get("output")
        return (
            f"Index({self.settings.kind}, {len(self)} images, {spec} of {self.features.get('encoder')}, {self.folder})"
        )

    @cached_property
    def paths(self) -> list[str | None]:
        """File of each indexed image, or None."""
        return [os.fsdecode(path) if isinstance(path, bytes) else path for path in self._column("path", None)]

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 (n,), -1 where an image has none."""
        return np.array([-1 if label is None else label for label in self._column("label", -1)], np.int64)

    @cached_property
    def content(self) -> list[str]:
        """A hash of each image, "" where nothing is known of its content."""
        return self._column("content", "")

    def _column(self, name: str, missing: Any) -> list[Any]:
        columns = self.vectors.columns
        return columns[name].to_pylist() if name in columns.column_names else [missing] * self.vectors.rows

    def changes(self) -> list[str]:
        """How the stores or files that the index was built of have changed since, in words; empty: they have not."""
        found = []
        for source in self.features.get("source") or []:
            if (Path(source["folder"]) / "manifest.json").exists():
                try:
                    same = store_state(FeatureStore(source["folder"])) == source["state"]
                except ValueError:
                    same = False
                found += [] if same else [f"the store {source['folder']} has changed"]
        files = self._column("is_file", True)
        for path, file, known, now in zip(self.paths, files, self.content, hashes(self.paths), strict=True):
            if file and known != now and known != UNREADABLE:
                found.append(f"{path} {'has changed' if now else 'is gone'}")
        return found

    def search(
        self,
        queries: Any,
        k: int | None = None,
        *,
        exclude: Sequence[int] | np.ndarray | None = None,
        model: str | Model | None = None,
        encoder: Encoder | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        nprobe: int | None = None,
        efSearch: int | None = None,
        candidates: int | None = None,
        value_range: tuple[float, float] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Hits:
        """Find the `k` indexed images that are most similar to each query. A query that is in the index is left out.

        Args:
            queries: images in any form, which are encoded as the indexed ones were; or vectors (Q, D), or one (D,),
                of floats, of the same features.
            k: number of images to find; None: 10, or all if there are fewer.
            exclude: (Q,) for each query the number of an indexed image that must not be found, -1 for none; None: if
                the queries are images, the one with the same path or the same content.
            model: where the index's model is now, if it has moved.
            encoder: the encoder, if the index was not made by a model.
            device: where the queries are encoded.
            batch_size: images in one forward pass.
            nprobe, efSearch, candidates: the effort of the search, as in `probes.index.VectorIndex.search`.
            value_range, max_pixels: for the queries, as in `open_images`; None: the range of the index.

        Raises:
            ValueError, TypeError: k or `exclude` out of range, vectors of another width or with NaN.
            IndexFilesError: the model is not the one that the index was built with.
            ImageError, FileNotFoundError: none of the queries can be read.
        """
        effort = {"nprobe": nprobe, "efSearch": efSearch, "candidates": candidates}
        if isinstance(queries, FeatureTable):
            raise TypeError(f"queries are a table: give its vectors, as in table[{self.features['output']!r}]")
        if is_vectors(queries):
            given = queries[None] if queries.ndim == 1 else queries
            paths: list[str | None] = [None] * len(given)
            return self._hits(given, paths, [OK] * len(paths), exclude, k, effort)
        self.vectors.check_search(k, **effort)
        if as_index("batch_size", batch_size) < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        reading = Reading(self.features.get("value_range") if value_range is None else value_range, max_pixels)
        if encoder is not None:
            check_encoder(self.vectors, encoder)
        elif self._encoder is None or model is not None or device is not None:
            self._encoder = encoder_of(self.vectors, model, device=device)
        used = encoder or self._encoder
        assert used is not None
        about = self.features
        vectors, paths, status, content, files = encode(
            used,
            queries,
            about["output"],
            about["pooling"],
            batch_size=batch_size,
            reading=reading,
        )
        own_paths = [path if is_file else None for path, is_file in zip(paths, files, strict=True)]
        own = self.own(own_paths, content) if exclude is None else exclude
        return self._hits(vectors, paths, status, own, k, effort)

    def search_own(self, ids: Sequence[int] | np.ndarray, k: int | None = None, **effort: int | None) -> Hits:
        """The `k` images most similar to each of the indexed images `ids` (Q,), without itself; options of `search`."""
        own = integer_vector(ids, "ids")
        found = self.vectors.search_rows(own, self._k(k, own), **effort)
        return self._told(found, [self.paths[number] for number in own], own, [OK] * len(own))

    def own(self, paths: Iterable[str | None], content: Iterable[str] | None = None) -> np.ndarray:
        """Which indexed image each image is, by its path however spelled, else by its content; -1 for none: (Q,).

        Args:
            paths: file of each, or None, also where the path is a name in a table.
            content: hash of each, see `store.identity`; None: of the files.
        """
        paths = list(paths)
        content = hashes(paths) if content is None else list(content)
        by_content = {known: number for number, known in reversed(list(enumerate(self.content))) if known}
        found = []
        for path, known in zip(paths, content, strict=True):
            number = self._by_path.get(_resolved(path), -1) if path else -1
            # A name in a table, which is no file, may be that of many images.
            if number < 0 or not (os.path.isfile(str(path)) or self.content[number] in ("", known)):
                number = by_content.get(known, -1)
            found.append(number)
        return np.array(found, np.int64)

    @cached_property
    def _by_path(self) -> dict[str, int]:
        # A name in a table or an archive says nothing where the content is known: other tables have the same names.
        files = zip(self.paths, self._column("is_file", True), self.content, strict=True)
        places = [(path, number) for number, (path, file, known) in enumerate(files) if path and (file or not known)]
        return {_resolved(path): number for path, number in reversed(places)}

    def _k(self, k: int | None, own: np.ndarray) -> int:
        return max(1, min(K, len(self) - int((own >= 0).any()))) if k is None else k

    def _hits(
        self,
        vectors: Array,
        paths: list[str | None],
        status: list[str],
        exclude: Sequence[int] | np.ndarray | None,
        k: int | None,
        effort: dict[str, int | None],
    ) -> Hits:
        """What is found for the queries; `vectors` are those of the readable ones."""
        own = np.full(len(status), -1) if exclude is None else np.asarray(exclude)
        if own.shape != (len(status),):
            raise ValueError(f"exclude must have shape ({len(status)},), one number a query; got {own.shape}")
        k = self._k(k, own)
        readable = np.array([reason == OK for reason in status])
        part = self.vectors.search(vectors, k, own[readable], **effort)
        ids, scores = np.full((len(status), k), -1), np.full((len(status), k), np.nan, np.float32)
        ids[readable], scores[readable] = part.ids, part.similarities
        return self._told(Neighbours(ids, scores), paths, own, status)

    def _told(self, found: Neighbours, paths: list[str | None], own: np.ndarray, status: list[str]) -> Hits:
        known = [[self.paths[number] if number >= 0 else None for number in ids] for ids in found.ids.tolist()]
        labels = np.where(found.ids >= 0, self.labels[found.ids], -1)
        return Hits(found.ids, found.similarities, known, labels, self.label_names, paths, own, status)


def is_vectors(queries: Any) -> bool:
    """Whether queries are vectors (Q, D) or (D,) of floats, not images."""
    if isinstance(queries, Tensor):
        return queries.ndim in (1, 2) and queries.is_floating_point()
    return isinstance(queries, np.ndarray) and queries.ndim in (1, 2) and queries.dtype.kind == "f"


def _resolved(path: str) -> str:
    return str(Path(path).resolve())
