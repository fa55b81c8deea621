"""Classification from a few labelled rows of each class, over several draws of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from probes.inputs import Labels, check_counts, label_vector
from probes.logistic import C_GRID, LogisticProbe
from probes.metrics import accuracy
from probes.rows import Features, SelectedRows, as_rows
from probes.splits import few_shot_rows, stratified_holdout

SHOTS = (1, 5, 10)
FEW_SHOT_C_GRID = C_GRID[::2]
"""Half decades: with few rows neighbouring values of C are alike."""


@dataclass(frozen=True, eq=False)
class FewShotScores:
    """Accuracies with `shots` rows of each class: one draw of rows for each seed."""

    shots: int
    accuracies: np.ndarray
    """(seeds,) on the evaluation rows, in [0, 1]."""
    predictions: np.ndarray
    """int64 (seeds, m), labels of the evaluation rows."""
    strengths: tuple[float, ...]
    """The C that each draw's probe chose."""
    tuning_accuracies: np.ndarray
    """(seeds,) of the chosen C on the tuning rows."""

    @property
    def mean(self) -> float:
        """The mean of the accuracies."""
        return float(self.accuracies.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation of the accuracies over draws, with n - 1; NaN of a single draw."""
        return float(self.accuracies.std(ddof=1)) if len(self.accuracies) > 1 else float("nan")


def few_shot(
    features: Features,
    labels: Labels,
    evaluation_features: Features,
    evaluation_labels: Labels,
    *,
    shots: Sequence[int] = SHOTS,
    seeds: int = 5,
    C_grid: Sequence[float] = FEW_SHOT_C_GRID,
    standardize: bool = True,
    tuning_fraction: float = 0.1,
    seed: int = 0,
) -> Iterator[FewShotScores]:
    """`LogisticProbe` fitted on a few rows of each class, for each number in `shots`.

    A stratified `tuning_fraction` of the training rows is set aside to choose C, and shots are drawn from
    the rest by `few_shot_rows` with the seeds `seed`, `seed` + 1 …: those of fewer shots are among those of more.
    `standardize` as in `LogisticProbe`. The tuning rows are more than the shots: what is measured is the features,
    not how to do without a tuning set.

    Raises ValueError if a class has too few rows, and as `LogisticProbe.fit` does.
    """
    check_counts(seeds=seeds)
    train = as_rows(features, "features", "(n, D)", 2)
    width = train.shape[1]
    evaluation = as_rows(evaluation_features, "evaluation_features", f"(n, {width})", 2, width)
    train_labels = label_vector(labels, len(train))
    truth = label_vector(evaluation_labels, len(evaluation), "evaluation_labels")
    pool, tuning = stratified_holdout(train_labels, tuning_fraction, seed)
    for count in shots:  # too many are refused before any probe is fitted
        few_shot_rows(train_labels[pool], count)
    held = SelectedRows(train, tuning), train_labels[tuning]
    for count in shots:
        probes = []
        for draw in range(seeds):
            rows = pool[few_shot_rows(train_labels[pool], count, seed + draw)]
            probe = LogisticProbe(C_grid=C_grid, refit=False, standardize=standardize)
            probes.append(probe.fit(SelectedRows(train, rows), train_labels[rows], *held))
        predictions = np.stack([probe.predict(evaluation) for probe in probes])
        yield FewShotScores(
            shots=count,
            accuracies=np.array([accuracy(row, truth) for row in predictions]),
            predictions=predictions,
            strengths=tuple(probe.C for probe in probes),
            tuning_accuracies=np.array([probe.validation_accuracy for probe in probes]),
        )
