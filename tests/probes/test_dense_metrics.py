from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from probes import (
    bootstrap_of_sums,
    class_ious,
    intersections_and_unions,
    mean_iou,
    miou_difference,
    pck,
    pck_table,
    segmentation_counts,
    segmentation_scores,
)


def test_iou_by_hand() -> None:
    """Class 0: 2 of 3 + 2 - 2 = 3 pixels, 1: 1 of 3; 2 is in neither, the pixel of label 9 is left out."""
    truth = np.array([[0, 0, 0], [1, 1, 9]])
    predicted = np.array([[0, 0, 1], [1, 3, 2]])
    counts = segmentation_counts(predicted, truth, 4, ignore_index=9)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[2, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(class_ious(counts), [2 / 3, 1 / 3, np.nan, 0])  # 3 was predicted: it occurs
    assert mean_iou(counts) == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)
    assert segmentation_scores(counts[None])["pixel_accuracy"] == 3 / 5
    for wrong in (counts, counts[None][:0]):
        with pytest.raises(ValueError, match=r"counts must have shape \(n, C, C\)"):
            segmentation_scores(wrong)


def test_counts_are_summed_over_the_set_before_dividing() -> None:
    """A class small in one image and large in the other: 0/1 and 99/99 give 99/100, not their mean, one half."""
    first = segmentation_counts(np.array([[1, 1]]), np.array([[0, 1]]), 2)
    second = segmentation_counts(np.zeros((9, 11), int), np.zeros((9, 11), int), 2)
    scores = segmentation_scores(np.stack([first, second]))
    assert scores["class_ious"] == [99 / 100, 1 / 2]
    assert scores["miou"] == pytest.approx(0.745)


def test_iou_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 5, (2, 40, 30))
    counts = segmentation_counts(predicted, truth, 7)
    expected = jaccard_score(truth.ravel(), predicted.ravel(), average=None)
    np.testing.assert_allclose(class_ious(counts)[:5], expected)
    assert mean_iou(counts) == pytest.approx(expected.mean())
    kept = truth.ravel() != 2
    without = jaccard_score(truth.ravel()[kept], predicted.ravel()[kept], average=None)
    np.testing.assert_allclose(class_ious(segmentation_counts(predicted, truth, 5, ignore_index=2)), without)


def test_the_interval_holds_the_score_and_narrows_with_more_images() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, (200, 6, 6))
    predicted = np.where(generator.random(truth.shape) < 0.7, truth, 0)
    counts = np.stack([segmentation_counts(p, t, 3) for p, t in zip(predicted, truth, strict=True)])
    few, many = segmentation_scores(counts[:20]), segmentation_scores(counts)
    for scores in (few, many):
        assert scores["interval"][0] < scores["miou"] < scores["interval"][1]
    assert np.ptp(many["interval"]) < 0.6 * np.ptp(few["interval"])
    assert segmentation_scores(counts, seed=1)["interval"] == segmentation_scores(counts, seed=1)["interval"]
    assert segmentation_scores(counts, seed=1)["interval"] != segmentation_scores(counts, seed=2)["interval"]


def test_the_difference_of_two_segmentations_is_paired() -> None:
    """Images of very different difficulty, the first segmentation a little better in each: its sign is certain."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, (40, 20, 20))
    wrong = generator.random(truth.shape) < generator.uniform(0.1, 0.9, (40, 1, 1))
    second = np.where(wrong, (truth + 1) % 3, truth)
    first = np.where(wrong & (generator.random(truth.shape) < 0.95), (truth + 1) % 3, truth)
    counts = [
        np.stack([segmentation_counts(p, t, 3) for p, t in zip(of, truth, strict=True)]) for of in (first, second)
    ]
    parts = [intersections_and_unions(each) for each in counts]
    difference, (low, high), worse, _ = miou_difference(*parts)
    assert difference == pytest.approx(mean_iou(counts[0].sum(0)) - mean_iou(counts[1].sum(0)))
    assert 0 < low < difference < high
    assert worse == 0
    assert high - low < 0.3 * np.ptp(segmentation_scores(counts[0])["interval"])
    backwards = miou_difference(*parts[::-1])
    assert backwards.worse == 1
    assert (backwards.difference, *backwards.interval) == pytest.approx((-difference, -high, -low))
    with pytest.raises(ValueError, match="same images and classes"):
        miou_difference(parts[0], parts[1][1:])


def test_bad_masks_are_refused() -> None:
    mask = np.zeros((2, 3), int)
    with pytest.raises(ValueError, match=r"one shape \(H, W\), got \(3, 2\) and \(2, 3\)"):
        segmentation_counts(mask.T, mask, 2)
    with pytest.raises(ValueError, match="below num_classes = 2, got 2"):
        segmentation_counts(mask, mask + 2, 2)
    with pytest.raises(ValueError, match="no pixel was counted"):
        mean_iou(segmentation_counts(mask, mask, 2, ignore_index=0))


def test_the_bootstrap_of_sums_is_that_of_the_mean_for_a_mean() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.2, 300)
    rows = np.stack([values, np.ones(300)], 1)
    low, high = bootstrap_of_sums(rows, lambda sums: sums[:, 0] / sums[:, 1], resamples=4000)
    half = 1.96 * values.std() / np.sqrt(300)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


POINTS = np.array([[10.0, 10.0], [30.0, 10.0], [0.0, 0.0], [5.0, 5.0]])
TRUTH = np.array([[14.0, 13.0], [30.0, 16.0], [0.0, 0.5], [5.0, 45.0]])  # off by 5, 6, 0.5 and 40
PAIRS = [0, 0, 1, 0]
SIZES = {"box_sizes": np.array([[50.0, 20.0], [10.0, 5.0]]), "image_sizes": np.array([[60.0, 100.0], [40.0, 50.0]])}


def test_pck_at_several_thresholds_by_hand() -> None:
    """Box of pair 0: 5 px at 0.1, 2.5 at 0.05; image: 10 px and 5 px. Pair 1: its point is off by 0.5 px of 10."""
    values, intervals = pck_table(POINTS, TRUTH, PAIRS, **SIZES)
    assert len(values) == 12 and values.keys() == intervals.keys()
    expected = {
        "box_per_point@0.1": 2 / 4,
        "box_per_image@0.1": (1 / 3 + 1) / 2,
        "image_per_point@0.1": 3 / 4,
        "image_per_image@0.1": (2 / 3 + 1) / 2,
        "box_per_point@0.05": 1 / 4,
        "image_per_image@0.05": (1 / 3 + 1) / 2,
        "box_per_image@0.01": 0,
        "image_per_point@0.01": 1 / 4,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert values["box_per_image@0.05"] == pck(POINTS, TRUTH, PAIRS, **SIZES, alpha=0.05)["box_per_image"]


def test_intervals_draw_pairs_and_not_points() -> None:
    """Two pairs, all points wrong in one and right in the other: the share of a resample is 0, its own, or 1."""
    predicted, truth = np.zeros((30, 2)), np.repeat([[50.0, 0.0], [0.0, 0.0]], [20, 10], axis=0)
    pairs = np.repeat([0, 1], [20, 10])
    sizes = {"box_sizes": np.full((2, 2), 60.0), "image_sizes": np.full((2, 2), 60.0)}
    values, intervals = pck_table(predicted, truth, pairs, **sizes)
    assert values["box_per_point@0.1"] == pytest.approx(1 / 3)
    assert values["box_per_image@0.1"] == 1 / 2
    assert intervals["box_per_point@0.1"] == [0, 1] == intervals["image_per_image@0.1"]


def test_pairs_without_points_are_left_out() -> None:
    values, _ = pck_table(POINTS[:2], TRUTH[:2], [1, 1], **SIZES)
    assert values["image_per_image@0.1"] == values["image_per_point@0.1"] == 1 / 2


def test_a_mask_that_is_ignored_everywhere_leaves_an_interval() -> None:
    counts = np.stack([[[3, 1], [0, 4]], [[2, 2], [1, 3]], np.zeros((2, 2), int)])
    scores = segmentation_scores(counts)
    low, high = scores["interval"]
    assert low < scores["miou"] < high


def test_resamples_of_ignored_masks_alone_do_not_count_for_either() -> None:
    worse, better = np.zeros((2, 4, 2, 2), int)
    worse[:2], better[:2] = [[3, 1], [0, 4]], [[4, 0], [0, 4]]
    difference = miou_difference(*(intersections_and_unions(counts) for counts in (worse, better)))
    assert difference.worse == 1 and difference.interval == (difference.difference,) * 2
    worse[1] = better[1] = 0
    alone = miou_difference(*(intersections_and_unions(counts) for counts in (worse, better)))
    assert alone.difference == pytest.approx(difference.difference) and np.isnan([*alone.interval, alone.p_value]).all()
    assert np.isnan(segmentation_scores(worse)["interval"]).all()
