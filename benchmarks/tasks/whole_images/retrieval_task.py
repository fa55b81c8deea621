"""One retrieval task: queries searched for in a gallery, scored exactly and through an index."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result import Result
from probes import (
    average_precisions,
    bootstrap_interval,
    first_ranks,
    neighbour_recall,
    rank_all,
)
from probes.index import VectorIndex, blocks_of, build_index, choose_settings
from probes.transforms import Transform, best_way, fitted_ways
from randar_features.features.store import FeatureStore

TUNING_SHARE = 0.2
RECALLS = (1, 5, 10)
DEPTH = 100  # neighbours of a query that an index gives
RANKED_AT_ONCE = 256
ROW_AXES = ("encoder", "output", "layer", "context", "read", "orders", "pooling", "normalization", "resolution")


@dataclass(frozen=True)
class Task:
    """Queries and the gallery in which they are searched for, with their labels.

    Attributes:
        queries: (Q, D) float32.
        gallery: (n, D) float32.
        query_labels, gallery_labels: int64 (Q,) and (n,).
        own: (Q,) the gallery row that is the query itself, -1 for none.
        query_rows, gallery_rows: which images of their splits they are.
        tuning: the same with other queries, by which a variant is chosen; None where there are none.
    """

    queries: np.ndarray
    gallery: np.ndarray
    query_labels: np.ndarray
    gallery_labels: np.ndarray
    own: np.ndarray
    query_rows: np.ndarray
    gallery_rows: np.ndarray
    tuning: Task | None = None

    @property
    def scored(self) -> np.ndarray:
        """Which queries have another image of their class in the gallery, bool (Q,): others cannot be scored."""
        of_class = np.bincount(self.gallery_labels, minlength=int(self.query_labels.max()) + 1)
        return of_class[self.query_labels] > (self.own >= 0)

    def transformed(self, fitted: Transform | None) -> Task:
        """The task with its vectors after a transform that was fitted to the gallery; None: as they are."""
        if fitted is None:
            return self
        queries, gallery = (fitted.transform(rows).numpy() for rows in (self.queries, self.gallery))
        return replace(self, queries=queries, gallery=gallery, tuning=None)


class NoTaskError(ValueError):
    """The data cannot be used for retrieval with these options."""


def make_task(gallery: FeatureStore, queries: FeatureStore, output: str, *, count: int, seed: int) -> Task:
    """The vectors of one output; rows that could not be read, or have no label, are left out.

    queries: the gallery's own store for leave-one-out. count: of queries, a seeded random choice; a fifth of the
    images at least is left to tuning.

    Raises:
        NoTaskError: fewer than two labelled images, or other classes in the queries' split.
    """
    if gallery.label_names != queries.label_names:
        raise NoTaskError(f"the classes of {gallery.folder} and {queries.folder} are not the same")
    kept, queried = (np.flatnonzero(store.ok & (store.labels >= 0)) for store in (gallery, queries))
    if len(kept) < 2 or not len(queried):
        raise NoTaskError(
            f"{gallery.folder} has {len(kept)} labelled images to search, and there are {len(queried)} queries; "
            "expected at least 2 and 1: retrieval is scored by class"
        )
    generator = np.random.default_rng(seed)
    count = min(count, max(1, len(queried) - int(TUNING_SHARE * len(queried))))
    chosen = np.sort(generator.choice(queried, count, replace=False))
    left = np.setdiff1d(queried, chosen)
    tuned = np.sort(generator.choice(left, min(count, len(left)), replace=False))
    vectors = gallery.array(output, kept)

    def part(rows: np.ndarray, tuning: Task | None) -> Task:
        return Task(
            queries=queries.array(output, rows),
            gallery=vectors,
            query_labels=queries.labels[rows],
            gallery_labels=gallery.labels[kept],
            own=np.searchsorted(kept, rows) if gallery is queries else np.full(len(rows), -1),
            query_rows=rows,
            gallery_rows=kept,
            tuning=tuning,
        )

    task = part(chosen, part(tuned, None) if len(tuned) else None)
    if not task.scored.any():
        raise NoTaskError(f"none of {count} queries of {queries.folder} has another image of its class to find")
    return task


def tuning_score(task: Task | None, fitted: Transform | None) -> float | None:
    """mAP of the tuning queries; None where there are none, or none has another image of its class."""
    if task is None or not task.scored.any():
        return None
    return float(np.nanmean(exact_scores(task.transformed(fitted))[2]))


def chosen_way(task: Task) -> tuple[Transform | None, dict[str, Any]]:
    """What the tuning queries choose to do with vectors before cosines, and what a result says of it.

    ValueError where there are no such queries.
    """
    fitted = dict(fitted_ways(task.gallery))
    scores = {way: tuning_score(task.tuning, transform) for way, transform in fitted.items()}
    known = {way: score for way, score in scores.items() if score is not None}
    if not known:
        raise ValueError("--normalization auto is chosen by tuning queries, and there are none: give fewer --queries")
    (normalization, components), warnings = best_way(known)
    chosen = {"normalization": normalization} | ({} if components is None else {"components": components})
    about = {"normalization": "chosen by tuning queries", "chosen": chosen, "warnings": warnings}
    return fitted[normalization, components], about


def exact_scores(task: Task, seed: int = 0) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Metrics over the whole ranking, each query's first neighbours (Q, ≤ DEPTH), and average precisions (Q,).

    These are NaN where the query cannot be scored. seed: of the interval.
    """
    precisions, ranks, first = [], [], []
    for start in range(0, len(task.queries), RANKED_AT_ONCE):
        part = slice(start, start + RANKED_AT_ONCE)
        ids = rank_all(task.queries[part], task.gallery, task.own[part]).ids
        queried = (ids, task.query_labels[part], task.gallery_labels, task.own[part])
        scorable, unknown = task.scored[part].any(), np.full(len(ids), np.nan)
        precisions.append(average_precisions(*queried) if scorable else unknown)
        ranks.append(first_ranks(*queried) if scorable else unknown)
        first.append(ids[:, :DEPTH])
    scored = scores(np.concatenate(ranks), np.concatenate(precisions), seed=seed)
    return scored, np.concatenate(first), np.concatenate(precisions)


def scores(ranks: np.ndarray, precisions: np.ndarray | None = None, *, seed: int) -> dict[str, Any]:
    """mAP (if there are precisions) or Recall@1 with its interval, then Recall@k and mean rank."""
    kept = ranks[np.isfinite(ranks)]
    recalls = {f"recall_at_{k}": float((kept <= k).mean()) for k in RECALLS}
    if precisions is None:
        return {**recalls, "interval": bootstrap_interval((kept <= 1).astype(float), seed=seed)}
    kept_precisions = precisions[np.isfinite(precisions)]
    mean: dict[str, Any] = {"mean_average_precision": float(kept_precisions.mean())}
    mean["interval"] = bootstrap_interval(kept_precisions, seed=seed)
    return {**mean, **recalls, "mean_rank": float(kept.mean())}


@dataclass(frozen=True)
class Found:
    """A result, what it was got from, and the average precision of each query."""

    row: Result
    task: Task
    neighbours: np.ndarray
    precisions: np.ndarray


def index_scores(found: Found, kind: str, seed: int) -> Result:
    """The same search through an index, beside the exact one: how much it misses, and what it costs."""
    task = found.task
    count, dim = task.gallery.shape
    settings = choose_settings(count, dim, kind=kind, seed=seed)
    exact, depth = found.neighbours, found.neighbours.shape[1]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        build_index(blocks_of(task.gallery), count, Path(folder), settings=settings, features={}, progress=False)
        built = time.perf_counter() - start
        index = VectorIndex(Path(folder), verify=False)
        start = time.perf_counter()
        ids = index.search(task.queries, depth, task.own).ids
        taken = time.perf_counter() - start
        size = index.bytes_per_vector
    scored = scores(first_ranks(ids, task.query_labels, task.gallery_labels, task.own), seed=seed)
    entries = {
        **{name: found.row[name] for name in ROW_AXES},
        "index": kind,
        **scored,
        "recall_at_1_below_exact": found.row["recall_at_1"] - scored["recall_at_1"],
        "neighbours_at_10": neighbour_recall(ids[:, :10], exact[:, :10]),
        f"neighbours_at_{depth}": neighbour_recall(ids, exact),
        "vectors": count,
        "build_seconds": round(built, 2),
        "queries_per_second": round(len(task.queries) / taken, 1),
        "bytes_per_vector": round(size["memory"], 1),
        "bytes_per_vector_on_disk": round(size["disk"], 1),
    }
    return Result.of(entries)
