"""The loss in chunks against the plain one: the same value and gradients, without the logits of the whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from randar_features.layers.cross_entropy import linear_cross_entropy
from randar_features.precision import autocast
from randar_features.sequence import to_order
from tests.golden.models import golden, golden_randar

CPU = torch.device("cpu")
SAME = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Relative distance of the gradients, in each format of the products."""


def drawn(count: int = 50, width: int = 24, codes: int = 70) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(count, width, generator=generator).requires_grad_()
    weight = torch.randn(codes, width, generator=generator).requires_grad_()
    return states, weight, torch.randint(codes, (count,), generator=generator)


def plain(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(states, weight).float(), targets)


@pytest.mark.parametrize("dtype", SAME)
@pytest.mark.parametrize("rows", [1, 16, 50, None])
def test_loss_and_gradients_are_those_of_the_plain_one(dtype: torch.dtype, rows: int | None) -> None:
    states, weight, targets = drawn()
    found = []
    for way in (plain, lambda *given: linear_cross_entropy(*given, rows)):
        with autocast(CPU, dtype):
            loss = way(states, weight, targets)
        found.append((loss.detach(), *torch.autograd.grad(3 * loss, (states, weight))))
    (expected, *gradients), (loss, *ours) = found
    torch.testing.assert_close(loss, expected, rtol=1e-5 if dtype == torch.float32 else 1e-4, atol=0)
    for own, theirs in zip(ours, gradients, strict=True):
        assert own.dtype == torch.float32
        assert (own - theirs).norm() < SAME[dtype] * theirs.norm()


def test_gradients_are_those_of_the_function_itself() -> None:
    states, weight, targets = (value.double() if value.is_floating_point() else value for value in drawn(5, 4, 6))
    states, weight = states.detach().requires_grad_(), weight.detach().requires_grad_()
    loss = linear_cross_entropy(states, weight, targets, 2)
    expected = torch.autograd.grad(F.cross_entropy(states @ weight.T, targets), (states, weight))
    for own, theirs in zip(torch.autograd.grad(loss, (states, weight)), expected, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-7)


def test_no_tensor_is_as_large_as_all_logits() -> None:
    """Neither kept for the backward pass nor in between: a chunk of 8 of 64 images is all that there is."""
    states, weight, targets = drawn(64, 4, 512)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            found = function(*args, **(kwargs or {}))
            largest = max([largest, *(value.numel() for value in [found] if isinstance(value, Tensor))])
            return found

    with Watch():
        linear_cross_entropy(states, weight, targets, 8).backward()
    assert largest == 8 * 512


def test_a_model_gives_the_loss_of_its_logits() -> None:
    recorded, model = golden("randar_small")[0], golden_randar()
    tokens, classes, order = recorded["idx"], recorded["cond"], recorded["order"]
    logits = model(tokens, classes, order)
    expected = F.cross_entropy(logits.flatten(0, 1), to_order(tokens, order).flatten())
    torch.testing.assert_close(model(tokens, classes, order, loss=True), expected)
