"""Scores of classification and retrieval."""

import numpy as np

from probes.inputs import Array, Labels, float_tensor, label_vector, row_ids, whole_number


def accuracy(predictions: Labels, labels: Labels) -> float:
    """Share of equal entries of `predictions` (n,) and `labels` (n,), in [0, 1]."""
    predictions, labels = _pair(predictions, labels)
    return float((predictions == labels).mean())


def mean_per_class_accuracy(predictions: Labels, labels: Labels) -> float:
    """Accuracy within each class that occurs in `labels`, averaged over those classes, in [0, 1]."""
    predictions, labels = _pair(predictions, labels)
    _, classes = np.unique(labels, return_inverse=True)
    return float((np.bincount(classes, predictions == labels) / np.bincount(classes)).mean())


def confusion_matrix(predictions: Labels, labels: Labels, num_classes: int) -> np.ndarray:
    """Counts (num_classes, num_classes), int64: rows are true classes, columns predicted ones."""
    predictions, labels = _pair(predictions, labels)
    highest = max(predictions.max(), labels.max())
    if highest >= num_classes:
        raise ValueError(f"labels must be below num_classes = {num_classes}, got {highest}")
    counts = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def top_k_accuracy(scores: Array, labels: Labels, k: int = 1) -> float:
    """Share of rows whose label is among the `k` best `scores` (n, C), in [0, 1].

    Labels are columns of `scores`. Of equal scores the lower class ranks first, as with argmax.
    """
    table = float_tensor(scores, "scores", "(n, C)", 2).cpu().double().numpy()
    labels = label_vector(labels, len(table))
    num_classes = table.shape[1]
    if labels.max() >= num_classes or not 1 <= whole_number(k, "k") <= num_classes:
        raise ValueError(
            f"labels must be below {num_classes} and k within 1 … {num_classes} for scores of shape"
            f" {table.shape}, got a label {labels.max()} and k = {k}"
        )
    own = table[np.arange(len(table)), labels][:, None]
    ahead = (table > own) | ((table == own) & (np.arange(num_classes) < labels[:, None]))
    return float((ahead.sum(1) < k).mean())


def _pair(predictions: Labels, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    predictions = label_vector(predictions, len(predictions), "predictions")
    if len(predictions) == 0:
        raise ValueError("predictions and labels are empty: there is nothing to score")
    return predictions, label_vector(labels, len(predictions))


def recall_at_k(
    neighbours: np.ndarray,
    query_labels: Labels,
    gallery_labels: Labels,
    k: int,
    exclude: Labels | None = None,
) -> float:
    """Share of queries with at least one item of their own label among the first `k`, in [0, 1].

    `neighbours` (Q, K): gallery rows, best first, such as `search(...).ids`; of equally similar ones the
    lowest first. `exclude` (Q,): the row that is the query itself, -1 for none; it is left out by that
    id, wherever it stands. Queries that have nothing relevant in the gallery are left out of the mean.
    """
    relevant, counts = _relevance(neighbours, query_labels, gallery_labels, exclude)
    if not 1 <= whole_number(k, "k") <= relevant.shape[1]:
        raise ValueError(f"k must lie within 1 … {relevant.shape[1]}, the neighbours of a query, got {k}")
    return float(relevant[counts > 0, :k].any(1).mean())


def mean_average_precision(
    neighbours: np.ndarray,
    query_labels: Labels,
    gallery_labels: Labels,
    exclude: Labels | None = None,
) -> float:
    """Mean over queries of AP = (Σ over relevant ranks r of precision at r) / (relevant items), in [0, 1].

    Arguments and left-out queries as in `recall_at_k`. Where `neighbours` stop short of the whole gallery,
    relevant items beyond them count as never found, so the value is a lower bound.
    """
    return float(np.nanmean(average_precisions(neighbours, query_labels, gallery_labels, exclude)))


def average_precisions(
    neighbours: np.ndarray, query_labels: Labels, gallery_labels: Labels, exclude: Labels | None = None
) -> np.ndarray:
    """The AP of each query, float64 (Q,), NaN for those left out; `mean_average_precision` is their mean.

    Raises:
        ValueError: a row of the gallery is twice among the neighbours of a query.
    """
    relevant, counts = _relevance(neighbours, query_labels, gallery_labels, exclude)
    ranked = np.sort(neighbours, axis=1)
    if len(twice := np.argwhere(ranked[:, 1:] == ranked[:, :-1])):
        query, place = twice[0]
        raise ValueError(f"row {ranked[query, place]} is more than once among the neighbours of query {query}")
    precision = relevant.cumsum(1) / np.arange(1, relevant.shape[1] + 1)
    found = (precision * relevant).sum(1)
    return np.divide(found, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def mean_rank(
    neighbours: np.ndarray, query_labels: Labels, gallery_labels: Labels, exclude: Labels | None = None
) -> float:
    """Mean over queries of the rank of the first item of their own label, 1 at best.

    Arguments and left-out queries as in `recall_at_k`. A query with none among its K neighbours counts with
    K + 1, so over less than the whole gallery the value is a lower bound.
    """
    return float(np.nanmean(first_ranks(neighbours, query_labels, gallery_labels, exclude)))


def first_ranks(
    neighbours: np.ndarray, query_labels: Labels, gallery_labels: Labels, exclude: Labels | None = None
) -> np.ndarray:
    """The rank of each query's first item of its own label, float64 (Q,), as in `mean_rank`; NaN for those left out.

    The share of them that is at most k is `recall_at_k`.
    """
    relevant, counts = _relevance(neighbours, query_labels, gallery_labels, exclude)
    ranks = np.where(relevant.any(1), relevant.argmax(1), relevant.shape[1]) + 1.0
    return np.where(counts > 0, ranks, np.nan)


def neighbour_recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact neighbours (Q, k) that are among those `found` (Q, K), in [0, 1], whatever their order."""
    if len(found) != len(exact) or found.ndim != 2 or exact.ndim != 2 or exact.size == 0:
        raise ValueError(f"found and exact must be (Q, K) and (Q, k), got {found.shape} and {exact.shape}")
    hits = [np.isin(true, ids).sum() for ids, true in zip(found, exact, strict=True)]
    return float(np.sum(hits) / exact.size)


def _relevance(
    neighbours: np.ndarray, query_labels: Labels, gallery_labels: Labels, exclude: Labels | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which ranks share the query's label, bool (Q, K or K - 1), and how many gallery items do (Q,)."""
    gallery = label_vector(gallery_labels, len(gallery_labels), "gallery_labels")
    ids = _neighbour_ids(neighbours, len(gallery))
    queries = label_vector(query_labels, len(ids), "query_labels")
    present, totals = np.unique(gallery, return_counts=True)
    place = np.searchsorted(present, queries).clip(max=len(present) - 1)
    counts = np.where(present[place] == queries, totals[place], 0)
    own = row_ids(exclude, "exclude", len(ids), len(gallery))
    counts = counts - ((own >= 0) & (gallery[own] == queries))
    ids = _without(ids, own)
    if not counts.any():
        raise ValueError("no query has an item of its own label in the gallery: nothing can be scored")
    return gallery[ids] == queries[:, None], counts


def _neighbour_ids(neighbours: np.ndarray, size: int) -> np.ndarray:
    ids = np.asarray(neighbours)
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"neighbours must be integers (Q, K), not empty, got {ids.dtype} {ids.shape}")
    if ids.min() < 0 or ids.max() >= size:
        raise ValueError(f"neighbours must be rows 0 … {size - 1} of the gallery, got {ids.min()} … {ids.max()}")
    return ids


def _without(ids: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Each row less its own id; when some row contains it, the others lose their last entry."""
    is_own = ids == own[:, None]
    if not is_own.any():
        return ids
    order = np.argsort(is_own, axis=1, kind="stable")
    return np.take_along_axis(ids, order, 1)[:, :-1]
