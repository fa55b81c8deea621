"""Ranks and recall of an index, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from probes import (
    average_precisions,
    first_ranks,
    mean_average_precision,
    mean_rank,
    neighbour_recall,
    recall_at_k,
)

NEIGHBOURS = np.array([[0, 1, 2, 3], [2, 1, 3, 0], [1, 2, 3, 0], [0, 1, 2, 3]])
GALLERY_LABELS = np.array([0, 1, 1, 0])
LABELS = np.array([0, 1, 0, 9])


def test_ranks_and_precisions_by_hand() -> None:
    """Relevant ranks: 1, 4; 1, 2; 3, 4; none in the gallery at all."""
    np.testing.assert_array_equal(first_ranks(NEIGHBOURS, LABELS, GALLERY_LABELS), [1, 1, 3, np.nan])
    assert mean_rank(NEIGHBOURS, LABELS, GALLERY_LABELS) == pytest.approx(5 / 3)
    expected = [(1 + 2 / 4) / 2, 1, (1 / 3 + 2 / 4) / 2, np.nan]
    np.testing.assert_allclose(average_precisions(NEIGHBOURS, LABELS, GALLERY_LABELS), expected)


def test_a_neighbour_that_is_there_twice_is_refused() -> None:
    """It would be found twice: an AP of 2."""
    with pytest.raises(ValueError, match=r"row 3 .* query 1"):
        average_precisions(np.array([[0, 1], [3, 3]]), [0, 0], [0, 1, 1, 2])
    with pytest.raises(ValueError, match=r"row 0 .* query 0"):
        mean_average_precision(np.array([[0, 1, 0]]), [0], [0, 1, 1])


def test_a_query_is_left_out_and_what_is_not_found_counts_as_one_more() -> None:
    """Without rows 0, 1 and 3: 1 2 of the first, which has only row 3; 2 3 of the second; 1 2 of the third."""
    own = [0, 1, 3, -1]
    np.testing.assert_array_equal(first_ranks(NEIGHBOURS[:, :3], LABELS, GALLERY_LABELS, own), [3, 1, 3, np.nan])
    assert mean_rank(NEIGHBOURS[:, :3], LABELS, GALLERY_LABELS, own) == pytest.approx(7 / 3)


def test_recall_is_the_share_of_ranks_up_to_k() -> None:
    generator = np.random.default_rng(0)
    neighbours = np.argsort(generator.random((50, 30)), axis=1)
    labels, gallery = generator.integers(0, 20, 50), generator.integers(0, 20, 30)
    ranks = first_ranks(neighbours, labels, gallery)
    for k in (1, 5, 30):
        assert recall_at_k(neighbours, labels, gallery, k) == np.mean(ranks[np.isfinite(ranks)] <= k)


def test_neighbour_recall_by_hand() -> None:
    exact = np.array([[1, 2], [3, 4]])
    assert neighbour_recall(np.array([[2, 9, 1], [4, 5, 6]]), exact) == 0.75
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(2, 2\)"):
        neighbour_recall(exact[:1], exact)
