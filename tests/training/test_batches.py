from __future__ import annotations

import pytest
import torch

from randar_features.training.batches import batch_indices, draw, step_generator


def stream(steps: int, **options: int) -> torch.Tensor:
    return torch.cat([batch_indices(step, **options) for step in range(steps)])


@pytest.mark.parametrize(("batch_size", "size"), [(4, 12), (4, 10), (7, 3), (1, 5), (5, 5)])
def test_every_image_once_an_epoch(batch_size: int, size: int):
    epochs = 3
    indices = stream(-(-epochs * size // batch_size), batch_size=batch_size, size=size, seed=0)
    for epoch in indices[: epochs * size].split(size):
        assert epoch.sort().values.tolist() == list(range(size))


def test_epochs_and_seeds_differ():
    first, second = stream(10, batch_size=10, size=50, seed=0).split(50)
    assert not torch.equal(first, second)
    assert not torch.equal(first, stream(5, batch_size=10, size=50, seed=1))
    assert not torch.equal(first, torch.arange(50))


def test_a_step_needs_no_steps_before_it():
    options = {"batch_size": 4, "size": 10, "seed": 3}
    whole = stream(9, **options)
    torch.manual_seed(1)
    for step in (7, 2, 8):  # step 2 straddles two epochs
        assert torch.equal(batch_indices(step, **options), whole[4 * step : 4 * step + 4])


def test_step_generators_differ_by_step_and_seed_alone():
    def draw(seed: int, step: int) -> float:
        return torch.rand((), generator=step_generator(seed, step)).item()

    assert draw(0, 5) == draw(0, 5)
    assert len({draw(seed, step) for seed in range(4) for step in range(50)}) == 200


def test_what_is_drawn_follows_from_the_step():
    options = {"batch_size": 6, "size": 10, "crops": 3, "class_dropout": 0.5, "seed": 1}
    first, again, next_one = (draw(step_generator(1, step), step, **options) for step in (4, 4, 5))
    assert torch.equal(first.indices, batch_indices(4, batch_size=6, size=10, seed=1))
    assert torch.equal(first.crops, again.crops) and torch.equal(first.dropped, again.dropped)
    assert first.dropout_seed == again.dropout_seed != next_one.dropout_seed
    assert not torch.equal(first.crops, next_one.crops)
    assert {int(crop) for step in range(20) for crop in draw(step_generator(1, step), step, **options).crops} == {
        0,
        1,
        2,
    }
    shares = [draw(step_generator(1, step), step, **options).dropped.float().mean() for step in range(200)]
    assert 0.45 < torch.stack(shares).mean() < 0.55
