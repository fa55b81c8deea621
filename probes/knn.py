"""Weighted nearest-neighbour classification, as DINO and DINOv2 measure it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from .classifier import require_fitted
from .inputs import Array, Labels, class_indices, feature_matrix, label_vector
from .retrieval import search

_BLOCK_ROWS = 4096


class KNNProbe:
    """Each of the `k` nearest training rows votes exp(cosine / temperature) for its label; several k at once.

    DINO's and DINOv2's protocol (`eval_knn.py`: k ∈ {10, 20, 100, 200}, temperature 0.07). Of equally near
    rows the lowest row number is nearer; of equal votes the lowest label wins. Nothing is random.

    After `fit`: `classes` (the labels seen, sorted).
    """

    classes: np.ndarray

    def __init__(
        self,
        *,
        k: int | Sequence[int] = (10, 20, 100, 200),
        temperature: float = 0.07,
        device: torch.device | str | None = None,
    ) -> None:
        """`device`: where similarities are computed; default where the training features are."""
        self.k = tuple(sorted(set(np.atleast_1d(np.asarray(k, int)).tolist())))
        if not self.k or self.k[0] < 1 or not temperature > 0:
            raise ValueError(f"every k must be ≥ 1 and temperature > 0, got k = {self.k}, {temperature}")
        self.temperature = temperature
        self.device = device

    def fit(self, features: Array, labels: Labels) -> KNNProbe:
        """Keep `features` (n, D), without a copy, and integer `labels` (n,) ≥ 0; returns self.

        Raises on wrong shapes, NaN or infinity, a single class, or fewer rows than the largest k.
        """
        self._gallery = feature_matrix(features)
        self.classes, self._classes_of_rows = class_indices(label_vector(labels, len(self._gallery)))
        if self.k[-1] > len(self._gallery):
            raise ValueError(f"k = {self.k[-1]} needs as many training rows, got {len(self._gallery)}")
        return self

    def predict_proba(self, features: Array, exclude: Labels | None = None) -> dict[int, np.ndarray]:
        """Share of the votes by k: float64 (n, C), columns in the order of `classes`.

        `exclude` (n,): the training row that has no vote, for a row that is itself in the training set;
        -1 for none.
        """
        blocks = [
            {k: table / table.sum(1, keepdims=True) for k, table in votes.items()}
            for votes in self._votes(features, exclude)
        ]
        return {k: np.concatenate([block[k] for block in blocks]) for k in self.k}

    def predict(self, features: Array, exclude: Labels | None = None) -> dict[int, np.ndarray]:
        """Label with most votes by k: int64 (n,). `exclude` as in `predict_proba`."""
        blocks = [{k: table.argmax(1) for k, table in votes.items()} for votes in self._votes(features, exclude)]
        return {k: self.classes[np.concatenate([block[k] for block in blocks])] for k in self.k}

    def _votes(self, features: Array, exclude: Labels | None) -> Iterator[dict[int, np.ndarray]]:
        """For one block of rows after another: votes for each class by k, float64 (rows, C)."""
        require_fitted(self)
        queries = feature_matrix(features, width=self._gallery.shape[1])
        ids, similarities = search(queries, self._gallery, self.k[-1], exclude, device=self.device)
        for start in range(0, len(ids), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            yield self._count(self._classes_of_rows[ids[block]], similarities[block])

    def _count(self, voters: np.ndarray, similarities: np.ndarray) -> dict[int, np.ndarray]:
        # Relative to the nearest row, so that a low temperature cannot overflow.
        relative = (similarities - similarities[:, :1]).astype(np.float64)
        weights = torch.from_numpy(np.exp(relative / self.temperature))
        classes = torch.from_numpy(voters)
        table = torch.zeros(len(voters), len(self.classes), dtype=torch.float64)
        votes, counted = {}, 0
        for k in self.k:
            table.scatter_add_(1, classes[:, counted:k], weights[:, counted:k])
            votes[k], counted = table.numpy().copy(), k
        return votes
