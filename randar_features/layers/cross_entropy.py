"""Cross-entropy of an output layer in chunks, so that float32 logits of the whole batch are never in memory."""

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = {"cpu": 1 << 25, "cuda": 1 << 28}
"""Bytes of float32 logits at once: few enough for a cache, enough that the products stay fast."""


def linear_cross_entropy(states: Tensor, weight: Tensor, targets: Tensor, rows: int | None = None) -> Tensor:
    """Mean cross-entropy in nats of the logits `states @ weight.T` against targets.

    Products are in the format of the caller's autocast, sums and softmax in float32, as in
    `F.cross_entropy(F.linear(states, weight).float(), targets)`. The gradients are computed along
    with the loss, chunk by chunk, as Liger Kernel does (Hsu et al., arXiv 2410.10989): the gradient of the weight is
    kept instead of the logits, and nothing is computed twice.

    Args:
        states: (n, D).
        weight: (V, D).
        targets: (n,) int64.
        rows: of a chunk; None: as many as suit the device.
    """
    if rows is None:
        rows = max(1, CHUNK_BYTES.get(states.device.type, CHUNK_BYTES["cuda"]) // (4 * len(weight)))
    loss: Tensor = _Chunked.apply(states, weight, targets, rows, torch.is_grad_enabled())
    return loss


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, rows: int, training: bool) -> Tensor:
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        with torch.autocast(kind, enabled=False):
            return _loss_and_gradients(ctx, states, weight, targets, rows, dtype, training)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        as_they_are = gradient.device.type == "cpu" and bool(
            gradient == 1
        )  # elsewhere a look would wait for the device
        scaled = (own if own is None or as_they_are else own * gradient.to(own.dtype) for own in ctx.saved_tensors)
        return *scaled, None, None, None


def _loss_and_gradients(
    ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, rows: int, dtype: torch.dtype, training: bool
) -> Tensor:
    """The loss; `ctx` gets its gradients, of the weight in float32 or what it is held in."""
    of_states, of_weight = (training and needed for needed in ctx.needs_input_grad[:2])
    states_gradient = torch.empty_like(states) if of_states else None
    weight_gradient: Tensor | None = None
    near, total = weight.to(dtype), states.new_zeros((), dtype=torch.float32)
    for chunk in range(0, len(states), rows):
        own, wanted = states[chunk : chunk + rows].to(dtype), targets[chunk : chunk + rows, None]
        logits = (own @ near.T).float()
        normaliser = logits.logsumexp(dim=1, keepdim=True)
        total += (normaliser - logits.gather(1, wanted)).sum()
        if not (of_states or of_weight):
            continue
        logits.sub_(normaliser).exp_()  # now probabilities
        logits.scatter_add_(1, wanted, torch.full_like(normaliser, -1)).div_(len(states))
        gradient = logits.to(dtype)
        if states_gradient is not None:
            states_gradient[chunk : chunk + rows] = gradient @ near
        if of_weight and weight_gradient is None:
            weight_gradient = (gradient.T @ own).to(weight.dtype)
        elif weight_gradient is not None and dtype == weight.dtype:
            torch.addmm(weight_gradient, gradient.T, own, out=weight_gradient)
        elif weight_gradient is not None:
            weight_gradient += gradient.T @ own
    ctx.save_for_backward(states_gradient, weight_gradient)
    return total / len(states)
