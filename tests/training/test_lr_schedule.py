from __future__ import annotations

import json
import re
from typing import get_args, get_type_hints

import pytest

from randar_features.training.generator.recipe import TrainingConfig
from randar_features.training.optimizer import rate_multiplier
from tests.golden.models import FOLDER

RECORDED = json.loads((FOLDER / "lr_schedule.json").read_text())


@pytest.mark.parametrize("name", RECORDED)
def test_equals_the_recorded_schedule(name: str):
    parsed = re.fullmatch(r"cosine warmup (\d+) total (\d+) \{'min_lr_ratio': ([\d.]+), .*\}", name)
    assert parsed
    warmup, total, floor = int(parsed[1]), int(parsed[2]), float(parsed[3])
    for index, expected in enumerate(RECORDED[name]):
        if 10 * index <= total:
            assert rate_multiplier(10 * index, warmup=warmup, total=total, floor=floor) == pytest.approx(expected)


def test_holds_the_floor_behind_the_end():
    values = [rate_multiplier(step, warmup=2, total=6, floor=0.25) for step in range(9)]
    assert values == pytest.approx([0, 0.5, 1, 0.890165, 0.625, 0.359835, 0.25, 0.25, 0.25], abs=1e-6)


def test_without_warm_up_it_starts_at_the_peak():
    assert rate_multiplier(0, warmup=0, total=4) == 1
    assert rate_multiplier(5, warmup=5, total=5, floor=0.1) == 1  # all of it warm-up


def test_linear_goes_down_in_a_straight_line():
    values = [rate_multiplier(step, "linear", warmup=2, total=6, floor=0.2) for step in range(9)]
    assert values == pytest.approx([0, 0.5, 1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


def test_constant_stays_at_the_peak():
    values = [rate_multiplier(step, "constant", warmup=2, total=6, floor=0.2) for step in range(9)]
    assert values == [0, 0.5, 1, 1, 1, 1, 1, 1, 1]
    assert rate_multiplier(0, "constant", warmup=0, total=6) == 1


def test_schedules_agree_while_they_warm_up():
    schedules = get_args(get_type_hints(TrainingConfig)["schedule"])
    assert [rate_multiplier(3, schedule, warmup=4, total=9) for schedule in schedules] == [0.75] * 3
