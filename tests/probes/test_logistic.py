from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from probes import LogisticProbe, Standardizer, softmax_regression
from probes.logistic import C_GRID


def overlapping(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four classes that overlap, with features of very different scale, float64 (rows, 12)."""
    centres = np.random.default_rng(99).standard_normal((4, 12))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, rows)
    features = centres[labels] + 1.5 * generator.standard_normal((rows, 12))
    return features * np.logspace(-3, 3, 12) + 5, labels


TRAIN, VALIDATION, TEST = overlapping(400, 0), overlapping(200, 1), overlapping(300, 2)


def plain(C: float, features: np.ndarray, labels: np.ndarray) -> tuple[StandardScaler, LogisticRegression]:
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=C, tol=1e-10, max_iter=5000)
    return scaler, model.fit(scaler.transform(features), labels)


def test_grid_and_winner_equal_plain_scikit_learn() -> None:
    grid = (1e-4, 1e-2, 1.0, 100.0)
    probe = LogisticProbe(C_grid=grid, tolerance=1e-15, max_iterations=5000, refit=False)
    probe.fit(*TRAIN, *VALIDATION)
    expected = {}
    for C in grid:
        scaler, model = plain(C, *TRAIN)
        expected[C] = model.score(scaler.transform(VALIDATION[0]), VALIDATION[1])
    assert probe.validation_accuracies == expected
    assert probe.validation_accuracy == max(expected.values()) > 0.7
    assert min(C for C in grid if expected[C] == max(expected.values())) == probe.C
    scaler, model = plain(probe.C, *TRAIN)
    found = probe.predict_proba(TEST[0])
    np.testing.assert_allclose(found, model.predict_proba(scaler.transform(TEST[0])), atol=1e-6)


def test_refit_uses_training_and_validation_rows() -> None:
    probe = LogisticProbe(C_grid=(0.1,), tolerance=1e-15, max_iterations=5000).fit(*TRAIN, *VALIDATION)
    both = [np.concatenate(parts) for parts in zip(TRAIN, VALIDATION, strict=True)]
    scaler, model = plain(0.1, *both)
    found = probe.predict_proba(TEST[0])
    np.testing.assert_allclose(found, model.predict_proba(scaler.transform(TEST[0])), atol=1e-6)


def test_smallest_of_equally_good_strengths_wins() -> None:
    features = np.array([[-1.0], [1.0]] * 20)
    labels = np.array([0, 1] * 20)
    labels[0] = 1
    probe = LogisticProbe(C_grid=(10.0, 0.1, 1.0), refit=False).fit(features, labels, features, labels)
    assert [probe.validation_accuracies[C] for C in (0.1, 1.0, 10.0)] == [0.975] * 3
    assert probe.C == 0.1


def test_the_path_ends_where_nothing_is_left_to_improve() -> None:
    features, labels = np.array([[-1.0], [1.0]] * 20), np.array([0, 1] * 20)
    probe = LogisticProbe(C_grid=(10.0, 0.1, 1.0)).fit(features, labels)
    assert (probe.C, probe.validation_accuracies) == (0.1, {0.1: 1.0})


def test_float32_is_close_to_float64() -> None:
    double = LogisticProbe(C_grid=(0.1,)).fit(*TRAIN).predict_proba(TEST[0])
    single = LogisticProbe(C_grid=(0.1,)).fit(TRAIN[0].astype(np.float32), TRAIN[1])
    found = single.predict_proba(TEST[0].astype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, double, atol=2e-3)


def test_constant_features_do_no_harm() -> None:
    features = np.concatenate([TRAIN[0], np.full((400, 1), 0.1)], axis=1)
    without = LogisticProbe(C_grid=(0.1,), tolerance=1e-13).fit(*TRAIN).predict_proba(TRAIN[0])
    found = LogisticProbe(C_grid=(0.1,), tolerance=1e-13).fit(features, TRAIN[1]).predict_proba(features)
    np.testing.assert_allclose(found, without, atol=1e-5)


def test_stopping_early_is_reported() -> None:
    probe = LogisticProbe(C_grid=(1e-6, 1e3), max_iterations=8, refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        probe.fit(*TRAIN)
    assert probe.converged[1e-6] and not probe.converged[1e3]


def test_a_class_only_seen_in_validation_is_learnt_by_refitting() -> None:
    labels = np.where(VALIDATION[1] == 3, 8, VALIDATION[1])
    once = LogisticProbe(C_grid=(1.0,), refit=False).fit(*TRAIN, VALIDATION[0], labels)
    again = LogisticProbe(C_grid=(1.0,)).fit(*TRAIN, VALIDATION[0], labels)
    assert once.classes.tolist() == [0, 1, 2, 3]
    assert again.classes.tolist() == [0, 1, 2, 3, 8]


def test_the_grid_is_the_published_one() -> None:
    """DINOv2's 10^linspace(-6, 5, 45)."""
    np.testing.assert_allclose(C_GRID, 10 ** np.linspace(-6, 5, 45))


def test_two_classes_are_penalised_as_by_scikit_learn() -> None:
    labels = TRAIN[1] % 2
    probe = LogisticProbe(C_grid=(0.01,), tolerance=1e-15, refit=False).fit(TRAIN[0], labels, *TEST)
    scaler, model = plain(0.01, TRAIN[0], labels)
    np.testing.assert_allclose(probe.predict_proba(TEST[0]), model.predict_proba(scaler.transform(TEST[0])), atol=1e-6)


@pytest.mark.parametrize("largest", [4096, 5])
def test_features_need_not_be_standardised_nor_rotated(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax_regression, "LARGEST_BASIS", largest)
    features = 1 + (TRAIN[0] - TRAIN[0].mean(0)) / TRAIN[0].std(0) / np.logspace(-0.5, 0.5, 12)
    probe = LogisticProbe(C_grid=(0.1,), tolerance=1e-15, refit=False, standardize=False).fit(features, TRAIN[1], *TEST)
    model = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(features, TRAIN[1])
    np.testing.assert_allclose(probe.predict_proba(features), model.predict_proba(features), atol=1e-6)


def test_fewer_rows_than_features_equal_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    features, labels = generator.standard_normal((30, 200)), np.arange(30) % 3
    probe = LogisticProbe(C_grid=(0.1,), tolerance=1e-15, refit=False).fit(features, labels, features, labels)
    scaler, model = plain(0.1, features, labels)
    queries = generator.standard_normal((50, 200))
    np.testing.assert_allclose(probe.predict_proba(queries), model.predict_proba(scaler.transform(queries)), atol=1e-6)


def test_the_path_stops_where_only_overfitting_follows() -> None:
    """Labels that are mostly noise: the validation loss rises with C from early on."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((150, 60))
    labels = np.where(generator.random(150) < 0.6, features[:, 0] > 0, generator.random(150) < 0.5).astype(int)
    probe = LogisticProbe(patience=3).fit(features, labels)
    tried = list(probe.validation_accuracies)
    assert tried == list(C_GRID[: len(tried)])
    assert len(tried) < 35
    assert probe.validation_accuracies[probe.C] == max(probe.validation_accuracies.values())
    assert tried.index(probe.C) <= len(tried) - 1 - 3
    whole = LogisticProbe(patience=45).fit(features, labels)
    assert len(whole.validation_accuracies) == 45 and whole.validation_accuracies[probe.C] == probe.validation_accuracy


def test_warm_starts_reach_what_cold_starts_reach() -> None:
    path = LogisticProbe(C_grid=(1e-3, 1e-2, 0.1), tolerance=1e-12, refit=False).fit(*TRAIN, *VALIDATION)
    cold = LogisticProbe(C_grid=(path.C,), tolerance=1e-12, refit=False).fit(*TRAIN, *VALIDATION)
    np.testing.assert_allclose(path.predict_proba(TEST[0]), cold.predict_proba(TEST[0]), atol=1e-5)


@pytest.mark.cuda
def test_cuda_equals_cpu() -> None:
    features = torch.from_numpy(TRAIN[0])
    cpu = LogisticProbe(C_grid=(0.1,), tolerance=1e-12).fit(features, TRAIN[1])
    cuda = LogisticProbe(C_grid=(0.1,), tolerance=1e-12, device="cuda").fit(features, TRAIN[1], *VALIDATION)
    again = LogisticProbe(C_grid=(0.1,), tolerance=1e-12).fit(features.cuda(), TRAIN[1])
    assert cuda.weight.is_cuda and again.weight.is_cuda
    np.testing.assert_allclose(again.predict_proba(TEST[0]), cpu.predict_proba(TEST[0]), atol=1e-5)


def test_grid_must_be_positive() -> None:
    with pytest.raises(ValueError, match="all > 0"):
        LogisticProbe(C_grid=(0.0, 1.0))
    with pytest.raises(ValueError, match="at least one value"):
        LogisticProbe(C_grid=())
    with pytest.raises(ValueError, match="max_iterations must be ≥ 1, got 0"):
        LogisticProbe(max_iterations=0)


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_classes_that_come_apart_are_fitted_to_the_minimum(precision: type) -> None:
    """Fewer images than features at the largest C: the Hessian falls by orders of magnitude on the way."""
    generator = np.random.default_rng(0)
    labels = np.arange(700) % 5
    centres = generator.standard_normal((5, 400))
    mixing = generator.standard_normal((400, 400)) / 20 * np.exp(-np.arange(400) / 60)
    features = (0.5 * centres[labels] + 3 * generator.standard_normal((700, 400))) @ mixing
    features = features.astype(precision)
    train, test = slice(0, 150), slice(150, 700)
    probe = LogisticProbe(C_grid=(1e5,), refit=False)
    probe.fit(features[train], labels[train], features[test], labels[test])
    plain = Standardizer().fit(features[train])
    inputs = plain.transform(features.astype(float)).numpy()
    exact = LogisticRegression(C=1e5, max_iter=10_000, tol=1e-10).fit(inputs[train], labels[train])
    assert probe.converged[1e5]
    assert probe.validation_accuracy == pytest.approx(exact.score(inputs[test], labels[test]), abs=0.006)
    weight, other = probe.weight.double().numpy(), exact.coef_.T
    cosine = (weight * other).sum() / np.linalg.norm(weight) / np.linalg.norm(other)
    assert cosine > 0.9999


def test_a_search_that_is_cut_off_says_so() -> None:
    generator = np.random.default_rng(0)
    features, labels = generator.standard_normal((150, 400)), np.arange(150) % 5
    probe = LogisticProbe(C_grid=(1e5,), refit=False, max_iterations=5)
    assert not probe.fit(features, labels, features, labels).converged[1e5]
