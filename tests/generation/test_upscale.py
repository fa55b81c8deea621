from __future__ import annotations

import re

import pytest
import torch

from randar_features import generate, upscale_tokens
from randar_features.generation import new_cache
from randar_features.generation.complete import ORDERS
from randar_features.generation.upscale import coarse_orders, fine_rotary, random_share
from tests.generation.full_pass import greedy_decode
from tests.golden.models import golden, golden_randar

MODEL = golden_randar()
RECORDED = golden("randar_small_extrapolation")[0]
CLASSES, ORDER = RECORDED["cond"], RECORDED["order"]
PATTERN = re.compile(r"steps(.+)\.cfg(.+)-(.+)\.spatial(.+)-(.+)\.mask(.+)")
UPSCALED = [name for name in RECORDED if PATTERN.fullmatch(name)]
REACHED = {10: 54, 24: 60, 64: 63}


@pytest.mark.parametrize("name", UPSCALED)
def test_greedy_tokens_equal_the_published_where_it_reached(name: str):
    match = PATTERN.fullmatch(name)
    assert match is not None
    steps, *scales = (float(number) for number in match.groups())
    tokens = upscale_tokens(
        MODEL,
        CLASSES,
        steps=int(steps),
        guidance=(scales[0], scales[1]),
        spatial_guidance=(scales[2], scales[3]),
        spatial_drop=scales[4],
        order=ORDER,
        top_k=1,
    )
    reached = torch.zeros(2, 64, dtype=torch.bool).scatter_(1, ORDER[:, : REACHED[int(steps)]], True)
    assert torch.equal(tokens[reached], RECORDED[name][reached])
    assert (RECORDED[name][~reached] == 0).all() and (RECORDED[name][reached] != 0).all()


def test_every_recorded_upscaling_is_there():
    assert len(UPSCALED) == 15


def test_angles_equal_the_published():
    torch.testing.assert_close(fine_rotary(MODEL), RECORDED["rope"], atol=1e-6, rtol=0)


def test_tokens_behind_the_published_end_equal_a_full_pass():
    """Also the tokens the reference left at 0; with one token a step every later one would differ."""
    tokens = upscale_tokens(MODEL, CLASSES, steps=10, guidance=1.0, order=ORDER, top_k=1)
    small = tokens[0].view(8, 8)[::2, ::2].flatten()
    coarse = coarse_orders(ORDER, 16)[0].tolist()
    fine = golden_randar()
    fine.rotary = fine_rotary(MODEL)
    schedule = [1, 1, 1, 1, 1, 6, 8, 10, 9, 10]
    expected = greedy_decode(fine, int(CLASSES[0]), ORDER[0].tolist(), schedule, (1, 1), known=small[coarse].tolist())
    assert tokens[0, ORDER[0]].tolist() == expected


def test_the_small_image_is_an_ordinary_one():
    tokens = upscale_tokens(MODEL, CLASSES, steps=8, guidance=(2, 4), order=ORDER, top_k=1)
    small = generate(MODEL, CLASSES, steps=8, guidance=(2, 4), order=coarse_orders(ORDER, 16), top_k=1)
    assert torch.equal(tokens.view(2, 8, 8)[:, ::2, ::2].flatten(1), small)


def test_a_given_small_image_is_kept():
    small = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    tokens = upscale_tokens(MODEL, CLASSES, tokens=small.to(torch.uint8), generator=1)
    assert torch.equal(tokens.view(2, 8, 8)[:, ::2, ::2].flatten(1), small)


@pytest.mark.parametrize("order", [None, *ORDERS])
def test_same_seed_same_images_whatever_the_batch(order: str | None):
    classes = [1, 2, 3]
    whole = generate(MODEL, classes, scale=2, order=order, generator=5, steps=12)
    generator = torch.Generator().manual_seed(5)
    parts = [generate(MODEL, part, scale=2, order=order, generator=generator, steps=12) for part in ([1], [2, 3])]
    assert torch.equal(whole, torch.cat(parts)) and whole.shape == (3, 64)


def test_the_dropped_share_has_an_effect_and_is_drawn_by_seed():
    def upscaled(drop: float, seed: int) -> torch.Tensor:
        small = torch.arange(32).view(2, 16)
        return upscale_tokens(
            MODEL, CLASSES, tokens=small, order=ORDER, spatial_drop=drop, guidance=3.0, generator=seed, top_k=1
        )

    assert torch.equal(upscaled(0.5, 1), upscaled(0.5, 1))
    assert not torch.equal(upscaled(0.5, 1), upscaled(0.5, 2))
    assert torch.equal(upscaled(1.0, 1), upscaled(1.0, 2))


def test_random_share_takes_the_floor_of_the_share():
    drawn = random_share(torch.arange(300), 16, 0.45)
    assert (drawn.sum(dim=1) == 7).all()
    assert (drawn.float().mean(dim=0) - 7 / 16).abs().max() < 0.12


def test_an_order_over_the_fine_grid_is_cut_into_even_locations_and_others():
    raster = upscale_tokens(MODEL, CLASSES, order=torch.arange(64), top_k=1, generator=0)
    even = [row * 8 + column for row in range(0, 8, 2) for column in range(0, 8, 2)]
    others = [place for place in range(64) if place not in even]
    cut = upscale_tokens(MODEL, CLASSES, order=torch.tensor(even + others), top_k=1, generator=0)
    assert torch.equal(raster, cut)


def test_a_held_cache_serves_both_images():
    cache = new_cache(MODEL, 6, num_tokens=64)
    fresh = generate(MODEL, CLASSES, scale=2, generator=1)
    assert torch.equal(fresh, generate(MODEL, CLASSES, scale=2, generator=1, cache=cache))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must lie in 1 … 64"),
        ({"steps": 65}, "got 65"),
        ({"spatial_drop": 1.5}, r"spatial_drop must be a share in \[0, 1\], got 1.5"),
        ({"spatial_guidance": (1, 2, 3)}, r"guidance .*\(1, 2, 3\)"),
        ({"order": torch.arange(16)}, "an order must hold 64 integers"),
        ({"tokens": torch.zeros(3, 16, dtype=torch.int64)}, "3 small images for 2 classes"),
        ({"classes": [10, 11]}, "got 10 … 11"),
    ],
)
def test_bad_input_is_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        upscale_tokens(MODEL, **({"classes": [1, 2]} | arguments))


def test_known_tokens_do_not_go_with_twice_the_resolution():
    with pytest.raises(ValueError, match="give them to upscale_tokens"):
        generate(MODEL, CLASSES, scale=2, tokens=torch.zeros(2, 16, dtype=torch.int64), known=torch.arange(16) < 2)
