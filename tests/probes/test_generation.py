"""Held to closed forms, scipy, hand-made cases and slow restatements."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch

from probes.generation import (
    Moments,
    coverage,
    density,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold_scores,
    precision,
    recall,
)
from probes.rows import DiskRows

RNG = np.random.default_rng


def gaussian(count: int, width: int, seed: int = 0) -> np.ndarray:
    return RNG(seed).standard_normal((count, width))


def of(mean: list[float], covariance: list[list[float]]) -> Moments:
    return Moments(None, np.array(mean), np.array(covariance))


# Fréchet distance


def test_frechet_distance_of_diagonal_gaussians_has_a_closed_form():
    first, second = of([0, 1], [[4, 0], [0, 9]]), of([3, 5], [[1, 0], [0, 16]])
    assert frechet_distance(first, second) == pytest.approx(9 + 16 + (2 - 1) ** 2 + (3 - 4) ** 2, abs=1e-10)


def test_frechet_distance_in_one_dimension():
    real, fake = gaussian(50, 1), 3 * gaussian(70, 1, 1) + 2
    expected = (real.mean() - fake.mean()) ** 2 + (real.std(ddof=1) - fake.std(ddof=1)) ** 2
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_equals_that_by_scipys_root():
    real, fake = gaussian(90, 7) @ gaussian(7, 7, 1), gaussian(80, 7, 2) @ gaussian(7, 7, 3) + 0.5
    covariances = [np.cov(features, rowvar=False) for features in (real, fake)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    apart = real.mean(0) - fake.mean(0)
    expected = apart @ apart + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_a_set_and_itself_is_0_even_where_its_covariance_is_singular():
    features = 100 * gaussian(30, 40)
    with pytest.warns(UserWarning, match="real has 30 samples of width 40"):
        assert frechet_distance(features, features.copy()) == pytest.approx(0, abs=1e-8)


def test_enough_samples_bring_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(gaussian(9, 8), gaussian(9, 8, 1))


def test_a_complex_root_raises_and_never_gives_0():
    bad = of([0, 0], [[1, 0], [0, -0.5]])
    with pytest.raises(ValueError, match=r"covariance of fake.*complex"):
        frechet_distance(of([0, 0], [[1, 0], [0, 1]]), bad)
    with pytest.raises(ValueError, match="symmetric"):
        of([0, 0], [[1, 2], [0, 1]])
    with pytest.raises(ValueError, match="NaN or infinity"):
        of([0, math.nan], [[1, 0], [0, 1]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_statistics_are_float64_whatever_the_features_are(dtype: type):
    features = (gaussian(300, 3) + 500).astype(dtype)
    moments = Moments.of(features)
    np.testing.assert_allclose(moments.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-10)
    assert moments.mean.dtype == np.float64


def test_statistics_of_parts_are_those_of_the_whole():
    features = gaussian(100, 5) + 10
    merged = Moments.of(features[:2]) + Moments.of(features[2:61]) + Moments.of(features[61:])
    whole = Moments.of(DiskRows(features))
    assert merged.count == whole.count == 100
    np.testing.assert_allclose(merged.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, np.cov(features, rowvar=False), rtol=1e-10)
    with pytest.raises(ValueError, match="unknown number"):
        merged + of([0.0] * 5, np.eye(5).tolist())


# Precision, recall, density, coverage


def slow_scores(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """By definition, one pair after the other."""

    def radius(features: np.ndarray, index: int) -> float:
        return sorted(np.linalg.norm(features[index] - other) for other in np.delete(features, index, 0))[k - 1]

    def distance(i: int, j: int) -> float:
        return float(np.linalg.norm(real[i] - fake[j]))

    n, m = range(len(real)), range(len(fake))
    balls, fake_balls = [radius(real, i) for i in n], [radius(fake, j) for j in m]
    precise = np.mean([any(distance(i, j) <= balls[i] for i in n) for j in m])
    recalled = np.mean([any(distance(i, j) <= fake_balls[j] for j in m) for i in n])
    dense = sum(distance(i, j) < balls[i] for i in n for j in m) / (k * len(fake))
    covered = np.mean([any(distance(i, j) < balls[i] for j in m) for i in n])
    return float(precise), float(recalled), float(dense), float(covered)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 3])
def test_scores_equal_a_slow_restatement(monkeypatch: pytest.MonkeyPatch, dtype: type, k: int):
    monkeypatch.setattr("probes.generation.COMPARED", 7)
    real, fake = gaussian(31, 4).astype(dtype), (0.7 * gaussian(23, 4, 1) + 0.6).astype(dtype)
    expected = slow_scores(real.astype(np.float64), fake.astype(np.float64), k)
    assert manifold_scores(real, fake, k) == pytest.approx(expected, abs=1e-12)
    each = [function(real, fake, k) for function in (precision, recall, density, coverage)]
    assert each == pytest.approx(expected, abs=1e-12)


def test_which_set_is_which():
    """Samples of one of two modes: all are good, and half of the real images are covered."""
    real = np.array([[0.0], [1], [2], [3], [100], [101], [102], [103]])
    fake = np.array([[0.5], [1.5], [2.5], [1.0], [2.0]])
    assert precision(real, fake) == 1 and recall(real, fake) == 0.5
    assert precision(fake, real) == 0.5 and recall(fake, real) == 1
    assert precision(real.astype(int), fake.astype(int)) == 1, "whole numbers are features too"
    assert coverage(real, fake) == 0.5


def test_what_lies_on_a_ball_is_inside_for_precision_and_outside_for_density():
    real, fake = np.array([[0.0], [1], [10], [11]]), np.array([[2.0], [12], [50], [60]])
    assert precision(real, fake, k=1) == 0.5
    assert density(real, fake, k=1) == 0 == coverage(real, fake, k=1)


@pytest.mark.parametrize("change", [lambda x: x + 1e4, lambda x: 1e-12 * x, lambda x: 1e18 * x, torch.from_numpy])
def test_scores_depend_on_ratios_of_distances_alone(change):
    real, fake = gaussian(40, 3), 0.8 * gaussian(50, 3, 1)
    assert manifold_scores(change(real), change(fake)) == pytest.approx(manifold_scores(real, fake), abs=1e-12)


def test_equal_sets_are_perfect():
    features = gaussian(60, 5).astype(np.float32)
    assert manifold_scores(features, features.copy()) == (1, 1, 1, 1)


# Kernel distance


def test_kernel_distance_equals_a_slow_restatement():
    real, fake = gaussian(6, 3), gaussian(5, 3, 1) + 0.3

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within = [
        np.mean([kernel(x, y) for i, x in enumerate(one) for j, y in enumerate(one) if i != j]) for one in (real, fake)
    ]
    expected = within[0] + within[1] - 2 * np.mean([kernel(x, y) for x in real for y in fake])
    assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-12)
    assert kernel_distance(fake, real) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_is_unbiased():
    generator = RNG(0)
    draws = [kernel_distance(*generator.standard_normal((2, 12, 4))) for _ in range(400)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / math.sqrt(len(draws))
    assert min(draws) < 0 < max(draws) and np.std(draws) / math.sqrt(len(draws)) < 0.1


def test_kernel_distance_of_float32_features_far_from_zero():
    real, fake = (gaussian(30, 8, seed).astype(np.float32) + 1000 for seed in (0, 1))
    exact = kernel_distance(real.astype(np.float64), fake.astype(np.float64))
    assert kernel_distance(real, fake) == pytest.approx(exact, rel=1e-4)


# Inception score


def test_inception_score_of_hand_made_distributions():
    sure = np.tile(np.eye(4), (5, 1))
    assert inception_score(sure, splits=5) == pytest.approx((4, 0))
    assert inception_score(np.full((20, 4), 0.25)) == pytest.approx((1, 0))
    collapsed = np.tile(np.eye(4)[:1], (20, 1))
    assert inception_score(collapsed) == pytest.approx((1, 0))
    halves = np.array([[0.9, 0.1], [0.1, 0.9]])
    by_hand = math.exp(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5))
    assert inception_score(halves, splits=1) == pytest.approx((by_hand, 0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inception_score_of_probabilities_in_half_precision(dtype: torch.dtype):
    given = torch.rand(50, 7, generator=torch.Generator().manual_seed(0)).softmax(1).to(dtype)
    assert (given.double().sum(1) - 1).abs().max() > (1e-3 if dtype == torch.bfloat16 else 0)
    assert inception_score(given) == pytest.approx(
        inception_score(given.double() / given.double().sum(1, keepdim=True)), rel=1e-3
    )
    with pytest.raises(ValueError, match="add up to"):
        inception_score(given * 0.99)


def test_inception_score_is_of_parts_in_the_order_given():
    by_class = np.repeat(np.eye(2), 4, axis=0)
    assert inception_score(by_class, splits=2) == pytest.approx((1, 0))
    assert inception_score(by_class[[0, 4, 1, 5, 2, 6, 3, 7]], splits=2) == pytest.approx((2, 0))
    mixed = np.concatenate([by_class[[0, 4]], by_class[:2]])
    assert inception_score(mixed, splits=2) == pytest.approx((1.5, 0.5))
    of_three = 6.75 ** (1 / 3)  # two of one class and one of the other; then one alone
    assert inception_score(mixed, size=3) == pytest.approx(((of_three + 1) / 2, (of_three - 1) / 2))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ([[1.2, -0.2], [0.5, 0.5]], "sample 0"),
        ([[0.5, 0.5], [0.5, 0.6]], "sample 1"),
        ([[0.5, 0.5], [math.nan, 0.5]], "NaN"),
        ([[0.5, 0.5]], "at least 2"),
    ],
)
def test_what_is_no_distribution_is_refused(wrong: list[list[float]], named: str):
    with pytest.raises(ValueError, match=named):
        inception_score(np.array(wrong), splits=1)
    with pytest.raises(ValueError, match="too few for 10"):
        inception_score(np.full((9, 2), 0.5))


# What all refuse

DISTANCES = [frechet_distance, precision, recall, density, coverage, kernel_distance, manifold_scores]


@pytest.mark.parametrize("distance", DISTANCES)
def test_bad_features_are_refused_before_any_work(distance):
    good, bad = gaussian(20, 4), gaussian(20, 4)
    bad[7, 2] = np.nan
    for real, fake, named in [
        (good, bad, "fake.*row 7"),
        (bad, good, "real.*row 7"),
        (good, DiskRows(bad), "7"),
        (good, gaussian(20, 5), "4.*5"),
        (good[:1], good, "real has 1 sample"),
        (good, good[0], "shape"),
    ]:
        with pytest.raises(ValueError, match=named):
            distance(real, fake)


@pytest.mark.parametrize("score", [precision, recall, density, coverage])
def test_too_few_samples_for_the_neighbours(score):
    with pytest.raises(ValueError, match=r"fake has 3 samples.*3 nearest"):
        score(gaussian(9, 2), gaussian(3, 2))
    for k in (0, -1, 1.5, True):
        with pytest.raises((TypeError, ValueError), match="k must be"):
            score(gaussian(9, 2), gaussian(9, 2), k=k)
