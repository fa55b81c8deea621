"""Weighted nearest-neighbour classification, as DINO and DINOv2 measure it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from probes.classifier import require_fitted
from probes.inputs import Array, Labels, class_indices, feature_matrix, integer_vector, label_vector
from probes.metrics import accuracy
from probes.retrieval import search
from probes.splits import stratified_holdout
from probes.transforms import AUTO, NORMALIZATIONS, Way, best_way, fitted_transform, fitted_ways

TUNING_K = 20
_BLOCK_ROWS = 4096


class KNNProbe:
    """Each of the `k` nearest training rows votes exp(cosine / temperature) for its label; several k at once.

    DINO's and DINOv2's protocol (`eval_knn.py`: k ∈ {10, 20, 100, 200}, temperature 0.07). Of equally near
    rows the lowest row number is nearer; of equal votes the lowest label wins.

    `normalization` before cosines, measured on the training images: "unit", nothing; "standardized"; "whitened", to
    `components` principal axes; "auto": whichever classifies a stratified `validation_fraction` of the training images
    best by the others, with the k next to 20 (of equals the first of `fitted_ways`). Nothing else is random.

    After `fit`: `classes` (the labels seen, sorted); `chosen_normalization` and `chosen_components`; after "auto"
    `validation_accuracies` by both, and `warnings`, where the fewest components that were tried were chosen.
    """

    classes: np.ndarray
    chosen_normalization: str
    chosen_components: int | None
    validation_accuracies: dict[Way, float]
    warnings: list[str]

    def __init__(
        self,
        *,
        k: int | Sequence[int] = (10, 20, 100, 200),
        temperature: float = 0.07,
        normalization: str = "unit",
        components: int | None = None,
        validation_fraction: float = 0.1,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        """`device`: where similarities are computed; default where the training features are."""
        if normalization not in (*NORMALIZATIONS, AUTO):
            raise ValueError(
                f"normalization must be one of {', '.join((*NORMALIZATIONS, AUTO))}, got {normalization!r}"
            )
        if components is not None and normalization != "whitened":
            raise ValueError(f"components are for normalization whitened, got {components} for {normalization}")
        self.k = tuple(sorted(set(integer_vector(np.atleast_1d(k), "k").tolist())))
        if not self.k or self.k[0] < 1 or not temperature > 0:
            raise ValueError(f"every k must be ≥ 1 and temperature > 0, got k = {self.k}, {temperature}")
        self.temperature, self.normalization, self.components = temperature, normalization, components
        self.validation_fraction, self.seed, self.device = validation_fraction, seed, device

    def fit(self, features: Array, labels: Labels) -> KNNProbe:
        """Keep `features` (n, D), a copy only where they are normalized, and integer `labels` (n,) ≥ 0; returns self.

        Raises on wrong shapes, NaN or infinity, a single class, or fewer rows than the largest k.
        """
        rows = feature_matrix(features)
        self.classes, self._classes_of_rows = class_indices(label_vector(labels, len(rows)))
        if self.k[-1] > len(rows):
            raise ValueError(f"k = {self.k[-1]} needs as many training rows, got {len(rows)}")
        self.warnings = []
        chosen = self._choose(rows) if self.normalization == AUTO else (self.normalization, self.components)
        self.chosen_normalization, self.chosen_components = chosen
        self._width, self._transform = rows.shape[1], fitted_transform(*chosen, rows)
        self._gallery = rows if self._transform is None else self._transform.apply(rows)
        return self

    def _choose(self, rows: torch.Tensor) -> Way:
        """The normalization and components with the best accuracy on held-out training images."""
        labels = self.classes[self._classes_of_rows]
        kept, held = stratified_holdout(labels, self.validation_fraction, self.seed)
        k = min(min(self.k, key=lambda k: abs(k - TUNING_K)), len(kept))
        self.validation_accuracies = {}
        for way, transform in fitted_ways(rows[kept]):
            train, tuning = (part if transform is None else transform.apply(part) for part in (rows[kept], rows[held]))
            probe = KNNProbe(k=k, temperature=self.temperature, device=self.device).fit(train, labels[kept])
            self.validation_accuracies[way] = float((probe.predict(tuning)[k] == labels[held]).mean())
        best, self.warnings = best_way(self.validation_accuracies)
        return best

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

    def score(self, features: Array, labels: Labels, exclude: Labels | None = None) -> dict[int, float]:
        """Share of the rows whose label is predicted, by k; `exclude` as in `predict_proba`."""
        return {k: accuracy(found, labels) for k, found in self.predict(features, exclude).items()}

    def _votes(self, features: Array, exclude: Labels | None) -> Iterator[dict[int, np.ndarray]]:
        """For one block of rows after another: votes for each class by k, float64 (rows, C)."""
        require_fitted(self)
        queries = feature_matrix(features, width=self._width)
        queries = queries if self._transform is None else self._transform.apply(queries)
        ids, similarities = search(queries, self._gallery, self.k[-1], exclude, device=self.device)
        for start in range(0, len(ids), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            yield self._count(self._classes_of_rows[ids[block]], similarities[block])

    def _count(self, voters: np.ndarray, similarities: np.ndarray) -> dict[int, np.ndarray]:
        # Relative to the nearest row, so that a low temperature cannot overflow.
        relative = (similarities - similarities[:, :1]).astype(np.float64)
        weights = torch.from_numpy(np.exp(relative / self.temperature))
        classes = torch.from_numpy(voters)
        table = torch.zeros(len(voters), len(self.classes), dtype=torch.float64, device="cpu")
        votes, counted = {}, 0
        for k in self.k:
            table.scatter_add_(1, classes[:, counted:k], weights[:, counted:k])
            votes[k], counted = table.numpy().copy(), k
        return votes
