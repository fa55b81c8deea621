"""One thread and two give the same results; sums may be taken in another order, so features agree to a tolerance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

import randar_features as rf
from probes import KNNProbe, LogisticProbe
from randar_features import Model

Found = TypeVar("Found")
RELATIVE = 1e-5  # of float32 features: about a hundred roundings


def under_one_and_two(compute: Callable[[], Found]) -> tuple[Found, Found]:
    before = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            with threadpool_limits(count):
                found.append(compute())
        return found[0], found[1]
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)


def test_features(small_model: Model, images: np.ndarray):
    one, two = under_one_and_two(
        lambda: rf.extract_features(images, small_model, context=["single", "reverse"], dtype="float32", progress=False)
    )
    for spec in one.specs:
        assert np.abs(one[spec] - two[spec]).max() <= RELATIVE * np.abs(one[spec]).max()


def test_greedy_tokens_and_their_likelihood(small_model: Model):
    def drawn() -> tuple[torch.Tensor, torch.Tensor]:
        tokens = rf.generate(small_model.transformer, [0, 1, 2], steps=5, top_k=1, guidance=2.0, generator=0)
        return tokens, rf.log_likelihood(small_model.transformer, tokens, orders=2)

    (tokens, likelihood), (same, other) = under_one_and_two(drawn)
    assert torch.equal(tokens, same)
    torch.testing.assert_close(likelihood, other, rtol=RELATIVE, atol=1e-6)


@pytest.mark.parametrize("probe", [KNNProbe(k=3), LogisticProbe(C_grid=(0.1, 1.0, 10.0), max_iterations=50)])
def test_probes(probe: KNNProbe | LogisticProbe):
    labels = np.arange(60) % 3
    features = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32) + 2 * np.eye(3, 8)[labels]

    def predicted() -> np.ndarray:
        found = probe.fit(features[:45], labels[:45]).predict(features[45:])
        return found[3] if isinstance(found, dict) else found

    one, two = under_one_and_two(predicted)
    assert np.array_equal(one, two) and (one == labels[45:]).mean() > 0.6
