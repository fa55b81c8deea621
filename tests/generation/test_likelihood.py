from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from randar_features import load_model, log_likelihood, sequence, surprisal_map
from tests.generation.full_pass import step_logits
from tests.golden.models import golden, golden_randar

MODEL = golden_randar()
RECORDED = golden("randar_small")[0]
TOKENS, CLASSES, ORDER = RECORDED["idx"], RECORDED["cond"], RECORDED["order"]


def test_its_mean_is_the_training_loss():
    found = log_likelihood(MODEL, TOKENS, CLASSES, ORDER[None])
    assert found.shape == (3, 16) and found.dtype == torch.float32
    torch.testing.assert_close(-found.mean(), RECORDED["loss"][0], atol=1e-5, rtol=0)


def test_each_token_is_scored_given_those_before_it():
    found = log_likelihood(MODEL, TOKENS, CLASSES, ORDER[None])
    order = ORDER[1].tolist()
    for done in (0, 1, 7, 15):
        before = [int(TOKENS[1, place]) for place in order[:done]]
        logits = step_logits(MODEL, int(CLASSES[1]), order, before, 1)
        expected = logits[0].log_softmax(0)[TOKENS[1, order[done]]]
        torch.testing.assert_close(found[1, order[done]], expected, atol=1e-5, rtol=0)


def test_the_mean_over_several_orders():
    several = sequence.antithetic_orders(3, 16, seed=4)
    expected = torch.stack([log_likelihood(MODEL, TOKENS, CLASSES, order) for order in several]).mean(0)
    torch.testing.assert_close(log_likelihood(MODEL, TOKENS, CLASSES, several[:, None]), expected)
    torch.testing.assert_close(log_likelihood(MODEL, TOKENS, CLASSES, 3, seed=4), expected)
    torch.testing.assert_close(log_likelihood(MODEL, TOKENS, CLASSES, several[:, None], batch_size=2), expected)


def test_codes_of_any_integer_format_and_orders_as_lists():
    expected = log_likelihood(MODEL, TOKENS, CLASSES, 1)
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.uint16):
        assert torch.equal(log_likelihood(MODEL, TOKENS.to(dtype), CLASSES, 1), expected)
    order = sequence.antithetic_orders(1, 16)[0]
    assert torch.equal(log_likelihood(MODEL, TOKENS, CLASSES, order.tolist()), expected)


def test_no_class_is_the_null_class():
    null = log_likelihood(MODEL, TOKENS, torch.full((3,), 10))
    assert torch.equal(log_likelihood(MODEL, TOKENS), null)
    assert torch.equal(log_likelihood(MODEL, TOKENS, 10), null)
    assert not torch.equal(log_likelihood(MODEL, TOKENS, CLASSES), null)


def test_surprisal_map_is_grey_by_token():
    image = surprisal_map(-torch.tensor([[0.0, 1.0, 2.0, 8.0]]), 4, limit=4.0)
    assert image.shape == (1, 3, 4, 4)
    rows = [[0, 0, 0.25, 0.25], [0, 0, 0.25, 0.25], [0.5, 0.5, 1, 1], [0.5, 0.5, 1, 1]]
    assert image[0].tolist() == [rows, rows, rows]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": TOKENS[:, :9]}, r"shape \(B, 16\)"),
        ({"classes": [1, 2]}, "2 classes for 3 images"),
        ({"classes": 11}, "classes must lie in 0 … 9"),
        ({"orders": "raster"}, "a number of orders, or permutations of the locations; got 'raster'"),
        ({"orders": 0}, "number of orders must be at least 1"),
        ({"orders": torch.zeros(2, 16, dtype=torch.int64)}, "no permutation"),
        ({"orders": torch.arange(16).expand(2, 5, 16)}, r"expected \(K, 3, N\)"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_input_is_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        log_likelihood(MODEL, **({"tokens": TOKENS} | arguments))


@pytest.mark.parametrize(("size", "limit", "message"), [(5, 1.0, "multiple of the grid side 2"), (4, 0.0, "limit")])
def test_bad_maps_are_refused(size: int, limit: float, message: str):
    with pytest.raises(ValueError, match=message):
        surprisal_map(torch.zeros(1, 4), size, limit)


def test_a_model_knows_its_classes_by_name():
    tiny, codes = load_model("randar-tiny"), torch.arange(64)[None]
    expected = log_likelihood(tiny.transformer, codes, [tiny.classes.index("goldfish")], 2, seed=np.int64(3))
    assert torch.equal(log_likelihood(tiny, codes, "goldfish", 2, seed=3), expected)


def test_a_uniform_model_has_the_surprisal_of_a_guess():
    model = golden_randar()
    model.output.weight.zero_()
    assert (-log_likelihood(model, TOKENS)).allclose(torch.tensor(math.log(64)))


def test_a_model_trained_in_raster_order_is_measured_in_it():
    model = golden_randar()
    model.trained_order = "raster"
    expected = log_likelihood(MODEL, TOKENS, CLASSES, torch.arange(16))
    assert not torch.equal(log_likelihood(MODEL, TOKENS, CLASSES), expected)
    for several in (1, 3, torch.arange(16)):
        assert torch.equal(log_likelihood(model, TOKENS, CLASSES, several), expected)


def test_sizes_and_limits_beyond_torchs_integers():
    found = log_likelihood(MODEL, TOKENS, CLASSES, batch_size=2**70)
    torch.testing.assert_close(found, log_likelihood(MODEL, TOKENS, CLASSES))
    assert torch.equal(surprisal_map(found, 16, 2**70), surprisal_map(found, 16, 2.0**70))
    with pytest.raises(ValueError, match=r"limit.*True"):
        surprisal_map(found, 16, True)
    with pytest.raises(TypeError, match="list"):
        surprisal_map(found.tolist(), 16, 4.0)  # type: ignore[arg-type]
