"""Building an index: block by block, in bounded memory; a killed building can be continued."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from tqdm.auto import tqdm

from probes.index import files
from probes.index.blocks import Blocks, rebatched, sample_rows, usable_rows
from probes.index.faiss_file import FaissIndex, faiss, read_faiss, write_faiss
from probes.index.memory import TABLE_ROWS, in_words, require_memory, reserved_links
from probes.index.settings import CODES, IndexSettings
from probes.index.vectors import (
    VECTORS_FILE,
    feature_differences,
    load_transform,
    mapped_vectors,
    normalize,
    save_transform,
    stored_vectors,
)
from probes.transforms import Transform, fitted_transform

KEPT = ("kind", "dim", "normalization", "components")  # must be the same where an index is continued
NORMALIZATION_FILE = "normalization.npy"
SAME = 2e-3  # difference of unit vectors that half precision explains
CODE_POINTS = 64  # training rows for each code, a quarter of faiss's default, which takes most of the training time


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

    An interrupted building continues at its last checkpoint. A finished index gets the rows after its last one, in its
    lists and codes. With one thread the result is the same to the bit, interrupted or not. The rows of the index are
    compared with those given, and changed columns, such as labels, are written anew. A row with NaN or infinity is left
    out; no id shifts. Only files of the index are removed or replaced.

    Args:
        blocks: the features; read twice if there is something to train, else once.
        count: how many rows they have.
        folder: made if it is not there; it is no index before `manifest.json` is in it, which is written last.
        settings: from `choose_settings`; an index that is continued keeps its sizes.
        features: what the features are: encoder, its weights, output, pooling. Other queries are refused.
        columns: what is known of each row, for example {"path": [...], "label": [...]}.
        memory_limit: bytes that this process may take; None: what the machine has available.
        threads: more are faster, but sums are rounded differently, and hnsw differs from run to run.
        checkpoint_rows: rows between checkpoints; None: a tenth of them.
        progress: say how much memory it will take, and show a bar.

    Raises:
        IndexMemoryError: it would take more memory; raised before anything is built.
        IndexFilesError: the folder holds an index of other features or settings, of other vectors or of more
            rows, or a file of it is damaged; or another process is building there.
        ValueError: blocks that are not (b, D), leave rows out, or end before `count`; columns of another
            length; no row without NaN; threads or checkpoint rows below 1.
    """
    for name, values in (columns or {}).items():
        if len(values) != count:
            raise ValueError(f"column {name} must have a value for each of {count} rows, got {len(values)}")
    if threads < 1 or (checkpoint_rows is not None and checkpoint_rows < 1):
        raise ValueError(f"threads and checkpoint_rows must be at least 1, got {threads} and {checkpoint_rows}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with files.locked(folder), threadpool_limits(threads):
        state = _state_of(folder, settings, features, count)
        files.check_files(folder, state)
        settings = IndexSettings(**state["settings"])
        peak = require_memory(settings, count, memory_limit, existing=state["rows"])
        if progress:
            tqdm.write(f"{settings.kind} index of {count} vectors: at most {in_words(peak)} of memory")
        step = settings.block_rows * max(1, (checkpoint_rows or count // 10) // settings.block_rows)
        builder = _Builder(folder, settings, state, blocks, count)
        try:
            _add_all(builder, blocks, count, step, progress)
            _finish(builder, columns or {}, features)
        finally:
            if builder.vectors is not None:
                builder.vectors.close()


def _add_all(builder: _Builder, blocks: Blocks, count: int, step: int, progress: bool) -> None:
    """Compare the rows that the index has, and add the others, with a checkpoint every `step` rows."""
    # Tables of distances to codes are made for this many vectors at once: else they may take gigabytes.
    faiss.cvar.product_quantizer_compute_codes_bs = TABLE_ROWS
    first = builder.rows
    with tqdm(total=count, unit="vector", desc="index", disable=not progress, initial=first) as bar:
        for start, block in rebatched(blocks, first, count, builder.settings, builder.compare):
            builder.add(start, block)
            bar.update(len(block))
            if builder.rows < count and (builder.rows - first) % step == 0:
                builder.save()
    if not builder.index.ntotal:
        raise ValueError(f"all {count} rows hold NaN or infinity: there is nothing to search")


def _finish(builder: _Builder, columns: Mapping[str, Sequence[Any]], features: Mapping[str, Any]) -> None:
    """Write the columns and the manifest, unless both are there and nothing has changed."""
    folder, state, count = builder.folder, builder.state, builder.rows
    table = files.columns_table(columns, count)
    finished = not (folder / files.BUILDING).exists() and state["rows"] == count
    name, record = f"columns-{count:012d}.parquet", state["files"].get("columns")
    if finished and record:
        if state["features"] == dict(features) and files.read_columns(folder / record["name"], count).equals(table):
            return
        name = f"columns-{count:012d}-new.parquet" if record["name"] == name else name
    if state["rows"] != count:
        builder.save()
    path = folder / name
    builder.announce([path.name])
    files.replace_file(path, lambda aside: files.write_columns(aside, table))
    saved = {**builder.state["files"], "columns": files.file_record(path)}
    manifest = {**builder.state, "features": dict(features), "files": saved}
    manifest.pop("pending")
    files.write_state(folder, files.MANIFEST, manifest)


def _state_of(folder: Path, settings: IndexSettings, features: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The state of the index in the folder, which must be as wanted; without one, that of an empty index."""
    found = files.read_state(folder, files.BUILDING) or files.read_state(folder, files.MANIFEST)
    fresh = {
        "format": files.FORMAT,
        "settings": asdict(settings),
        "features": dict(features),
        "metric": "cosine",
        "faiss": faiss.__version__,
        "rows": 0,
        "left_out": [],
        "files": {},
    }
    if found is None or not found["files"]:
        return fresh
    differing = feature_differences(found["features"], features)
    if found["rows"] > count:
        differing.append(f"{found['rows']} rows, not {count}")
    check_continued(
        folder, IndexSettings(**found["settings"]), {name: getattr(settings, name) for name in KEPT}, differing
    )
    return found


def settings_there(folder: Path) -> IndexSettings | None:
    """The settings of the index in a folder, finished or not; None if there is none."""
    found = files.read_state(folder, files.BUILDING) or files.read_state(folder, files.MANIFEST)
    return IndexSettings(**found["settings"]) if found and found["files"] else None


def check_continued(
    folder: Path, there: IndexSettings, wanted: Mapping[str, Any], differing: Sequence[str] = ()
) -> None:
    """Raise IndexFilesError if the index in the folder has other settings than `wanted`, or differs in other ways."""
    settings = [
        f"{name} {getattr(there, name)!r}, not {value!r}"
        for name, value in wanted.items()
        if getattr(there, name) != value
    ]
    if found := [*settings, *differing]:
        raise files.IndexFilesError(
            f"{folder} holds an index with {'; '.join(found)}: remove it, or build in another folder"
        )


class _Builder:
    """An index that grows, and the files that hold it."""

    def __init__(
        self, folder: Path, settings: IndexSettings, state: dict[str, Any], blocks: Blocks, count: int
    ) -> None:
        self.folder, self.settings, self.state = folder, settings, state
        self.rows: int = state["rows"]
        self.left_out: list[int] = list(state["left_out"])
        self.transform: Transform | None = None
        self.vectors: Any = None
        if state["files"]:
            self._load()
        else:
            self._begin(blocks, count)
        self.compared = 0
        self.there = mapped_vectors(folder, self.index.ntotal if settings.kind == "ivfpq" else 0, settings.width)
        _reserve(self.index, settings, count)

    def _load(self) -> None:
        names = {kind: self.folder / record["name"] for kind, record in self.state["files"].items()}
        if "index" not in names or (self.settings.normalization != "unit") != ("normalization" in names):
            raise files.IndexFilesError(f"{self.folder} lacks a file that its manifest must name: remove the folder")
        self.index: FaissIndex = read_faiss(names["index"], self.settings.kind, self.settings.width)
        if self.index.ntotal != (count := self.rows - len(self.left_out)):
            held = f"{names['index']} holds {self.index.ntotal} vectors"
            raise files.IndexFilesError(f"{held}, its manifest says {count}: remove the folder")
        if "normalization" in names:
            self.transform = load_transform(names["normalization"], self.settings)

    def _begin(self, blocks: Blocks, count: int) -> None:
        """An empty index, trained if its kind needs it, as the first checkpoint."""
        settings = self.settings
        self.index = _empty_index(settings)
        if settings.training_rows:
            sample = sample_rows(blocks, count, settings)
            self.transform = fitted_transform(settings.normalization, settings.components, sample)
            if not self.index.is_trained:
                self.index.train(_enough(self._unit(sample), self.settings).numpy())
        self.save()

    def compare(self, block: np.ndarray) -> None:
        """IndexFilesError unless these rows are the next ones that the index was made of."""
        first, last = self.compared, self.compared + len(block)
        given, usable = usable_rows(block)
        low, high = np.searchsorted(self.left_out, [first, last])
        same = self.left_out[low:high] == (first + np.flatnonzero(~usable)).tolist()
        if same and len(given):
            places = first - low + np.arange(len(given))
            there = stored_vectors(self.index, self.there, places)
            same = bool(torch.allclose(there, self._unit(given), rtol=0, atol=SAME))
        if not same:
            raise files.IndexFilesError(
                f"{self.folder} holds other vectors: those given differ from its own within the rows {first} to "
                f"{last - 1}, so the images or their features have changed. Remove the folder, or build in another"
            )
        self.compared = last

    def _open_vectors(self) -> Any:
        """The file of vectors, cut off after those of the index: a killed run may have left more."""
        path = self.folder / VECTORS_FILE
        path.touch()
        os.truncate(path, self.index.ntotal * self.settings.width * 2)
        return path.open("ab")

    def _unit(self, rows: Tensor) -> Tensor:
        return normalize(rows, self.transform)

    def add(self, start: int, block: np.ndarray) -> None:
        """Add rows `start` …, without those that are not finite."""
        rows, usable = usable_rows(block)
        self.left_out += (start + np.flatnonzero(~usable)).tolist()
        self.rows = start + len(block)
        if not len(rows):
            return
        unit = self._unit(rows).contiguous()
        if self.settings.kind == "hnsw":  # the state of its generator is not saved with it
            self.index.hnsw.rng = faiss.RandomGenerator((self.settings.seed + start) % 2**63)
        if self.settings.kind == "ivfpq":
            self.vectors = self.vectors or self._open_vectors()
            self.vectors.write(unit.half().numpy().tobytes())
        self.index.add(unit.numpy())

    def save(self) -> None:
        """Write the index as it is, and the state that names its files."""
        path = self.folder / f"index-{self.rows:012d}.faiss"
        names = [path.name, *([NORMALIZATION_FILE] if self.transform is not None else [])]
        names += [VECTORS_FILE] if self.settings.kind == "ivfpq" else []
        self.announce(names)
        files.replace_file(path, lambda aside: write_faiss(aside, self.index))
        saved = {"index": files.file_record(path)}
        if (transform := self.transform) is not None:
            path = self.folder / NORMALIZATION_FILE
            if "normalization" not in self.state["files"]:
                files.replace_file(path, lambda aside: save_transform(aside, transform))
            saved["normalization"] = files.file_record(path)
        if self.index.ntotal and self.vectors is not None:
            self.vectors.flush()
            os.fsync(self.vectors.fileno())
            size = self.index.ntotal * self.settings.width * 2
            saved["vectors"] = files.file_record(self.folder / VECTORS_FILE, size)
        self.state = {**self.state, "rows": self.rows, "left_out": list(self.left_out), "files": saved}
        files.write_state(self.folder, files.BUILDING, self.state)

    def announce(self, names: Sequence[str]) -> None:
        """Record in the state which files are about to be written: they are the index's own.

        IndexFilesError if another one is there already.
        """
        for name in set(names) - files.own_files(self.folder):
            if os.path.lexists(self.folder / name):
                path = self.folder / name
                raise files.IndexFilesError(f"{path} is there, and no index of this folder made it: build elsewhere")
        self.state = {**self.state, "pending": sorted(names)}
        files.write_state(self.folder, files.BUILDING, self.state)


def _enough(sample: Tensor, settings: IndexSettings) -> Tensor:
    """At least as many unit vectors as there are codes; too few are repeated."""
    least = max(CODES, settings.nlist)
    return sample if len(sample) >= least else sample.repeat(-(-least // len(sample)), 1)[:least].contiguous()


def _empty_index(settings: IndexSettings) -> FaissIndex:
    if settings.kind == "flat":
        return faiss.IndexFlatIP(settings.width)
    if settings.kind == "hnsw":
        index = faiss.IndexHNSWFlat(settings.width, settings.M, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = settings.efConstruction
        return index
    width = settings.width
    coarse = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFPQ(coarse, width, settings.nlist, settings.code_bytes, 8, faiss.METRIC_INNER_PRODUCT)
    coarse.this.disown()
    index.own_fields = True
    index.cp.seed = index.pq.cp.seed = (settings.seed + 1234) % 2**31  # 1234 is faiss's own default, of a C int
    index.pq.cp.max_points_per_centroid = CODE_POINTS
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # few are fine: no warning
    return index


def _reserve(index: FaissIndex, settings: IndexSettings, count: int) -> None:
    """Reserve room for all vectors: arrays that double as they grow would take up to three times as much."""
    if settings.kind == "ivfpq":
        return
    storage = faiss.downcast_index(index.storage) if settings.kind == "hnsw" else index
    grown = [(storage.codes, count * settings.width * 4)]
    if settings.kind == "hnsw":
        grown.append((index.hnsw.neighbors, count * reserved_links(settings)))
    for array, room in grown:
        size = array.size()
        array.resize(max(size, room))
        array.resize(size)
