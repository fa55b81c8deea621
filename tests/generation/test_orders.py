from __future__ import annotations

import pytest
import torch

from randar_features import generate, sequence, upscale_tokens
from randar_features.generation.complete import FIXED_ORDERS, ORDERS, known_orders
from randar_features.generation.recipe import recipe_of
from randar_features.generation.schedule import decoding_schedule
from tests.small_models import small_transformer


@pytest.mark.parametrize("name", list(FIXED_ORDERS))
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 16])
def test_orders_are_permutations(name: str, side: int):
    order = FIXED_ORDERS[name](side * side)
    assert torch.equal(sequence.check_order(order, side * side), order) and order.shape == (1, side * side)


def test_spiral_goes_outwards_turn_by_turn():
    assert sequence.spiral_order(9).tolist() == [[4, 3, 6, 7, 8, 5, 2, 1, 0]]
    steps = torch.stack([sequence.spiral_order(36)[0] // 6, sequence.spiral_order(36)[0] % 6]).diff(dim=1).abs().sum(0)
    assert (steps == 1).all()  # always on to a neighbour


def test_centre_out_goes_by_distance():
    assert sequence.centre_out_order(9).tolist() == [[4, 1, 3, 5, 7, 0, 2, 6, 8]]
    assert set(sequence.centre_out_order(16)[0, :4].tolist()) == {5, 6, 9, 10}


def test_hierarchical_refines_square_and_quincunx_lattices():
    order = sequence.hierarchical_order(16)[0].tolist()
    assert order[0] == 0
    assert set(order[:2]) == {0, 10}  # the corner and the centre of the only cell: a quincunx
    assert set(order[:4]) == {0, 2, 8, 10}  # the square lattice of even rows and columns
    assert set(order[:8]) == {0, 2, 8, 10, 5, 7, 13, 15}  # and the centres of its cells: a quincunx


def test_hierarchical_on_a_side_that_is_no_power_of_two():
    assert set(sequence.hierarchical_order(36)[0, :2].tolist()) <= {0, 28, 16}
    assert sequence.hierarchical_order(9)[0, 0] == 0


def distances(places: torch.Tensor, side: int) -> torch.Tensor:
    points = torch.stack([places // side, places % side], dim=1).float()
    return torch.cdist(points, points)


def test_spread_starts_in_the_centre_and_stays_near_what_is_known():
    steps = decoding_schedule(64, -1)
    order = sequence.spread_order(64, steps)[0]
    assert order[0] in (27, 28, 35, 36)
    gaps = torch.stack([distances(order[: i + 1], 8)[i, :i].min() for i in range(1, 64)])
    assert gaps.max() == 1


def test_spread_keeps_the_locations_of_a_step_apart():
    steps = decoding_schedule(256, 32)
    order = sequence.spread_order(256, steps)[0]
    nearest, raster = [], []
    for part, plain in zip(order.split(steps)[3:], torch.arange(256).split(steps)[3:], strict=True):
        nearest.append(distances(part, 16).fill_diagonal_(99).min())
        raster.append(distances(plain, 16).fill_diagonal_(99).min())
    assert torch.stack(nearest).median() >= 2 > torch.stack(raster).median()


def test_spread_puts_known_locations_first_and_grows_from_them():
    known = torch.zeros(16, dtype=torch.bool)
    known[[12, 13]] = True  # lower left
    order = sequence.spread_order(16, [1] * 14, known)[0].tolist()
    assert order[:2] == [12, 13] and order[2] in (8, 9, 14) and sorted(order) == list(range(16))


def test_known_first_keeps_the_order_of_both_parts():
    order = torch.tensor([[3, 1, 0, 2], [0, 1, 2, 3]])
    known = torch.tensor([[True, False, False, True], [False, False, True, False]])
    assert sequence.known_first(order, known).tolist() == [[3, 0, 1, 2], [2, 0, 1, 3]]


def test_a_model_trained_in_raster_order_draws_in_it_token_by_token():
    model = small_transformer()
    random = generate(model, [0, 1], generator=0)
    model.trained_order = "raster"
    raster = generate(model, [0, 1], generator=0, order="raster", steps=-1)
    assert torch.equal(generate(model, [0, 1], generator=0), raster) and not torch.equal(random, raster)
    assert torch.equal(generate(model, [0, 1], generator=0, order="random", steps=6), random)


def test_orders_a_model_is_at_home_in():
    model = small_transformer()
    assert known_orders(model) == list(ORDERS) and known_orders(small_transformer(architecture="par")) == [None]
    model.trained_order = "raster"
    assert known_orders(model) == ["raster"]


def test_a_model_draws_in_the_steps_that_it_recommends():
    model = small_transformer()
    published = generate(model, [0, 1], generator=0)
    model.recommended_steps = 4  # of 16 tokens
    assert torch.equal(generate(model, [0, 1], generator=0), generate(model, [0, 1], generator=0, steps=4))
    assert torch.equal(generate(model, [0, 1], generator=0, steps=6), published)
    assert recipe_of(model).schedule(None, 16, 8, None) == decoding_schedule(8, 2)  # in proportion
    large = upscale_tokens(model, [0], generator=0, tokens=published[:1])
    assert torch.equal(large, upscale_tokens(model, [0], generator=0, tokens=published[:1], steps=16))
    model.recommended_steps = 16
    assert torch.equal(generate(model, [0, 1], generator=0), generate(model, [0, 1], generator=0, steps=-1))
