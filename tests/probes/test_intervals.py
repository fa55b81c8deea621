"""Confidence intervals against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from probes import bootstrap_interval, bootstrap_of_sums, holm, miou_difference, paired_bootstrap, paired_interval


def test_bootstrap_interval_is_near_the_normal_one() -> None:
    hits = np.array([1.0] * 300 + [0.0] * 100)
    low, high = bootstrap_interval(hits, resamples=4000)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == (pytest.approx(0.75 - half, abs=0.004), pytest.approx(0.75 + half, abs=0.004))


def test_bootstrap_is_seeded_and_exact_for_a_constant() -> None:
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    assert bootstrap_interval(np.full(20, 0.5)) == (0.5, 0.5)
    narrow, wide = bootstrap_interval(values, confidence=0.5), bootstrap_interval(values, confidence=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\)"):
        bootstrap_interval(values, confidence=95)


def test_a_paired_difference_by_hand() -> None:
    """Of 200 rows 100 are right for both, 60 for neither, 30 only for the first, 10 only for the second."""
    first = np.repeat([1.0, 0.0, 1.0, 0.0], [100, 60, 30, 10])
    second = np.repeat([1.0, 0.0, 0.0, 1.0], [100, 60, 30, 10])
    found = paired_interval(first, second, resamples=4000)
    assert found.difference == pytest.approx(0.1)
    error = np.sqrt((40 / 200 - 0.1**2) / 200)
    assert found.interval[0] == pytest.approx(0.1 - 1.96 * error, abs=0.006)
    assert found.interval[1] == pytest.approx(0.1 + 1.96 * error, abs=0.006)
    assert found.worse < 0.005
    backwards = paired_interval(second, first, resamples=4000)
    assert backwards.difference == pytest.approx(-0.1)
    assert backwards.worse > 0.995


def test_pairing_narrows_the_interval_of_alike_variants() -> None:
    generator = np.random.default_rng(0)
    first = generator.integers(0, 2, 500).astype(float)
    second = first.copy()
    second[:5] = 1 - second[:5]
    low, high = paired_interval(first, second).interval
    alone = bootstrap_interval(first)
    assert high - low < 0.3 * (alone[1] - alone[0])
    same = paired_interval(first, first)
    assert (same.difference, same.interval, same.worse) == (0, (0, 0), 1)


def test_scores_of_other_rows_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="3 and 4"):
        paired_interval(np.ones(3), np.ones(4))


VALUES = np.random.default_rng(5).random(40)


def test_groups_of_equal_values_count_as_one_value_each() -> None:
    """Every image three times, as a group: the interval of the images once, and wider than one that ignores it."""
    repeated, groups = np.repeat(VALUES, 3), np.repeat(np.arange(40), 3)
    assert bootstrap_interval(repeated, groups=groups) == pytest.approx(bootstrap_interval(VALUES), abs=1e-12)
    low, high = bootstrap_interval(repeated)
    wide = bootstrap_interval(repeated, groups=groups)
    assert wide[0] < low < high < wide[1]


def test_two_groups_by_hand() -> None:
    """Resamples of two groups with means 0 and 1 are 0, 1/2 and 1, with chances 1/4, 1/2 and 1/4."""
    values, groups = np.array([0.0, 0, 1, 1]), [7, 7, 3, 3]
    assert bootstrap_interval(values, groups=groups) == (0, 1)
    assert bootstrap_interval(values, groups=groups, confidence=0.4) == (0.5, 0.5)


def test_groups_of_different_sizes_weigh_by_their_images() -> None:
    """Groups of 1 and 3 images with values 1 and 0: means 1, 1/4, 0 (never 1/2)."""
    found = {
        bootstrap_interval([1.0, 0, 0, 0] * np.ones(4), groups=[0, 1, 1, 1], resamples=1, seed=s)[0] for s in range(40)
    }
    assert found == {1.0, 0.25, 0.0}


def test_blocks_of_one_are_single_images_and_longer_ones_widen_the_interval_of_a_clip() -> None:
    assert bootstrap_interval(VALUES, block=1) == bootstrap_interval(VALUES)
    frames = np.repeat(VALUES[:8], 25)  # 25 frames of each shot are alike
    narrow, wide = bootstrap_interval(frames), bootstrap_interval(frames, block=25)
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])


def test_a_block_of_half_the_values_by_hand() -> None:
    """Of 4 values in a circle, blocks of 2 begin at 4 places: means of two of 1/2, 1, 1/2, 0."""
    values = np.array([0.0, 1, 1, 0])
    found = {bootstrap_interval(values, block=2, resamples=1, seed=s)[0] for s in range(60)}
    assert found == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_sums_and_pairs_are_drawn_in_the_same_groups_and_blocks() -> None:
    frames = np.repeat(VALUES, 3)
    mean = bootstrap_of_sums(np.stack([frames, np.ones(120)], 1), lambda s: s[:, 0] / s[:, 1], block=30)
    assert mean == pytest.approx(bootstrap_interval(frames, block=30), abs=1e-12)
    paired = paired_interval(frames, np.zeros(120), groups=np.repeat(np.arange(40), 3))
    assert paired.interval == pytest.approx(bootstrap_interval(VALUES), abs=1e-12)
    parts = np.random.default_rng(0).integers(1, 50, (40, 2, 3)).astype(float)
    parts[:, 1] += parts[:, 0]
    other = parts.copy()
    other[:, 0] /= np.linspace(1, 3, 40)[:, None]
    assert miou_difference(parts, other, block=10).interval != miou_difference(parts, other).interval


def test_impossible_groups_and_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="groups or block"):
        bootstrap_interval(VALUES, groups=np.arange(40), block=2)
    with pytest.raises(ValueError, match=r"block.*20.*got 21"):
        bootstrap_interval(VALUES, block=21)
    with pytest.raises(ValueError, match="2 groups"):
        bootstrap_interval(VALUES, groups=np.zeros(40, int))
    with pytest.raises(ValueError, match=r"\(40,\)"):
        bootstrap_interval(VALUES, groups=np.zeros(39, int))
    with pytest.raises(TypeError, match=r"block.*2\.5"):
        bootstrap_interval(VALUES, block=2.5)
    with pytest.raises(ValueError, match="resamples must be ≥ 1, got 0"):
        bootstrap_of_sums(VALUES[:, None], lambda sums: sums[:, 0], resamples=0)


def test_a_two_sided_p_value_by_hand() -> None:
    """All of 999 resamples above 0: 2 · (1 + 0) / 1000; none apart: 1."""
    assert paired_interval(VALUES + 1, VALUES, resamples=999).p_value == pytest.approx(0.002)
    assert paired_interval(VALUES, VALUES + 1, resamples=999).p_value == pytest.approx(0.002)
    assert paired_interval(VALUES, VALUES).p_value == 1


def test_one_value_has_no_interval_and_no_p() -> None:
    one = np.array([0.5])
    assert np.isnan(bootstrap_interval(one)).all()
    assert np.isnan(bootstrap_of_sums(one[:, None], lambda sums: sums[:, 0])).all()
    found = paired_interval(one + 1, one)
    assert found.difference == 1 and np.isnan([*found.interval, found.worse, found.p_value]).all()
    with pytest.raises(ValueError, match="2 groups"):
        bootstrap_interval(one, groups=[0])


def test_holm_by_hand() -> None:
    """Holm's own order: 0.005 · 4, 0.01 · 3, 0.03 · 2, and 0.04 · 1 lifted to the 0.06 before it."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1, 1])
    assert holm([]).shape == (0,)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([0.1, 1.2])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([np.nan])


def test_the_old_name_of_the_paired_interval_is_the_same_function() -> None:
    assert paired_bootstrap is paired_interval
