"""Optimisers: AdamW with decay groups, and Muon for the matrices of the blocks."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by Newton-Schulz iterations (Jordan et al. 2024), for matrices.

    Updates are scaled to AdamW's root mean square, 0.2·√max(rows, columns) (Liu et al., arXiv 2502.16982).
    Unlike `torch.optim.Muon` it iterates in float32 on a CPU, where bfloat16 may be many times slower,
    and treats all matrices of one shape as one batch. A parameter may be given as a stack of matrices.
    """

    def __init__(
        self, params: Any, *, lr: float, weight_decay: float = 0.0, momentum: float = 0.95, steps: int = 5
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "steps": steps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[square_blocks(parameter).shape[1:]].append((parameter, parameter.grad))
            for pairs in by_shape.values():
                self._update(group, pairs)

    def _update(self, group: dict[str, Any], pairs: list[tuple[nn.Parameter, Tensor]]) -> None:
        directions = []
        for parameter, gradient in pairs:
            momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
            momentum.lerp_(gradient, 1 - group["momentum"])
            directions.append(square_blocks(gradient.lerp(momentum, group["momentum"])))
        updates = orthogonalize(torch.cat(directions), group["steps"]).split([len(d) for d in directions])
        for (parameter, _), update in zip(pairs, updates, strict=True):
            scale = 0.2 * max(update.shape[1:]) ** 0.5
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * scale)


def square_blocks(matrix: Tensor) -> Tensor:
    """(k·D, D) → (k, D, D) for whole k, else (1, R, C): stacked projections are orthogonalised one by one."""
    rows, columns = matrix.shape
    return matrix.reshape(-1, columns, columns) if rows % columns == 0 else matrix[None]


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly the closest semi-orthogonal matrices to `matrices` (n, R, C): singular values about 0.7 … 1.2."""
    x = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Optimizer:
    """Torch optimisers that step together, each with its own peak learning rates."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        self.peaks = [[group["lr"] for group in part.param_groups] for part in parts]

    def step(self, multiplier: float) -> None:
        """Update with `multiplier` times the peak learning rates, then clear the gradients."""
        for part, peaks in zip(self.parts, self.peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * multiplier
            part.step()
            part.zero_grad()

    def state_dict(self) -> list[dict[str, Any]]:
        """States of the parts."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Take up saved states."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def build_optimizer(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.95),
    muon_learning_rate: float | None = None,
) -> Optimizer:
    """AdamW, with decay on tensors of two or more dimensions only.

    With `muon_learning_rate` the matrices inside `model.layers` are trained by Muon instead.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    use_muon = muon_learning_rate is not None
    matrices = [p for name, p in named if use_muon and name.startswith("layers.") and p.dim() == 2]
    taken = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)]
    if muon_learning_rate is not None:
        parts.append(Muon(matrices, lr=muon_learning_rate, weight_decay=weight_decay))
    return Optimizer(parts)
