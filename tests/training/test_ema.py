from __future__ import annotations

import pytest
import torch
from torch import nn

from randar_features.training.optimizer import WeightAverage


def module(value: float) -> nn.Module:
    norm = nn.BatchNorm1d(1)
    nn.init.constant_(norm.weight, value)
    return norm


def test_decay_grows_up_to_its_limit():
    average = WeightAverage(module(1.0), decay=0.2)
    seen = []
    for value in (2.0, 3.0, 4.0):
        average.update(module(value))
        seen.append(average.values["weight"].item())
    first = 0.1 * 1 + 0.9 * 2  # (1 + 0)/(10 + 0)
    second = 2 / 11 * first + 9 / 11 * 3  # (1 + 1)/(10 + 1)
    third = 0.2 * second + 0.8 * 4  # 3/12 is above the limit
    assert seen == pytest.approx([first, second, third])


def test_counters_are_copied_not_averaged():
    norm = nn.BatchNorm1d(1)
    average = WeightAverage(norm, decay=0.9)
    norm(torch.randn(4, 1))
    average.update(norm)
    assert average.values["num_batches_tracked"].item() == 1


def test_does_not_move_with_the_module_or_move_it():
    norm = module(1.0)
    average = WeightAverage(norm, decay=0.9)
    nn.init.constant_(norm.weight, 5.0)
    assert average.values["weight"].item() == 1
    average.update(norm)
    assert norm.weight.item() == 5


def test_continues_from_its_state():
    whole, first, second = (WeightAverage(module(1.0), decay=0.999) for _ in range(3))
    for value in (2.0, 3.0):
        whole.update(module(value))
    first.update(module(2.0))
    second.load_state_dict(first.state_dict())
    second.update(module(3.0))
    assert second.updates == 2
    assert torch.equal(second.values["weight"], whole.values["weight"])
