"""The part of the training set that hyper-parameters are chosen on."""

from typing import NamedTuple

import numpy as np

from probes.inputs import Labels, label_vector, whole_number
from probes.rows import Rows, SelectedRows


class TuningSplit(NamedTuple):
    """Training rows (n, …) and (n,), and the validation rows (m, …) and (m,) that choose among candidates."""

    features: Rows
    labels: np.ndarray
    validation_features: Rows
    validation_labels: np.ndarray


def stratified_holdout(labels: Labels, fraction: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sorted row numbers (kept, held out), about `fraction` of each class held out.

    Every class keeps at least one row; the same labels and seed give the same split. Raises ValueError
    when nothing would be held out.
    """
    labels = label_vector(labels, len(labels))
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
    generator = np.random.default_rng(seed)
    held: list[np.ndarray] = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        held.append(rows[: min(round(fraction * len(rows)), len(rows) - 1)])
    held_out = np.sort(np.concatenate(held))
    if len(held_out) == 0:
        raise ValueError(
            f"{fraction:.0%} of each class leave none to choose options on, for the largest class has "
            f"{np.unique(labels, return_counts=True)[1].max()} to train on: give one of at least "
            f"{max(2, int(0.5 / fraction) + 1)}, a larger fraction, or a validation set"
        )
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def stratified_rows(labels: Labels, count: int, seed: int = 0, *, leave: int = 0) -> np.ndarray:
    """Sorted numbers of `count` rows, of each class its share, rounded so that the sum is right (largest remainders).

    The same labels and seed give the same rows. At least `leave` rows of each class are not among them; ValueError
    where that leaves too few.
    """
    labels = label_vector(labels, len(labels))
    classes, sizes = np.unique(labels, return_counts=True)
    most = np.maximum(sizes - leave, 0)
    if not 1 <= whole_number(count, "count") <= most.sum():
        raise ValueError(f"count must lie within 1 … {most.sum()}, for {leave} of each class are left, got {count}")
    shares = count * sizes / len(labels)
    numbers = np.minimum(shares.astype(int), most)
    while missing := count - numbers.sum():
        order = np.argsort(numbers - shares, kind="stable")
        numbers[order[numbers[order] < most[order]][:missing]] += 1
    generator = np.random.default_rng(seed)
    drawn = [
        generator.permutation(np.flatnonzero(labels == label))[:number]
        for label, number in zip(classes, numbers, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def few_shot_rows(labels: Labels, shots: int, seed: int = 0) -> np.ndarray:
    """Sorted numbers of `shots` rows of each class, drawn without replacement.

    The same labels and seed give the same rows, and fewer shots some of the rows of more. ValueError if a class
    has not as many.
    """
    labels = label_vector(labels, len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    if not 1 <= whole_number(shots, "shots") <= counts.min():
        raise ValueError(
            f"shots must lie within 1 … {counts.min()}, the rows of class {classes[counts.argmin()]}, got {shots}"
        )
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(np.flatnonzero(labels == label))[:shots] for label in classes]
    return np.sort(np.concatenate(drawn))


def tuning_split(
    features: Rows,
    labels: Labels,
    validation_features: Rows | None,
    validation_labels: Labels | None,
    *,
    fraction: float,
    seed: int,
) -> TuningSplit:
    """The given validation set beside the training set, or a stratified `fraction` of the latter; no copies."""
    train_labels = label_vector(labels, len(features))
    if (validation_features is None) != (validation_labels is None):
        raise ValueError("validation_features and validation_labels go together: pass both or neither")
    if validation_features is None or validation_labels is None:
        kept, held = stratified_holdout(train_labels, fraction, seed)
        parts = SelectedRows(features, kept), SelectedRows(features, held)
        return TuningSplit(parts[0], train_labels[kept], parts[1], train_labels[held])
    held_labels = label_vector(validation_labels, len(validation_features), "validation_labels")
    return TuningSplit(features, train_labels, validation_features, held_labels)
