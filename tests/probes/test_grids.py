"""Grids that go on where their end is chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from probes import AttentiveProbe, LinearProbe, LinearSegmenter, LogisticProbe
from probes.grids import beyond, end_warnings, settle


def test_values_beyond_by_hand() -> None:
    assert beyond([1, 2, 4], 4, (0, 100)) == [8, 16, 32]
    assert beyond([1, 2, 4], 1, (0.2, 100)) == [0.5, 0.25]
    assert beyond([1, 10, 20], 20, (0, 1000), count=1) == [40]
    assert beyond([1, 2, 4], 2, (0, 100)) == [] and beyond([3], 3, (0, 100)) == []


def test_a_grid_goes_on_until_its_best_value_lies_within() -> None:
    def height(x: float) -> float:
        return 0.9 - 0.01 * abs(math.log2(x / 64))

    scores = {x: height(x) for x in (1.0, 2.0, 4.0)}
    assert settle(scores, lambda more: {x: height(x) for x in more}, (1e-3, 1e3)) == 64
    assert max(scores) > 64 and end_warnings("x", scores, 64) == []


def test_where_a_grid_cannot_go_on_the_result_says_so() -> None:
    scores = {1.0: 0.1, 2.0: 0.2}
    assert settle(scores, lambda more: {x: x / 10 for x in more}, (0.5, 5.0)) == 4
    (warning,) = end_warnings("learning rate", scores, 4)
    assert "learning rate 4" in warning and "end of grid" in warning
    assert end_warnings("C", {1.0: 1.0, 2.0: 0.5}, 1.0) == []  # nothing is better than all right


def test_of_equals_the_grid_as_given_is_kept() -> None:
    scores = {1.0: 0.5, 2.0: 0.5}
    assert settle(scores, lambda more: dict.fromkeys(more, 0.5), (1e-9, 1e9)) == 1


def classes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = np.random.default_rng(9).standard_normal((3, 8))
    return (centres[labels] + 1.2 * generator.standard_normal((count, 8))).astype(np.float32), labels


@pytest.mark.parametrize("grid", [(1e-8, 1e-7), (1e-9, 1e-8, 1e-7)])
def test_logistic_regression_leaves_a_grid_that_is_too_low(grid: tuple[float, ...]) -> None:
    train, held = classes(300, 0), classes(300, 1)
    narrow, wide = (LogisticProbe(C_grid=c, refit=False).fit(*train, *held) for c in (grid, (1e-3, 1e-2, 0.1, 1)))
    assert narrow.C > 1e-7 and narrow.validation_accuracy > wide.validation_accuracy - 0.03
    assert set(grid) < set(narrow.converged) and narrow.warnings == []


def test_linear_heads_leave_a_grid_that_is_too_low() -> None:
    train, held = classes(300, 0), classes(300, 1)
    options = {"epochs": 3, "batch_size": 64}
    probe = LinearProbe(learning_rates=(1e-6, 1e-5), **options).fit(*train, *held)
    assert probe.learning_rate > 1e-5 and probe.learning_rate < max(probe.validation_accuracies)
    alone = LinearProbe(learning_rates=(probe.learning_rate,), **options).fit(*train, *held)
    torch.testing.assert_close(alone.weight, probe.weight)
    assert probe.warnings == [] and alone.warnings == []


def test_attentive_heads_leave_a_grid_that_is_too_low() -> None:
    (train, labels), (held, held_labels) = classes(300, 0), classes(300, 1)
    options = {"num_heads": 2, "epochs": 2, "batch_size": 64}
    sets = train.reshape(300, 2, 4), labels, held.reshape(300, 2, 4), held_labels
    probe = AttentiveProbe(learning_rates=(1e-7, 1e-6), **options).fit(*sets)
    assert probe.learning_rate > 1e-6
    alone = AttentiveProbe(learning_rates=(probe.learning_rate,), **options).fit(*sets)
    np.testing.assert_allclose(alone.predict_proba(sets[2]), probe.predict_proba(sets[2]), atol=1e-5)


def test_segmentation_heads_leave_a_grid_that_is_too_low() -> None:
    generator = np.random.default_rng(0)
    masks = [generator.integers(0, 3, (4, 4)).repeat(4, 0).repeat(4, 1) for _ in range(12)]
    maps = [np.eye(3, 6, dtype=np.float32)[mask[::4, ::4]] + generator.normal(0, 1, (4, 4, 6)) for mask in masks]
    maps = [each.astype(np.float32) for each in maps]
    options = {"iterations": 20, "batch_size": 4, "pixels": 64}
    narrow = LinearSegmenter(3, learning_rates=(1e-6, 1e-5), **options).fit(maps, masks)
    assert narrow.learning_rate > 1e-5 and narrow.validation_miou == max(narrow.validation_mious.values())
    alone = LinearSegmenter(3, learning_rates=(narrow.learning_rate,), **options).fit(maps, masks)
    torch.testing.assert_close(alone.weight, narrow.weight)
