from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from randar_features.generation.sampling import (
    Sampling,
    gumbel_noise,
    image_seeds,
    keep_top_k,
    keep_top_p,
    random_keys,
    random_order,
    substream,
)

# SplitMix64 from the seed 1234567 (Vigna's reference implementation).
SPLITMIX = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]


def test_random_keys_are_splitmix64():
    keys = random_keys(torch.tensor([1234567]), torch.arange(4)[None])[0]
    assert [key % 2**64 for key in keys.tolist()] == SPLITMIX


def test_noise_depends_on_seed_location_and_code_alone():
    seeds, locations = torch.tensor([3, 4, 5]), torch.tensor([[0, 7, 2]])
    noise = gumbel_noise(seeds, locations, 50)
    assert noise.shape == (3, 3, 50) and noise.dtype == torch.float32
    assert torch.equal(noise[1:2, 2:], gumbel_noise(seeds[1:2], torch.tensor([[2]]), 50))
    assert torch.equal(noise[..., :20], gumbel_noise(seeds, locations, 20))
    assert noise.flatten().unique().numel() > 445  # of 450


def test_noise_is_gumbel():
    noise = gumbel_noise(torch.arange(40), torch.arange(50)[None], 100).double().flatten()
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.01)  # Euler's constant
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.02)
    for point in (-1.0, 0.0, 1.0, 3.0):
        assert (noise < point).double().mean().item() == pytest.approx(math.exp(-math.exp(-point)), abs=0.004)


def test_draws_follow_the_softmax():
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0]).expand(200, 100, 4)
    drawn = Sampling(temperature=2.0).draw(logits, torch.arange(200), torch.arange(100)[None])
    shares = torch.bincount(drawn.flatten(), minlength=4) / drawn.numel()
    torch.testing.assert_close(shares, (logits[0, 0] / 2).softmax(0), atol=0.01, rtol=0)


def test_greedy_takes_the_lowest_index_among_equals():
    logits = torch.tensor([[[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]]])
    assert Sampling(top_k=1).draw(logits, torch.tensor([0]), torch.tensor([[0, 1]])).tolist() == [[1, 0]]


def test_top_k_keeps_the_k_largest():
    kept = keep_top_k(torch.tensor([[4.0, 1.0, 3.0, 2.0]]), 2)
    assert kept.tolist() == [[4, -math.inf, 3, -math.inf]]
    assert keep_top_k(torch.tensor([1.0, 2.0]), 5).tolist() == [1, 2]


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    assert (keep_top_p(logits, 0.6) > -math.inf).tolist() == [[False, True, True]]
    assert (keep_top_p(logits, 0.4) > -math.inf).tolist() == [[False, True, False]]
    assert (keep_top_p(logits, 0.9) > -math.inf).tolist() == [[True, True, True]]
    assert keep_top_p(logits, 1.0) is logits


def test_removed_codes_are_never_drawn():
    logits = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]).expand(50, 40, 5)
    seeds, locations = torch.arange(50), torch.arange(40)[None]
    assert Sampling(top_k=2).draw(logits, seeds, locations).unique().tolist() == [3, 4]
    assert Sampling(top_p=0.3).draw(logits, seeds, locations).unique().tolist() == [3, 4]


def test_seeds_do_not_depend_on_how_a_batch_is_split():
    whole = image_seeds(7, 5)
    generator = torch.Generator().manual_seed(7)
    parts = [image_seeds(generator, count) for count in (1, 3, 1)]
    assert torch.equal(whole, torch.cat(parts)) and whole.unique().numel() == 5
    for own in (torch.tensor([4, 9]), [4, 9], np.array([4, 9])):
        assert torch.equal(image_seeds(own, 2), torch.tensor([4, 9]))
    assert torch.equal(image_seeds(np.int64(7), 5), whole)
    torch.manual_seed(7)
    assert torch.equal(whole, image_seeds(None, 5))


def test_seeds_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"seeds must be 3 integers.*\(2,\)"):
        image_seeds(torch.tensor([1, 2]), 3)
    with pytest.raises(ValueError, match=r"seeds must be 1 integers.*float"):
        image_seeds(1.5, 1)  # type: ignore[arg-type]


def test_random_orders_are_uniform_permutations_by_seed():
    orders = random_order(torch.arange(6000), 3)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(3).expand(6000, 3))
    counts = torch.bincount(orders @ torch.tensor([9, 3, 1]))
    counts = counts[counts > 0]
    assert len(counts) == 6 and (counts - 1000).abs().max() < 120
    assert torch.equal(orders[17:18], random_order(torch.tensor([17]), 3))


def test_substreams_differ():
    seeds = torch.tensor([1, 2])
    assert torch.stack([seeds, substream(seeds, 1), substream(seeds, 2)]).unique().numel() == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, and finite; got 0.0; for the greedy choice take top_k=1"),
        ({"temperature": float("nan")}, "temperature must be above 0, and finite; got nan"),
        ({"temperature": float("inf")}, "finite; got inf"),
        ({"temperature": "1"}, "temperature must be above 0, and finite; got '1'"),
        ({"top_k": -1}, "top_k must be at least 1"),
        ({"top_k": 2.5}, "an integer; got 2.5"),
        ({"top_k": True}, "an integer; got True"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, "got 1.5"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize("temperature", [1e-3, 1e-7, 1e-30, 1e-38, 1e-40, 5e-324])
def test_the_choice_near_temperature_0_is_greedy(temperature: float):
    logits = torch.randn(2, 50, 64, generator=torch.Generator().manual_seed(0)) * 8
    drawn = Sampling(temperature=temperature).draw(logits, torch.tensor([0, 1]), torch.arange(50)[None])
    greedy = logits.argmax(dim=-1)
    assert (drawn == greedy).float().mean() > (0.95 if temperature == 1e-3 else 0.999)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, True, [2**63, 0], [0.5, 1.5], ["a", "b"], [1], [[1, 2]]])
def test_seeds_out_of_range_are_refused(seed: Any):
    with pytest.raises((TypeError, ValueError), match=r"seeds? must be|seed: an integer"):
        image_seeds(seed, 2)


def test_seeds_of_every_integer_kind():
    expected = image_seeds([5, 6], 2)
    for same in (torch.tensor([5, 6]), np.array([5, 6]), range(5, 7), (np.int32(5), 6)):
        assert torch.equal(image_seeds(same, 2), expected)
    assert torch.equal(image_seeds(np.int64(3), 2), image_seeds(3, 2))
    assert image_seeds(-5, 2).shape == image_seeds(2**64 - 1, 2).shape == (2,)


@pytest.mark.parametrize("wrong", [b"ab", {1, 2}, {1: 2, 3: 4}, np.array(3), torch.tensor([1j, 2j])])
def test_seeds_without_order_or_of_bytes_are_refused(wrong: Any):
    with pytest.raises((TypeError, ValueError), match="2 integers"):
        image_seeds(wrong, 2)


def test_a_temperature_may_be_any_finite_number():
    logits, seeds, locations = torch.randn(1, 2, 8), torch.tensor([1]), torch.arange(2)[None]
    huge, same = (Sampling(temperature=value).draw(logits, seeds, locations) for value in (2**70, 2.0**70))
    assert torch.equal(huge, same)
