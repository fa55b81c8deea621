from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from probes import (
    accuracy,
    confusion_matrix,
    mean_average_precision,
    mean_per_class_accuracy,
    pck,
    recall_at_k,
    search,
    top_k_accuracy,
)


def random_labels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.choice(5, 300, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    return np.where(generator.random(300) < 0.6, labels, generator.integers(0, 5, 300)), labels


def test_classification_by_hand() -> None:
    predictions, labels = [0, 0, 1, 1, 2], [0, 0, 0, 1, 1]
    assert accuracy(predictions, labels) == pytest.approx(3 / 5)
    assert mean_per_class_accuracy(predictions, labels) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert confusion_matrix(predictions, labels, 3).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_classification_equals_scikit_learn() -> None:
    predictions, labels = random_labels(0)
    assert accuracy(predictions, labels) == reference.accuracy_score(labels, predictions)
    expected = reference.balanced_accuracy_score(labels, predictions)
    assert mean_per_class_accuracy(predictions, labels) == pytest.approx(expected)
    matrix = confusion_matrix(predictions, labels, 5)
    np.testing.assert_array_equal(matrix, reference.confusion_matrix(labels, predictions))


def test_top_k_by_hand_with_ties_to_the_lowest_class() -> None:
    scores = np.array([[0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.3, 0.3, 0.3]])
    assert top_k_accuracy(scores, [1, 2, 0], 1) == 1
    assert top_k_accuracy(scores, [2, 1, 1], 1) == 0
    assert top_k_accuracy(scores, [2, 1, 1], 2) == pytest.approx(2 / 3)  # class 1 ranks third in row 2
    assert top_k_accuracy(scores, [2, 1, 1], 3) == 1


def test_top_k_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    scores, labels = generator.standard_normal((200, 7)), generator.integers(0, 7, 200)
    for k in (1, 3, 5):
        expected = reference.top_k_accuracy_score(labels, scores, k=k, labels=range(7))
        assert top_k_accuracy(scores, labels, k) == pytest.approx(expected)


def test_bad_classification_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\), got \(3,\)"):
        accuracy([0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="nothing to score"):
        accuracy(np.array([], int), np.array([], int))
    with pytest.raises(ValueError, match="below num_classes = 2, got 2"):
        confusion_matrix([0, 1], [0, 2], 2)
    with pytest.raises(ValueError, match=r"k within 1 … 3 .* got a label 2 and k = 4"):
        top_k_accuracy(np.zeros((1, 3)), [2], 4)
    with pytest.raises(TypeError, match=r"k must be an integer, got 1\.5"):
        top_k_accuracy(np.zeros((1, 3)), [2], 1.5)
    with pytest.raises(ValueError, match="row 0 of 1 holds NaN"):
        top_k_accuracy(np.array([[np.nan, 0]]), [0])


NEIGHBOURS = np.array([[0, 1, 2, 3], [2, 1, 3, 0], [1, 0, 3, 2]])
GALLERY_LABELS = np.array([0, 1, 1, 0])


def test_retrieval_by_hand() -> None:
    """Relevant ranks: query of class 0: 1, 4; of class 1: 1, 2; of class 0: 2, 3."""
    labels = [0, 1, 0]
    assert recall_at_k(NEIGHBOURS, labels, GALLERY_LABELS, 1) == pytest.approx(2 / 3)
    assert recall_at_k(NEIGHBOURS, labels, GALLERY_LABELS, 2) == 1
    expected = ((1 + 2 / 4) / 2 + (1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 3
    assert mean_average_precision(NEIGHBOURS, labels, GALLERY_LABELS) == pytest.approx(expected)


def test_the_query_is_left_out_by_its_id_wherever_it_ranks() -> None:
    """Own rows 0 (first), 1 (second) and 3 (third): what remains is 1 2 3, 2 3 0 and 1 0 2."""
    labels, own = [0, 1, 0], [0, 1, 3]
    assert recall_at_k(NEIGHBOURS, labels, GALLERY_LABELS, 1, own) == pytest.approx(1 / 3)
    assert recall_at_k(NEIGHBOURS, labels, GALLERY_LABELS, 2, own) == pytest.approx(2 / 3)
    expected = (1 / 3 + 1 + 1 / 2) / 3
    assert mean_average_precision(NEIGHBOURS, labels, GALLERY_LABELS, own) == pytest.approx(expected)


def test_ties_count_by_lowest_id() -> None:
    """Rows 0 and 1 are the same vector, the relevant one comes second."""
    gallery = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], np.float32)
    ids = search(gallery[:1], gallery, 3).ids
    assert recall_at_k(ids, [1], [0, 1, 0], 1) == 0
    assert mean_average_precision(ids, [1], [0, 1, 0]) == 0.5


def test_queries_without_anything_relevant_are_left_out() -> None:
    labels = [0, 9, 0]
    assert recall_at_k(NEIGHBOURS, labels, GALLERY_LABELS, 1) == 0.5
    expected = ((1 + 2 / 4) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    assert mean_average_precision(NEIGHBOURS, labels, GALLERY_LABELS) == pytest.approx(expected)
    with pytest.raises(ValueError, match="no query has an item of its own label"):
        recall_at_k(NEIGHBOURS, [9, 9, 9], GALLERY_LABELS, 1)


def test_average_precision_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((60, 8))
    labels = generator.integers(0, 4, 60)
    ids, similarities = search(features, features, 59, exclude=np.arange(60))
    expected = np.mean(
        [
            reference.average_precision_score(labels[row] == labels[i], s)
            for row, (i, s) in enumerate(zip(ids, similarities, strict=True))
        ]
    )
    found = mean_average_precision(ids, labels, labels, exclude=np.arange(60))
    assert found == pytest.approx(expected)
    with_self = search(features, features, 60).ids
    assert mean_average_precision(with_self, labels, labels, exclude=np.arange(60)) == pytest.approx(expected)


def test_a_short_ranking_counts_the_rest_as_missed() -> None:
    assert mean_average_precision(NEIGHBOURS[:1, :2], [0], GALLERY_LABELS) == 0.5


def test_bad_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows 0 … 2 of the gallery, got 0 … 3"):
        recall_at_k(NEIGHBOURS, [0, 0, 0], [0, 1, 1], 1)
    with pytest.raises(ValueError, match=r"k must lie within 1 … 4.*got 5"):
        recall_at_k(NEIGHBOURS, [0, 0, 0], GALLERY_LABELS, 5)
    with pytest.raises(TypeError, match="k must be an integer, got True"):
        recall_at_k(NEIGHBOURS, [0, 0, 0], GALLERY_LABELS, True)
    with pytest.raises(ValueError, match=r"integers \(Q, K\).*float64"):
        recall_at_k(NEIGHBOURS * 1.0, [0, 0, 0], GALLERY_LABELS, 1)


def test_pck_by_hand_in_all_four_variants() -> None:
    """Pair 0: 3 points, distances 0, 5, 11; pair 1: 1 point, distance 5; pair 2 has no points."""
    target = np.array([[10.0, 10.0], [20.0, 20.0], [30.0, 30.0], [5.0, 5.0]])
    predicted = target + np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 11.0], [-5.0, 0.0]])
    found = pck(
        predicted,
        target,
        [0, 0, 0, 1],
        box_sizes=np.array([[50.0, 20.0], [40.0, 10.0], [9.0, 9.0]]),
        image_sizes=np.array([[100.0, 110.0], [100.0, 60.0], [9.0, 9.0]]),
        alpha=0.1,
    )
    # thresholds: box 5 and 4, image 11 and 10; a distance equal to the threshold is a hit
    assert found == {
        "box_per_point": pytest.approx(2 / 4),
        "box_per_image": pytest.approx((2 / 3 + 0) / 2),
        "image_per_point": pytest.approx(1),
        "image_per_image": pytest.approx(1),
    }


def test_pck_takes_whole_pixels() -> None:
    """`match_points` gives int64: distances 3 and 1, thresholds 2 (box) and 4 (image)."""
    target = np.array([[4, 4], [8, 1]])
    sizes = {"box_sizes": np.array([[20, 10]]), "image_sizes": np.array([[40, 30]])}
    found = pck(target + np.array([[0, 3], [1, 0]]), target, [0, 0], **sizes)
    assert (found["box_per_point"], found["image_per_point"]) == (0.5, 1)


def test_bad_points_are_refused() -> None:
    points, sizes = np.zeros((3, 2)), np.ones((1, 2))
    with pytest.raises(ValueError, match=r"one shape, got \(3, 2\) and \(2, 2\)"):
        pck(points, points[:2], [0, 0, 0], box_sizes=sizes, image_sizes=sizes)
    with pytest.raises(ValueError, match=r"box_sizes must be 2 rows of positive sizes, got shape \(1, 2\)"):
        pck(points, points, [0, 0, 1], box_sizes=sizes, image_sizes=sizes)
    with pytest.raises(ValueError, match=r"predicted must have shape \(n, 2\), got \(3, 3\)"):
        pck(np.zeros((3, 3)), points, [0, 0, 0], box_sizes=sizes, image_sizes=sizes)
    for alpha in (0.0, np.nan):
        with pytest.raises(ValueError, match="alpha must be above 0"):
            pck(points, points, [0, 0, 0], box_sizes=sizes, image_sizes=sizes, alpha=alpha)
