from __future__ import annotations

import numpy as np
import pytest

from probes import stratified_holdout
from probes.splits import tuning_split


def test_each_class_gives_its_share() -> None:
    labels = np.repeat([0, 1, 5], [100, 50, 20])
    kept, held = stratified_holdout(labels, 0.1, seed=3)
    assert np.bincount(labels[held]).tolist() == [10, 5, 0, 0, 0, 2]
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(170))


def test_seed_decides() -> None:
    labels = np.repeat([0, 1], 100)
    _, first = stratified_holdout(labels, seed=0)
    _, same = stratified_holdout(labels, seed=0)
    _, other = stratified_holdout(labels, seed=1)
    np.testing.assert_array_equal(first, same)
    assert first.tolist() != other.tolist()


def test_a_class_of_one_row_stays_in_training() -> None:
    labels = np.array([0] * 10 + [1])
    kept, held = stratified_holdout(labels, 0.9, seed=0)
    assert 10 in kept
    assert len(held) == 9


def test_nothing_to_hold_out_is_an_error() -> None:
    with pytest.raises(ValueError, match="10% of 4 rows leaves no validation row"):
        stratified_holdout(np.array([0, 0, 1, 1]), 0.1)
    with pytest.raises(ValueError, match=r"fraction must lie between 0 and 1, got 1\.5"):
        stratified_holdout(np.array([0, 1]), 1.5)


def test_validation_needs_features_and_labels_of_the_same_width() -> None:
    features, labels = np.zeros((4, 3), np.float32), np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match="pass both or neither"):
        tuning_split(features, labels, features, None, fraction=0.1, seed=0)
    with pytest.raises(ValueError, match=r"validation_features must have shape \(n, 3\).*\(4, 2\)"):
        tuning_split(features, labels, features[:, :2], labels, fraction=0.1, seed=0)
    with pytest.raises(ValueError, match=r"validation_labels must have shape \(4,\), got \(3,\)"):
        tuning_split(features, labels, features, labels[:3], fraction=0.1, seed=0)
