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
    assert POOLINGS == ("mean", "1x1+2x2", "mean+deviation", "max", "flat")
    with pytest.raises(ValueError, match=r"one of mean, 1x1\+2x2, .*'median'"):
        pool(MAPS, "median")


def test_a_vector_is_no_map():
    with pytest.raises(ValueError, match=r"\(b, G, H, D\), got \(2, 4\)"):
        pool(torch.zeros(2, 4), "mean")


def test_quadrants_by_hand():
    """Of a 4×4 map of 0 … 15: the mean, then those of the quadrants; of a 3×3 map the middle belongs to all."""
    maps = torch.arange(16.0).view(1, 4, 4, 1)
    assert pool(maps, "1x1+2x2").tolist() == [[7.5, 2.5, 4.5, 10.5, 12.5]]
    odd = torch.arange(9.0).view(1, 3, 3, 1)
    assert pool(odd, "1x1+2x2").tolist() == [[4.0, 2.0, 3.0, 5.0, 6.0]]
    two = torch.stack([maps[..., 0], -maps[..., 0]], -1)
    assert pool(two, "1x1+2x2")[0, :4].tolist() == [7.5, -7.5, 2.5, -2.5]
