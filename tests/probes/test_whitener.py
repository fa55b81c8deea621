"""Whitening beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from probes import Whitener, search


def features(count: int = 300, dim: int = 12) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.standard_normal((count, dim)) @ generator.standard_normal((dim, dim)) + 30


@pytest.mark.parametrize("components", [None, 5])
def test_as_scikit_learn(components: int | None) -> None:
    rows = features()
    found = Whitener(components).fit_transform(rows).numpy()
    expected = PCA(components, whiten=True).fit_transform(rows)
    assert found.shape == expected.shape
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-8)
    np.testing.assert_allclose(np.cov(found.T), np.eye(found.shape[1]), atol=1e-8)


def test_a_long_common_mean_no_longer_hides_what_differs() -> None:
    """Float32 features whose cosines are all near 1: the neighbours of a copy with noise are found again."""
    rows = (features(dim=6) + 3000).astype(np.float32)
    queries = rows + np.float32(0.01)
    plain = search(queries, rows, 1)
    assert plain.similarities.min() > 0.999
    fitted = Whitener().fit(rows)
    found = search(fitted.transform(queries), fitted.transform(rows), 2)
    assert (found.ids[:, 0] == np.arange(300)).all() and found.similarities[:, 1].max() < 0.99999


def test_directions_without_variance_are_left_out_or_refused() -> None:
    rows = np.concatenate([features(dim=4), np.full((300, 2), 7.0), features(dim=4)[:, :1] * 2], 1).astype(np.float32)
    assert Whitener().fit(rows).axes.shape == (7, 4)
    with pytest.raises(ValueError, match=r"1 … 4.*got 5"):
        Whitener(5).fit(rows)
    with pytest.raises(ValueError, match=r"1 … 2.*3 vectors"):
        Whitener(3).fit(rows[:3])
    with pytest.raises(ValueError, match="components must be at least 1"):
        Whitener(0)
    with pytest.raises(RuntimeError, match="fit"):
        Whitener().transform(rows)
