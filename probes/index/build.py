"""Building an index: block by block, in bounded memory, to be gone on with after a kill."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from threadpoolctl import threadpool_limits
from torch import Tensor
from tqdm.auto import tqdm

from ..standardizer import Standardizer
from . import files
from .blocks import Blocks, rebatched, sample_rows, usable_rows
from .memory import TABLE_ROWS, in_words, require_memory, reserved_links
from .settings import IndexSettings
from .vectors import (
    VECTORS_FILE,
    FaissIndex,
    faiss,
    feature_differences,
    load_standardizer,
    mapped_vectors,
    normalize,
    save_standardizer,
    stored_vectors,
)

KEPT = ("kind", "dim", "normalization")  # what an index that is gone on with must agree in
CHECKED_ROWS = 8
CODE_POINTS = 64  # training rows for each code, a quarter of faiss's default: most of the training time goes there


def build_index(
    blocks: Blocks,
    count: int,
    folder: str | Path,
    *,
    settings: IndexSettings,
    features: Mapping[str, Any],
    columns: Mapping[str, Sequence[Any]] | None = None,
    memory_limit: int | None = None,
    threads: int = 1,
    checkpoint_rows: int | None = None,
    progress: bool = True,
) -> None:
    """Make `folder` hold an index of rows 0 … count − 1, to be opened with `VectorIndex`.

    A folder that is there is gone on with: an interrupted building from its last checkpoint, a finished index
    by adding the rows from its last one on (to the lists and codes that it has). With one thread the result is
    the same to the bit, interrupted or not. A row that holds NaN or infinity is left out; no id shifts.

    Args:
        blocks: the features; read twice if there is something to train, else once.
        count: how many rows they have.
        folder: made if it is not there; it is no index before `manifest.json` is in it, which is written last.
        settings: from `choose_settings`; what is gone on with keeps the sizes it was begun with.
        features: what tells these features from others: encoder, its weights, output, pooling. Queries with
            other ones are refused.
        columns: what search results shall tell of a row, for example {"path": [...], "label": [...]}.
        memory_limit: bytes that this process may take; None: what the machine has available.
        threads: more are faster, but sums are then rounded otherwise, and hnsw differs from run to run.
        checkpoint_rows: rows between checkpoints; None: a tenth of them.
        progress: say how much memory it will take, and show a bar.

    Raises:
        IndexMemoryError: it would take more memory; nothing was begun.
        IndexFilesError: the folder holds an index of other features or settings, of other vectors or of more
            rows, or a file of it is damaged.
        ValueError: blocks that are not (b, D), leave rows out, or end before `count`; columns of another
            length; no row without NaN; threads or checkpoint rows below 1.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in (columns or {}).items():
        if len(values) != count:
            raise ValueError(f"column {name} must have a value for each of {count} rows, got {len(values)}")
    if threads < 1 or (checkpoint_rows is not None and checkpoint_rows < 1):
        raise ValueError(f"threads and checkpoint_rows must be at least 1, got {threads} and {checkpoint_rows}")
    state = _state_of(folder, settings, features, count)
    files.check_files(folder, state)
    settings = IndexSettings(**state["settings"])
    peak = require_memory(settings, count, memory_limit, existing=state["rows"])
    if progress:
        tqdm.write(f"{settings.kind} index of {count} vectors: at most {in_words(peak)} of memory")
    step = settings.block_rows * max(1, (checkpoint_rows or count // 10) // settings.block_rows)
    # Tables of distances to codes are made for so many vectors at once: else they may take gigabytes.
    faiss.cvar.product_quantizer_compute_codes_bs = TABLE_ROWS
    with threadpool_limits(threads), tqdm(total=count, unit="row", desc="index", disable=not progress) as bar:
        finished_already = state["rows"] == count and not (folder / files.BUILDING).exists()
        builder = _Builder(folder, settings, state, blocks, count)
        if finished_already:
            return
        bar.update(builder.rows)
        for start, block in rebatched(blocks, builder.rows, count, settings):
            builder.add(start, block)
            bar.update(len(block))
            if builder.rows < count and (builder.rows - state["rows"]) % step == 0:
                files.write_state(folder, files.BUILDING, builder.save())
        if not builder.index.ntotal:
            raise ValueError(f"all {count} rows hold NaN or infinity: there is nothing to search")
        finished = builder.save()
    finished["files"]["columns"] = _save_columns(folder, columns or {}, count)
    files.write_state(folder, files.MANIFEST, finished)


def _state_of(folder: Path, settings: IndexSettings, features: Mapping[str, Any], count: int) -> dict[str, Any]:
    """How far the folder is: what it says itself, checked against what is wanted, or nothing yet."""
    found = files.read_state(folder, files.BUILDING) or files.read_state(folder, files.MANIFEST)
    fresh = {
        "format": files.FORMAT,
        "settings": settings.as_json(),
        "features": dict(features),
        "metric": "cosine",
        "faiss": faiss.__version__,
        "rows": 0,
        "left_out": [],
        "files": {},
    }
    if found is None:
        return fresh
    wanted, there = settings.as_json(), found["settings"]
    differing = [f"{name} {there[name]!r}, not {wanted[name]!r}" for name in KEPT if there[name] != wanted[name]]
    differing += feature_differences(found["features"], features)
    if found["rows"] > count:
        differing.append(f"{found['rows']} rows, not {count}")
    if differing:
        raise files.IndexFilesError(
            f"{folder} holds an index with {'; '.join(differing)}: remove it, or build in another folder"
        )
    return found


def _save_columns(folder: Path, columns: Mapping[str, Sequence[Any]], count: int) -> dict[str, Any]:
    table = pa.table({"row": pa.array(range(count), pa.int64()), **{name: list(of) for name, of in columns.items()}})
    path = folder / f"columns-{count:012d}.parquet"
    files.replace_file(path, lambda aside: parquet.write_table(table, aside))
    return files.file_record(path)


class _Builder:
    """An index that grows, and the files that hold it."""

    def __init__(
        self, folder: Path, settings: IndexSettings, state: dict[str, Any], blocks: Blocks, count: int
    ) -> None:
        self.folder, self.settings, self.state = folder, settings, state
        self.rows: int = state["rows"]
        self.left_out: list[int] = list(state["left_out"])
        self.standardizer: Standardizer | None = None
        if state["files"]:
            self._load(blocks)
        else:
            self._begin(blocks, count)
        _reserve(self.index, settings, count)
        self.vectors = self._open_vectors() if settings.kind == "ivfpq" else None

    def _load(self, blocks: Blocks) -> None:
        names = {kind: self.folder / record["name"] for kind, record in self.state["files"].items()}
        self.index: FaissIndex = faiss.read_index(str(names["index"]))
        if "normalization" in names:
            self.standardizer = load_standardizer(names["normalization"])
        if not self.index.ntotal:
            return
        _, first = next(iter(blocks(CHECKED_ROWS)))
        given = self._unit(usable_rows(first)[0])
        mapped = mapped_vectors(self.folder, self.index.ntotal, self.settings.dim)
        there = stored_vectors(self.index, mapped, np.arange(min(len(given), self.index.ntotal)))
        if not torch.allclose(there, given[: len(there)], atol=2e-3):
            raise files.IndexFilesError(f"{self.folder} holds other vectors: the first rows given differ from its own")

    def _begin(self, blocks: Blocks, count: int) -> None:
        """An empty index, trained if its kind needs it, as the first checkpoint."""
        self.index = _empty_index(self.settings)
        if self.settings.training_rows:
            sample = sample_rows(blocks, count, self.settings)
            if self.settings.normalization == "standardized":
                self.standardizer = Standardizer().fit(sample)
            if not self.index.is_trained:
                self.index.train(self._unit(sample).numpy())
        files.write_state(self.folder, files.BUILDING, self.save())

    def _open_vectors(self) -> Any:
        """The file of vectors, cut off behind those that the index holds: a kill may have left some more."""
        path = self.folder / VECTORS_FILE
        path.touch()
        os.truncate(path, self.index.ntotal * self.settings.dim * 2)
        return path.open("ab")

    def _unit(self, rows: Tensor) -> Tensor:
        return normalize(rows, self.standardizer)

    def add(self, start: int, block: np.ndarray) -> None:
        """Add rows `start` …, without those that are not finite."""
        rows, usable = usable_rows(block)
        self.left_out += (start + np.flatnonzero(~usable)).tolist()
        self.rows = start + len(block)
        if not len(rows):
            return
        unit = self._unit(rows).contiguous()
        if self.settings.kind == "hnsw":  # the state of its generator is not saved with it
            self.index.hnsw.rng = faiss.RandomGenerator(self.settings.seed + start)
        self.index.add(unit.numpy())
        if self.vectors is not None:
            self.vectors.write(unit.half().numpy().tobytes())

    def save(self) -> dict[str, Any]:
        """Write the index as it is; the state that names its files."""
        saved = {}
        path = self.folder / f"index-{self.rows:012d}.faiss"
        files.replace_file(path, lambda aside: faiss.write_index(self.index, str(aside)))
        saved["index"] = files.file_record(path)
        if self.standardizer is not None:
            path, standardizer = self.folder / "normalization.npy", self.standardizer
            files.replace_file(path, lambda aside: save_standardizer(aside, standardizer))
            saved["normalization"] = files.file_record(path)
        if self.index.ntotal and self.vectors is not None:
            self.vectors.flush()
            os.fsync(self.vectors.fileno())
            size = self.index.ntotal * self.settings.dim * 2
            saved["vectors"] = files.file_record(self.folder / VECTORS_FILE, size)
        return {**self.state, "rows": self.rows, "left_out": self.left_out, "files": saved}


def _empty_index(settings: IndexSettings) -> FaissIndex:
    if settings.kind == "flat":
        return faiss.IndexFlatIP(settings.dim)
    if settings.kind == "hnsw":
        index = faiss.IndexHNSWFlat(settings.dim, settings.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = settings.construction
        return index
    coarse = faiss.IndexFlatIP(settings.dim)
    lists, code_bytes = settings.lists, settings.code_bytes
    index = faiss.IndexIVFPQ(coarse, settings.dim, lists, code_bytes, 8, faiss.METRIC_INNER_PRODUCT)
    coarse.this.disown()
    index.own_fields = True
    index.cp.seed = index.pq.cp.seed = settings.seed + 1234  # faiss's own default
    index.pq.cp.max_points_per_centroid = CODE_POINTS
    return index


def _reserve(index: FaissIndex, settings: IndexSettings, count: int) -> None:
    """Room for all vectors at once: arrays that double as they grow would take up to three times as much."""
    if settings.kind == "ivfpq":
        return
    storage = faiss.downcast_index(index.storage) if settings.kind == "hnsw" else index
    grown = [(storage.codes, count * settings.dim * 4)]
    if settings.kind == "hnsw":
        grown.append((index.hnsw.neighbors, count * reserved_links(settings)))
    for array, room in grown:
        size = array.size()
        array.resize(max(size, room))
        array.resize(size)
