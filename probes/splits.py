"""The part of the training set that hyper-parameters are chosen on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .inputs import Array, Labels, feature_matrix, label_vector


class TuningSplit(NamedTuple):
    """Training rows (n, D) and (n,), and the validation rows (m, D) and (m,) that choose among candidates."""

    features: Tensor
    labels: np.ndarray
    validation_features: Tensor
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
            f"holding out {fraction:.0%} of {len(labels)} rows leaves no validation row;"
            " pass validation_features and validation_labels, or a larger fraction"
        )
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def tuning_split(
    features: Array,
    labels: Labels,
    validation_features: Array | None,
    validation_labels: Labels | None,
    *,
    fraction: float,
    seed: int,
) -> TuningSplit:
    """The given validation set beside the training set, or a stratified `fraction` of the latter."""
    train = feature_matrix(features)
    train_labels = label_vector(labels, len(train))
    if (validation_features is None) != (validation_labels is None):
        raise ValueError("validation_features and validation_labels go together: pass both or neither")
    if validation_features is None or validation_labels is None:
        kept, held = stratified_holdout(train_labels, fraction, seed)
        kept_rows, held_rows = (torch.from_numpy(rows).to(train.device) for rows in (kept, held))
        return TuningSplit(train[kept_rows], train_labels[kept], train[held_rows], train_labels[held])
    validation = feature_matrix(validation_features, "validation_features", train.shape[1])
    return TuningSplit(
        train, train_labels, validation, label_vector(validation_labels, len(validation), "validation_labels")
    )
