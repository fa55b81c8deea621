"""Softmax regression with an L2 penalty, solved to its minimum by L-BFGS on a preconditioned problem."""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.nn import functional as F

from probes.inputs import at_least_float32
from probes.rows import BLOCK_ROWS, Rows
from probes.transforms import Standardizer

LARGEST_BASIS = 4096
"""With more features and more rows than this, principal axes would take longer than they save."""

PRECISE_BELOW = 0.05
"""Mean loss below which shares are computed in float64."""

MOST_RESTARTS = 50

# Of NumPy and SciPy. Their threads wait in turns with PyTorch's, for the same cores, at each of hundreds of steps.
BLAS = ThreadpoolController().select(user_api="blas")


class Solution(NamedTuple):
    """A minimum: weight (D', C) and bias (C,) on `SoftmaxRegression.inputs`, and how it was reached."""

    weight: Tensor
    bias: Tensor
    objective: float
    iterations: int
    converged: bool
    spread: Tensor | None = None
    """Mean of p (1 - p) of each class, float64 (C,), where it has been measured."""


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

        Where classes come apart the Hessian falls by orders of magnitude on the way, and with it the scale of the
        problem: it is measured again where a search ends, and the search goes on until it ends where it began.

        tolerance: how far the objective may stay above its minimum, as estimated from the gradient and the
            approximate Hessian there (½ gᵀ H⁻¹ g): a part of the objective, and of its decrease from zero weights,
            which is small where C is.
        """
        penalty = (2 if self.num_classes == 2 else 1) / (C * len(self.inputs))
        spread = self._spread(start) if start.spread is None else start.spread
        table = torch.cat([start.weight, start.bias[None]]).double()
        iterations, precise, converged, restarts = 0, False, False, 0
        while not converged and iterations < max_iterations and restarts < MOST_RESTARTS:
            scale = self._scale(spread, penalty)
            table, taken = self._search(table, scale, penalty, max_iterations - iterations, tolerance, precise)
            iterations, restarts = iterations + taken, restarts + 1
            found = Solution(*self._parts(table), np.inf, iterations, False)
            spread = self._spread(found)
            value, gradient = self._objective(found.weight, found.bias, penalty, precise)
            if not precise and value < PRECISE_BELOW:
                precise = True
                continue
            converged = self._near_enough(value, gradient / self._scale(spread, penalty), tolerance)
        weight, bias = self._parts(table)
        return Solution(weight, bias, value, iterations, converged, spread)

    def _search(
        self, table: Tensor, scale: Tensor, penalty: float, most: int, tolerance: float, precise: bool
    ) -> tuple[Tensor, int]:
        """L-BFGS from weights and bias (D' + 1, C) at one scale: where it ends, and after how many iterations."""
        state: dict[str, bool] = {}

        def value_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
            weight, bias = self._parts(torch.from_numpy(values).to(self.device).view_as(scale) / scale)
            value, gradient = self._objective(weight, bias, penalty, precise)
            scaled = gradient / scale
            state["done"] = self._near_enough(value, scaled, tolerance)
            return value, scaled.flatten().cpu().numpy()

        def stop(_: np.ndarray) -> None:
            if state["done"]:
                raise StopIteration

        limits = {"maxiter": most, "maxfun": 2 * most + 20, "ftol": 0.0, "gtol": 0.0}
        first = (table * scale).flatten().cpu().numpy()
        with BLAS.limit(limits=1):
            found = minimize(value_and_gradient, first, jac=True, method="L-BFGS-B", callback=stop, options=limits)
        return torch.from_numpy(found.x).to(self.device).view_as(scale) / scale, int(found.nit)

    def _near_enough(self, value: float, scaled_gradient: Tensor, tolerance: float) -> bool:
        excess = 0.5 * float(scaled_gradient.square().sum())
        return excess <= tolerance * min(value, math.log(self.num_classes) - value)

    def weight(self, solution: Solution) -> Tensor:
        """(D, C) on standardised features."""
        return solution.weight if self.basis is None else self.basis @ solution.weight

    def _spread(self, at: Solution) -> Tensor:
        """Mean of p (1 - p) of each class: float64 (C,)."""
        spread = torch.zeros(self.num_classes, dtype=torch.float64, device=self.device)
        for block in self.inputs.split(BLOCK_ROWS):
            shares = (block @ at.weight + at.bias).double().softmax(1)
            spread += (shares * (1 - shares)).sum(0)
        return spread / len(self.inputs)

    def _scale(self, spread: Tensor, penalty: float) -> Tensor:
        """Square root of the diagonal of the approximate Hessian: float64 (D' + 1, C)."""
        spread = spread.clamp_min(1e-15)
        ones = self.variances.new_ones(1)
        return (torch.cat([self.variances, ones])[:, None] * spread + penalty).sqrt()

    def _parts(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of a table (D' + 1, C)."""
        return table[:-1].to(self.inputs.dtype), table[-1].to(self.inputs.dtype)

    def _objective(self, weight: Tensor, bias: Tensor, penalty: float, precise: bool) -> tuple[float, Tensor]:
        """Mean cross-entropy + ½ penalty ‖W‖², and its gradient, float64 (D' + 1, C).

        precise: shares in float64, for 1 - p of float32 is noise where classes are apart.
        """
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        gradient = torch.zeros_like(weight)
        bias_gradient = torch.zeros_like(bias, dtype=torch.float64)
        for block, targets in zip(self.inputs.split(BLOCK_ROWS), self.targets.split(BLOCK_ROWS), strict=True):
            logits = torch.addmm(bias, block, weight)
            log_shares = F.log_softmax(logits.double() if precise else logits, 1)
            loss -= log_shares.gather(1, targets[:, None]).sum(dtype=torch.float64)
            errors = log_shares.exp_()  # d loss / d logits = softmax - one-hot
            errors[torch.arange(len(block), device=self.device), targets] -= 1
            gradient.addmm_(block.T, errors.to(block))
            bias_gradient += errors.sum(0)
        count = len(self.inputs)
        value = loss / count + 0.5 * penalty * weight.double().square().sum()
        weight_gradient = gradient.double() / count + penalty * weight
        return value.item(), torch.cat([weight_gradient, bias_gradient[None] / count])


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
