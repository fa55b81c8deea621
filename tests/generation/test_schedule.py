from __future__ import annotations

import json

import numpy as np
import pytest

from randar_features.generation.schedule import Scale, as_scale, check_steps, decoding_schedule, recommended_steps
from tests.golden.models import FOLDER

RECORDED = json.loads((FOLDER / "decoding_schedule.json").read_text())


@pytest.mark.parametrize("name", list(RECORDED))
def test_schedule_equals_the_published(name: str):
    num_tokens, steps = map(int, name.split("/"))
    assert decoding_schedule(num_tokens, steps) == RECORDED[name]


def test_known_tokens_count_in_the_schedule_but_are_not_decoded():
    assert decoding_schedule(64, 10, known=16) == [1, 1, 1, 1, 1, 6, 8, 10, 9, 10]
    assert decoding_schedule(64, -1, known=60) == [1, 1, 1, 1]


def test_one_step_takes_two():
    assert decoding_schedule(16, 1) == [1, 15]


def test_published_number_of_steps_is_recommended():
    assert [recommended_steps(count) for count in (256, 64, 1024, 16, 1)] == [88, 22, 352, 6, 1]


@pytest.mark.parametrize("steps", [0, 17, -2, 2.5, True])
def test_steps_outside_the_tokens_are_refused(steps: int):
    with pytest.raises(ValueError, match=rf"steps must lie in 1 … 16 .* got {steps}"):
        check_steps(steps, 16)
    assert [check_steps(good, 16) for good in (None, -1, 1, 16)] == [None, -1, 1, 16]


def test_scale_is_linear_in_the_tokens_done_and_off_at_1_alone():
    assert [Scale(1, 4).at(share) for share in (0, 0.5, 1)] == [1, 2.5, 4]
    pairs = ((1, 4), (2, 1), (0, 1.5), (0, 0), (0.5, 0.5), (-3, -3), (1, 1))
    assert [Scale(*pair).active for pair in pairs] == [True] * 6 + [False]
    assert as_scale(3) == as_scale(np.float32(3)) == Scale(3, 3) and as_scale((1, 2.5)) == Scale(1, 2.5)


def test_bad_guidance_is_refused():
    for bad in ((1, 2, 3), None, "3"):
        with pytest.raises(ValueError, match="one scale or a pair"):
            as_scale(bad)  # type: ignore[arg-type]
    for bad in ((1, "3"), True, (None, 1)):
        with pytest.raises(ValueError, match="one scale or a pair"):
            as_scale(bad)  # type: ignore[arg-type]
    for bad in (float("nan"), float("inf"), (1, -1e7)):
        with pytest.raises(ValueError, match="must be finite"):
            as_scale(bad)
