from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch

from randar_features import sequence


def test_interleaved_layout_of_each_context():
    order = torch.tensor([[2, 0, 1]])

    def layout(context: str) -> list[int]:
        shown = sequence.shown(order, context)
        return sequence.interleave(shown, shown + 10)[0].tolist()

    assert layout("single") == [2, 12, 0, 10, 1, 11]
    assert layout("repeat") == [2, 12, 0, 10, 1, 11, 2, 12, 0, 10, 1, 11]
    assert layout("reverse") == [2, 12, 0, 10, 1, 11, 1, 11, 0, 10, 2, 12]


@pytest.mark.parametrize("context", sequence.CONTEXTS)
@pytest.mark.parametrize("read", sequence.READS)
def test_read_positions_hit_the_last_copy(context: str, read: str):
    """Each position is labelled; those that are read must be the last copy's, in its order."""
    order = torch.tensor([[2, 0, 3, 1]])
    shown = sequence.shown(order, context)
    copy = torch.arange(shown.shape[1]) // 4
    kinds = sequence.interleave(torch.zeros_like(shown), torch.ones_like(shown))
    labels = torch.stack(
        [sequence.interleave(shown, shown)[0], sequence.interleave(copy[None], copy[None])[0], kinds[0]]
    )
    labels = torch.cat([torch.full((3, 1), -1), labels], dim=1)  # the class token
    assert labels.shape[1] == sequence.sequence_length(4, context)
    locations, copies, kind = labels[:, sequence.read_positions(4, context, read)]
    assert locations.tolist() == sequence.read_order(order, context)[0].tolist()
    assert copies.unique().tolist() == [0 if context == "single" else 1]
    assert kind.unique().tolist() == [1 if read == "image" else 0]


def test_to_raster_undoes_to_order():
    orders = sequence.random_orders(3, 16, torch.Generator().manual_seed(0))
    values = torch.randn(3, 16, 5)
    for order in (orders, orders[:1]):
        moved = sequence.to_order(values, order)
        assert torch.equal(moved[1, 4], values[1, order[min(1, len(order) - 1), 4]])
        assert torch.equal(sequence.to_raster(moved, order), values)
    identity = torch.arange(16).expand(3, 16)
    assert torch.equal(torch.gather(sequence.invert(orders), 1, orders), identity)


def test_antithetic_orders_come_in_mirrored_pairs_and_do_not_depend_on_their_number():
    five, two = sequence.antithetic_orders(5, 9, seed=3), sequence.antithetic_orders(2, 9, seed=3)
    assert five.shape == (5, 9)
    assert torch.equal(five[1], five[0].flip(0)) and torch.equal(five[3], five[2].flip(0))
    assert torch.equal(five[:2], two)
    assert not torch.equal(five[0], five[2])
    assert torch.equal(five.sort(dim=1).values, torch.arange(9).expand(5, 9))
    assert not torch.equal(five, sequence.antithetic_orders(5, 9, seed=4))


def test_random_orders_are_uniform():
    """Each of the 6 orders of 3 tokens about a sixth of the time (6000 draws, 5 standard deviations)."""
    orders = sequence.random_orders(6000, 3, torch.Generator().manual_seed(0))
    counts = torch.bincount(orders @ torch.tensor([9, 3, 1]))
    counts = counts[counts > 0]
    assert len(counts) == 6
    assert (counts - 1000).abs().max() < 5 * (6000 * 5 / 36) ** 0.5


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (torch.tensor([0, 1, 1, 3]), r"row 0 of the order is no permutation of 0 … 3: \[0, 1, 1, 3\]"),
        (torch.tensor([0, 1, 2]), r"must hold 4 integers per image.*got shape \(1, 3\)"),
        (torch.tensor([0.0, 1.0, 2.0, 3.0]), "torch.float32"),
        (torch.zeros(4, dtype=torch.bool), "torch.bool"),
        ([2, 3, 0, 2], "row 0 of the order is no permutation"),
    ],
)
def test_bad_orders_are_refused(order: torch.Tensor | list[int], message: str):
    with pytest.raises(ValueError, match=message):
        sequence.check_order(order, 4)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="context must be one of single, repeat, reverse; got 'both'"):
        sequence.sequence_length(4, "both")
    with pytest.raises(ValueError, match="read must be one of image, instruction; got 'class'"):
        sequence.read_positions(4, "single", "class")
    with pytest.raises(ValueError, match="10 tokens do not form a square grid"):
        sequence.grid_side(10)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sequence.antithetic_orders(0, 4)


@pytest.mark.parametrize("wrong", [True, torch.tensor(True), torch.tensor(1.0), torch.tensor([1]), np.array([1]), 1.0])
def test_what_is_no_integer_is_quoted(wrong: object):
    with pytest.raises(TypeError, match=f"size.*{re.escape(repr(wrong))}"):
        sequence.as_index("size", wrong)


@pytest.mark.parametrize("one", [1, np.uint8(1), np.array(1), torch.tensor(1)])
def test_integers_of_any_kind_become_an_int(one: object):
    found = sequence.as_index("size", one)
    assert type(found) is int and found == 1


@pytest.mark.filterwarnings("error")  # pandas gives memory that is not to be written to
def test_a_column_of_some_rows_is_read_in_its_order():
    assert sequence.as_tensor(pd.Series([3, 1, 2])[[2, 1]]).tolist() == [2, 1]


def test_things_that_hold_no_numbers_are_refused_by_type():
    for wrong in (b"ab", "ab", {1}, {1: 2}, iter([1]), [None], [[1], [1, 2]], 2**70, None):
        with pytest.raises(TypeError, match="numbers"):
            sequence.as_tensor(wrong)
        with pytest.raises(TypeError, match="order must hold 4 integers"):
            sequence.check_order(wrong, 4)
    with pytest.raises(ValueError, match="complex"):
        sequence.check_order(torch.arange(4) + 0j, 4)


def test_an_array_is_none_of_the_choices():
    with pytest.raises(ValueError, match="pool must be one of mean"):
        sequence.check_choice("pool", np.array(["mean", "max"]), ("mean",))
