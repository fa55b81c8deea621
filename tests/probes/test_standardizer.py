from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from probes import Standardizer


def test_equals_scikit_learn() -> None:
    features = np.random.default_rng(0).normal(3, 7, (5000, 9))
    expected = StandardScaler().fit_transform(features)
    found = Standardizer().fit(features).transform(features)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_hand_computed() -> None:
    standardizer = Standardizer().fit(np.array([[1.0, 10.0], [3.0, 30.0]], np.float32))
    assert standardizer.mean.tolist() == [2, 20]
    assert standardizer.scale.tolist() == [1, 10]
    assert standardizer.transform(np.array([[4.0, 0.0]], np.float32)).tolist() == [[2, -2]]


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6, 1e-30])
def test_constant_features_are_only_centred(constant: float) -> None:
    features = np.full((10_000, 2), constant, np.float32)
    features[:, 1] = np.arange(10_000)
    standardized = Standardizer().fit(features).transform(features)
    assert standardized[:, 0].abs().max() <= 1e-7 * abs(constant)
    assert standardized[:, 1].std() == pytest.approx(1, abs=1e-3)


def test_rounding_noise_is_not_blown_up() -> None:
    features = np.full((100, 1), 0.1, np.float32)
    features[::2] = np.nextafter(features[::2], np.float32(1))
    assert Standardizer().fit(features).transform(features).abs().max() < 1e-7


def test_large_mean_does_little_harm() -> None:
    generator = np.random.default_rng(0)
    features = (10_000 + generator.standard_normal((20_000, 1))).astype(np.float32)
    standardized = Standardizer().fit(features).transform(features)
    assert standardized.double().mean().item() == pytest.approx(0, abs=1e-3)
    assert standardized.double().std().item() == pytest.approx(1, abs=1e-4)


def test_half_precision_is_standardised_in_float32() -> None:
    features = torch.arange(20, dtype=torch.float16).reshape(10, 2)
    assert Standardizer().fit(features).transform(features).dtype == torch.float32


def test_needs_fitting() -> None:
    with pytest.raises(RuntimeError, match="call fit"):
        Standardizer().transform(np.zeros((1, 2), np.float32))
