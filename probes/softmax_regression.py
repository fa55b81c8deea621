"""Softmax regression with an L2 penalty to its minimum: L-BFGS on a preconditioned problem."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.nn import functional as F

from .inputs import at_least_float32
from .rows import BLOCK_ROWS, Rows
from .standardizer import Standardizer

LARGEST_BASIS = 4096
"""Of more features and more rows than this, principal axes would take longer than they save."""

# Of NumPy and SciPy. Their threads wait in turns with PyTorch's, for the same cores, at each of hundreds of steps.
BLAS = ThreadpoolController().select(user_api="blas")


class Solution(NamedTuple):
    """A minimum: weight (D', C) and bias (C,) on `SoftmaxRegression.inputs`, and how it was reached."""

    weight: Tensor
    bias: Tensor
    objective: float
    iterations: int
    converged: bool


class SoftmaxRegression:
    """Minimises C · Σ cross-entropy + ½ ‖W‖² over standardised features, the intercept without penalty.

    The objective of scikit-learn's `LogisticRegression` and of cuML's, which DINOv2 uses; for two classes, too,
    where both have one weight vector for what are two of half its length here.

    L-BFGS (scipy's L-BFGS-B) takes hundreds of steps where features are correlated. A rotation of the features
    does not change the objective, and in their principal axes the Hessian is nearly diagonal: of axis j and class c
    about p_c (1 - p_c) s_j² + 1 / (C n), with s_j² the variance and p_c the mean over rows. Scaled by its square
    root, a few steps suffice, from any start, at any C. Fewer rows than features are first put into the space that
    the rows span, where the minimum lies.
    """

    def __init__(
        self, features: Rows, targets: Tensor, *, standardize: bool, device: torch.device | str | None
    ) -> None:
        """Read all of `features` (n, D) into memory, as their principal axes.

        targets: (n,) places of the classes. device: default where the features are.
        """
        self.standardizer = Standardizer().fit(features)
        if not standardize:
            self.standardizer.scale = torch.ones_like(self.standardizer.scale)
        parts = (self.standardizer.apply(block) for _, block in features.blocks())
        first = at_least_float32(features.read(np.arange(1)))
        self.device = torch.device(device or first.device)
        rows = torch.empty(features.shape, dtype=first.dtype, device=self.device)
        for place, part in zip(range(0, len(rows), BLOCK_ROWS), parts, strict=True):
            rows[place : place + len(part)] = part
        self.basis = principal_axes(rows)
        self.inputs = rows if self.basis is None else rows @ self.basis
        self.variances = self.inputs.square().mean(0).double()
        self.targets = targets.to(self.device)
        self.num_classes = int(targets.max()) + 1

    def project(self, features: Rows) -> Tensor:
        """Other rows (m, D) as those of `inputs`: standardised, (m, D')."""
        parts = (self.standardizer.apply(block).to(self.inputs) for _, block in features.blocks())
        return torch.cat([part if self.basis is None else part @ self.basis for part in parts])

    def start(self) -> Solution:
        """All weights zero."""
        weight = torch.zeros(self.inputs.shape[1], self.num_classes, dtype=self.inputs.dtype, device=self.device)
        return Solution(weight, weight.new_zeros(self.num_classes), np.inf, 0, False)

    def solve(self, C: float, start: Solution, *, max_iterations: int, tolerance: float) -> Solution:
        """The minimum at `C`, from a start such as that of another C.

        tolerance: how far the objective may stay above its minimum, as estimated from the gradient and the
            approximate Hessian (½ gᵀ H⁻¹ g): a part of the objective, and of its decrease from zero weights, which
            is small where C is.
        """
        penalty = (2 if self.num_classes == 2 else 1) / (C * len(self.inputs))
        scale = self._scale(start, penalty)
        state: dict[str, float] = {}

        def value_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
            weight, bias = self._unscaled(values, scale)
            value, gradient = self._objective(weight, bias, penalty)
            scaled = (gradient / scale).flatten().cpu().numpy()
            state["excess"], state["value"] = 0.5 * float(scaled @ scaled), value
            return value, scaled

        def near_enough() -> bool:
            return state["excess"] <= tolerance * min(state["value"], math.log(self.num_classes) - state["value"])

        def stop(_: np.ndarray) -> None:
            if near_enough():
                raise StopIteration

        first = torch.cat([start.weight, start.bias[None]]).double() * scale
        limits = {"maxiter": max_iterations, "maxfun": 2 * max_iterations + 20, "ftol": 0.0, "gtol": 0.0}
        with BLAS.limit(limits=1):
            found = minimize(
                value_and_gradient,
                first.flatten().cpu().numpy(),
                jac=True,
                method="L-BFGS-B",
                callback=stop,
                options=limits,
            )
        value, _ = value_and_gradient(found.x)
        return Solution(*self._unscaled(found.x, scale), value, int(found.nit), near_enough())

    def weight(self, solution: Solution) -> Tensor:
        """(D, C) on standardised features."""
        return solution.weight if self.basis is None else self.basis @ solution.weight

    def _scale(self, start: Solution, penalty: float) -> Tensor:
        """Square root of the diagonal of the approximate Hessian at `start`: float64 (D' + 1, C)."""
        spread = torch.zeros(self.num_classes, dtype=torch.float64, device=self.device)
        for block in self.inputs.split(BLOCK_ROWS):
            shares = (block @ start.weight + start.bias).softmax(1)
            spread += (shares * (1 - shares)).sum(0).double()
        spread = (spread / len(self.inputs)).clamp_min(1e-4 / self.num_classes)
        ones = self.variances.new_ones(1)
        return (torch.cat([self.variances, ones])[:, None] * spread + penalty).sqrt()

    def _unscaled(self, values: np.ndarray, scale: Tensor) -> tuple[Tensor, Tensor]:
        table = torch.from_numpy(values).to(self.device).view_as(scale) / scale
        return table[:-1].to(self.inputs.dtype), table[-1].to(self.inputs.dtype)

    def _objective(self, weight: Tensor, bias: Tensor, penalty: float) -> tuple[float, Tensor]:
        """Mean cross-entropy + ½ penalty ‖W‖², and its gradient, float64 (D' + 1, C)."""
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        gradient = torch.zeros_like(weight)
        bias_gradient = torch.zeros_like(bias)
        for block, targets in zip(self.inputs.split(BLOCK_ROWS), self.targets.split(BLOCK_ROWS), strict=True):
            log_shares = F.log_softmax(torch.addmm(bias, block, weight), 1)
            loss -= log_shares.gather(1, targets[:, None]).sum(dtype=torch.float64)
            errors = log_shares.exp_()  # d loss / d logits = softmax - one-hot
            errors[torch.arange(len(block), device=self.device), targets] -= 1
            gradient.addmm_(block.T, errors)
            bias_gradient += errors.sum(0)
        count = len(self.inputs)
        value = loss / count + 0.5 * penalty * weight.double().square().sum()
        weight_gradient = gradient.double() / count + penalty * weight
        return value.item(), torch.cat([weight_gradient, bias_gradient.double()[None] / count])


def principal_axes(rows: Tensor) -> Tensor | None:
    """Orthonormal axes (D, D') in which centred `rows` (n, D) are uncorrelated, D' = min(n, D).

    None where both n and D are larger than `LARGEST_BASIS`.
    """
    if min(rows.shape) > LARGEST_BASIS:
        return None
    if len(rows) < rows.shape[1]:
        span, rows_in_span = torch.linalg.qr(rows.double().T)
        return (span @ principal_axes(rows_in_span.T)).to(rows.dtype)  # type: ignore[operator]
    gram = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for block in rows.split(BLOCK_ROWS):
        gram += block.T @ block
    return torch.linalg.eigh(gram).eigenvectors.to(rows.dtype)
