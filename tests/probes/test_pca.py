from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from probes import align_colours, pca_colours


def test_equals_scikit_learn_up_to_sign_and_scale() -> None:
    generator = np.random.default_rng(0)
    maps = generator.standard_normal((2, 4, 4, 10)) * np.logspace(1, -1, 10)
    colours = pca_colours(maps, clip=0)
    assert colours.shape == (2, 4, 4, 3)
    assert colours.dtype == np.float32
    scores = PCA(3).fit_transform(maps.reshape(-1, 10))
    for channel in range(3):
        correlation = np.corrcoef(scores[:, channel], colours[..., channel].ravel())[0, 1]
        assert abs(correlation) == pytest.approx(1, abs=1e-6)
    assert colours.min(axis=(0, 1, 2)).tolist() == [0, 0, 0]
    assert colours.max(axis=(0, 1, 2)).tolist() == [1, 1, 1]


def test_one_varying_direction_by_hand() -> None:
    """Features along one axis only: red runs with it, green and blue have nothing to show."""
    maps = np.zeros((1, 1, 5, 4), np.float32)
    maps[0, 0, :, 2] = [0, 1, 2, 3, 4]
    colours = pca_colours(maps, clip=0)[0, 0]
    np.testing.assert_allclose(colours[:, 0], [0, 0.25, 0.5, 0.75, 1], atol=1e-6)
    np.testing.assert_array_equal(colours[:, 1:], 0.5)


def test_constant_and_narrow_maps() -> None:
    np.testing.assert_array_equal(pca_colours(np.full((1, 2, 2, 5), 7.0)), 0.5)
    narrow = pca_colours(np.arange(8.0).reshape(1, 2, 2, 2))
    assert narrow.shape == (1, 2, 2, 3)
    np.testing.assert_array_equal(narrow[..., 1:], 0.5)


def test_maps_share_one_basis_and_are_not_changed() -> None:
    maps = np.random.default_rng(0).standard_normal((1, 3, 3, 6))
    both = np.concatenate([maps, maps])
    before = both.copy()
    colours = pca_colours(both)
    np.testing.assert_array_equal(colours[0], colours[1])
    np.testing.assert_array_equal(both, before)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"maps must have shape \(n, h, w, D\).*\(3, 3, 6\)"):
        pca_colours(np.zeros((3, 3, 6)))
    with pytest.raises(ValueError, match=r"clip must lie in \[0, 0\.5\), got 0\.5"):
        pca_colours(np.zeros((1, 3, 3, 6)), clip=0.5)


def test_colours_are_aligned_to_others() -> None:
    """Channels exchanged and one inverted come back; a channel without variation is left as it is."""
    reference = np.random.default_rng(0).random((4, 5, 3))
    turned = np.stack([reference[..., 2], 1 - reference[..., 0], reference[..., 1]], axis=-1)
    np.testing.assert_allclose(align_colours([turned], [reference])[0], reference)
    flat = np.dstack([1 - reference[..., 0], reference[..., 1], np.full((4, 5), 0.5)])
    np.testing.assert_allclose(align_colours([flat], [reference])[0][..., :2], reference[..., :2])
