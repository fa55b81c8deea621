from __future__ import annotations

import numpy as np
import pytest
import torch

from probes import stratified_holdout, stratified_rows
from probes.rows import TensorRows
from probes.splits import few_shot_rows, tuning_split


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
    with pytest.raises(ValueError, match=r"10% of each class leave none .* has 5 to train on: give one of at least 6"):
        stratified_holdout(np.repeat([0, 1], [5, 1]), 0.1)
    assert len(stratified_holdout(np.repeat([0, 1], [6, 1]), 0.1)[1]) == 1
    with pytest.raises(ValueError, match=r"fraction must lie between 0 and 1, got 1\.5"):
        stratified_holdout(np.array([0, 1]), 1.5)


def test_validation_needs_features_and_as_many_labels() -> None:
    features, labels = TensorRows(torch.zeros(4, 3)), np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match="pass both or neither"):
        tuning_split(features, labels, features, None, fraction=0.1, seed=0)
    with pytest.raises(ValueError, match=r"validation_labels must have shape \(4,\), got \(3,\)"):
        tuning_split(features, labels, features, labels[:3], fraction=0.1, seed=0)


def test_a_tuning_part_is_read_from_the_training_rows() -> None:
    """Row i holds i: what is read tells which rows are where."""
    features, labels = torch.arange(20.0)[:, None], np.tile([3, 5], 10)
    split = tuning_split(TensorRows(features), labels, None, None, fraction=0.2, seed=1)
    kept, held = stratified_holdout(labels, 0.2, seed=1)
    assert split.validation_features.read(np.array([3, 0])).flatten().tolist() == [held[3], held[0]]
    assert split.features.read(np.arange(len(kept))).flatten().tolist() == kept.tolist()
    assert split.labels.tolist() == labels[kept].tolist()
    assert split.validation_labels.tolist() == labels[held].tolist()


def test_few_shots_are_of_every_class_and_grow() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([2, 4, 9], [30, 12, 10]))
    one, five, ten = (few_shot_rows(labels, shots, seed=4) for shots in (1, 5, 10))
    assert np.bincount(labels[five]).tolist() == [0, 0, 5, 0, 5, 0, 0, 0, 0, 5]
    assert len(set(ten)) == 30
    assert set(one) < set(five) < set(ten)
    assert five.tolist() == sorted(five)
    assert five.tolist() != few_shot_rows(labels, 5, seed=5).tolist()


def test_more_shots_than_a_class_has_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"1 … 2, the rows of class 7, got 3"):
        few_shot_rows([1, 1, 1, 7, 7], 3)
    with pytest.raises(ValueError, match="got 0"):
        few_shot_rows([1, 1, 7, 7], 0)
    with pytest.raises(TypeError, match=r"shots must be an integer, got 1\.5"):
        few_shot_rows([1, 1, 7, 7], 1.5)


def test_stratified_rows_are_exactly_as_many_and_shared_by_largest_remainders() -> None:
    labels = np.repeat([0, 1, 2, 7], [10, 20, 3, 1])
    rows = stratified_rows(labels, 11, seed=3)
    # Shares 3.24, 6.47, 0.97, 0.32: whole ones first, then class 2, then class 1.
    assert np.bincount(labels[rows], minlength=8).tolist() == [3, 7, 1, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(rows, stratified_rows(labels, 11, seed=3))
    most = stratified_rows(labels, 30, leave=1)
    assert np.bincount(labels[most], minlength=8).tolist() == [9, 19, 2, 0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="count must lie within 1 … 30, for 1 of each class are left, got 31"):
        stratified_rows(labels, 31, leave=1)


def test_stratified_rows_of_even_shares_are_those_held_out() -> None:
    labels = np.arange(200) % 4
    np.testing.assert_array_equal(stratified_rows(labels, 40, seed=5), stratified_holdout(labels, 0.2, seed=5)[1])
