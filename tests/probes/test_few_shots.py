from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from probes import few_shot, stratified_holdout
from probes.few_shots import FewShotScores
from probes.splits import few_shot_rows


def overlapping(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four classes that overlap, with labels 1, 3, 5 and 7, float64 (rows, 24): more features than few rows have."""
    centres = np.random.default_rng(99).standard_normal((4, 24))
    generator = np.random.default_rng(seed)
    places = generator.integers(0, 4, rows)
    return centres[places] + 2 * generator.standard_normal((rows, 24)), 2 * places + 1


TRAIN, EVALUATION = overlapping(400, 0), overlapping(500, 1)


def test_equals_scikit_learn_on_the_same_rows() -> None:
    (found,) = few_shot(*TRAIN, *EVALUATION, shots=(5,), seeds=3, C_grid=(0.01,), seed=7)
    pool, _ = stratified_holdout(TRAIN[1], 0.1, seed=7)
    for draw in range(3):
        rows = pool[few_shot_rows(TRAIN[1][pool], 5, seed=7 + draw)]
        scaler = StandardScaler().fit(TRAIN[0][rows])
        model = LogisticRegression(C=0.01, tol=1e-8, max_iter=1000).fit(
            scaler.transform(TRAIN[0][rows]), TRAIN[1][rows]
        )
        predictions = model.predict(scaler.transform(EVALUATION[0]))
        assert (predictions == found.predictions[draw]).mean() > 0.995  # but for rows on a boundary
        assert found.accuracies[draw] == (found.predictions[draw] == EVALUATION[1]).mean()


def test_more_shots_are_better_and_c_is_chosen_on_rows_set_aside() -> None:
    scores = list(few_shot(*TRAIN, *EVALUATION, shots=(1, 5, 20), seeds=3, C_grid=(1e-3, 1e-1)))
    assert [each.shots for each in scores] == [1, 5, 20]
    means = [each.mean for each in scores]
    assert 0.25 < means[0] < means[1] < means[2]
    assert all(len(each.strengths) == 3 for each in scores)
    assert all(each.tuning_accuracies.shape == (3,) for each in scores)


def test_mean_and_deviation_by_hand() -> None:
    scores = FewShotScores(1, np.array([0.2, 0.4, 0.6]), np.zeros((3, 5), int), (1.0, 1.0, 1.0), np.zeros(3))
    assert scores.mean == pytest.approx(0.4)
    assert scores.deviation == pytest.approx(0.2)
    single = FewShotScores(1, np.array([0.2]), np.zeros((1, 5), int), (1.0,), np.zeros(1))
    assert np.isnan(single.deviation)


def test_the_same_seed_gives_the_same_draws() -> None:
    options = {"shots": (2,), "seeds": 2, "C_grid": (0.1,)}
    first, same, other = (next(few_shot(*TRAIN, *EVALUATION, **options, seed=seed)) for seed in (0, 0, 9))
    np.testing.assert_array_equal(first.predictions, same.predictions)
    assert (first.predictions != other.predictions).any()


def test_too_few_rows_of_a_class_are_an_error() -> None:
    with pytest.raises(ValueError, match="the rows of class"):
        list(few_shot(*TRAIN, *EVALUATION, shots=(200,)))


def test_too_many_shots_are_refused_before_any_probe_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probes.few_shots.LogisticProbe", None)
    with pytest.raises(ValueError, match="1000"):
        next(few_shot(*TRAIN, *EVALUATION, shots=(1, 1000)))
