from __future__ import annotations

import pytest
import torch

from probes.pooling import POOLINGS, pool

# Two images of 1×2 locations with two features.
MAPS = torch.tensor([[[[1.0, 10.0], [3.0, 20.0]]], [[[0.0, -1.0], [0.0, -5.0]]]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[2.0, 15.0], [0.0, -3.0]]),
        ("mean+deviation", [[2.0, 15.0, 1.0, 5.0], [0.0, -3.0, 0.0, 2.0]]),
        ("max", [[3.0, 20.0], [0.0, -1.0]]),
        ("flat", [[1.0, 10.0, 3.0, 20.0], [0.0, -1.0, 0.0, -5.0]]),
    ],
)
def test_hand_computed(pooling: str, expected: list[list[float]]):
    assert pool(MAPS, pooling).tolist() == expected


@pytest.mark.parametrize("pooling", POOLINGS)
def test_one_location_is_its_own_vector(pooling: str):
    vectors = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pool(vectors[:, None, None], pooling)[:, :5], vectors)


def test_every_pooling_is_known():
    assert POOLINGS == ("mean", "mean+deviation", "max", "flat")
    with pytest.raises(ValueError, match=r"one of mean, mean\+deviation, max, flat; got 'median'"):
        pool(MAPS, "median")


def test_a_vector_is_no_map():
    with pytest.raises(ValueError, match=r"\(b, G, H, D\), got \(2, 4\)"):
        pool(torch.zeros(2, 4), "mean")
