"""Multinomial logistic regression (L-BFGS) with the regularisation chosen on validation."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from probes.classifier import TunedProbe
from probes.grids import C_LIMITS, end_warnings, settle
from probes.inputs import check_counts, class_indices, sorted_grid
from probes.metrics import accuracy
from probes.rows import Rows, StackedRows
from probes.softmax_regression import SoftmaxRegression, Solution
from probes.splits import TuningSplit
from probes.transforms import Standardizer

C_GRID = tuple(10.0 ** (exponent / 4) for exponent in range(-24, 21))
"""45 values, 1e-6 … 1e5: DINOv2's 10^linspace(-6, 5, 45)."""


class LogisticProbe(TunedProbe):
    """L2-regularised softmax regression after DINOv2's `log_regression.py`: `SoftmaxRegression` along a grid of C.

    `fit` goes up the C grid, each start warm from the one before, and on beyond it while its end is best, and keeps the
    C with the best validation accuracy (the smallest of equals). It stops before the end of the grid at an accuracy of
    1, or when `patience` steps in a row improved neither the validation accuracy nor the validation loss, which only
    more overfitting could follow. `refit` then trains once more, at that C, on training and validation rows together.
    Features are standardised by the mean and deviation of the rows trained on; DINOv2 does not (`standardize=False`).
    A C has converged when the objective is within `tolerance` of its minimum. All features are read into memory, once.

    After `fit`: `C`; `validation_accuracy` (in [0, 1], of the chosen C before refitting); `validation_accuracies`,
    `iterations` and `converged`, by each C that was tried (of the chosen one, when refitted too); `classes` (the labels
    seen, sorted); `weight` (D, C) and `bias` (C,) for standardised features. float64 features are fitted in float64,
    all others in float32.
    """

    C: float
    validation_accuracies: dict[float, float]
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        *,
        C_grid: Sequence[float] = C_GRID,
        patience: int = 6,
        refit: bool = True,
        standardize: bool = True,
        validation_fraction: float = 0.1,
        max_iterations: int = 1000,
        tolerance: float = 1e-6,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        """`tolerance` as in `SoftmaxRegression.solve`; `device`: default where the features are."""
        sorted_grid(C_grid, "C_grid")  # refuses bad ones
        check_counts(patience=patience, max_iterations=max_iterations)
        super().__init__(validation_fraction=validation_fraction, seed=seed)
        self.C_grid = C_grid
        self.patience, self.refit, self.standardize = patience, refit, standardize
        self.max_iterations, self.tolerance, self.device = max_iterations, tolerance, device

    def _fit(self, split: TuningSplit) -> None:
        self._choose(split)
        if self.refit:
            rows = StackedRows([split.features, split.validation_features])
            problem = self._problem(rows, np.concatenate([split.labels, split.validation_labels]))
            solution = self._solve(problem, self.C, problem.start())
            self.converged[self.C] = self.converged[self.C] and solution.converged
            self._keep(problem, solution)
        if not self.converged[self.C]:
            self.warnings.append(f"not converged: C {self.C:g} after {self.iterations[self.C]} iterations")

    def _choose(self, split: TuningSplit) -> None:
        problem = self._problem(split.features, split.labels)
        self.validation_accuracy, self.validation_accuracies, self.warnings = -1.0, {}, []
        self.iterations: dict[float, int] = {}
        self.converged: dict[float, bool] = {}
        held = problem.project(split.validation_features)
        lowest_loss, fruitless = np.inf, 0
        ends: dict[float, Solution] = {}  # solutions that the grid goes on from

        def tried(strength: float, start: Solution) -> tuple[float, float]:
            """Solve at one C, validate it, and keep it if it is the best; accuracy and loss."""
            solution = ends[strength] = self._solve(problem, strength, start)
            logits = torch.addmm(solution.bias, held, solution.weight)
            score, loss = self._validate(logits.cpu(), split.validation_labels)
            self.iterations[strength], self.converged[strength] = solution.iterations, solution.converged
            if score > self.validation_accuracy:
                self.C, self.validation_accuracy = strength, score
                self._keep(problem, solution)
            for inner in sorted(ends)[1:-1]:
                del ends[inner]
            return score, loss

        def tried_beyond(strengths: list[float]) -> dict[float, float]:
            up = strengths[0] > max(self.validation_accuracies)
            return {strength: tried(strength, ends[max(ends) if up else min(ends)])[0] for strength in strengths}

        solution = problem.start()
        for strength in sorted_grid(self.C_grid, "C_grid"):
            best = self.validation_accuracy
            score, loss = tried(strength, solution)
            solution = ends[strength]
            self.validation_accuracies[strength] = score
            fruitless = 0 if score > best or loss < lowest_loss else fruitless + 1
            lowest_loss = min(loss, lowest_loss)
            if fruitless == self.patience or self.validation_accuracy == 1:
                break
        settle(self.validation_accuracies, tried_beyond, C_LIMITS, count=4)
        self.warnings = end_warnings("C", self.validation_accuracies, self.C)

    def _problem(self, features: Rows, labels: np.ndarray) -> SoftmaxRegression:
        self.classes, targets = class_indices(labels)
        places = torch.from_numpy(targets)
        problem = SoftmaxRegression(features, places, standardize=self.standardize, device=self.device)
        self._standardizer: Standardizer = problem.standardizer
        return problem

    def _solve(self, problem: SoftmaxRegression, strength: float, start: Solution) -> Solution:
        return problem.solve(strength, start, max_iterations=self.max_iterations, tolerance=self.tolerance)

    def _validate(self, logits: Tensor, labels: np.ndarray) -> tuple[float, float]:
        """Accuracy and mean cross-entropy; labels that were not trained on count in the former only."""
        places = np.searchsorted(self.classes, labels).clip(max=len(self.classes) - 1)
        known = torch.from_numpy(self.classes[places] == labels)
        loss = F.cross_entropy(logits[known].double(), torch.from_numpy(places)[known]).item()
        return accuracy(self.classes[logits.argmax(1).numpy()], labels), loss

    def _keep(self, problem: SoftmaxRegression, solution: Solution) -> None:
        self.weight, self.bias = problem.weight(solution), solution.bias

    def _logits(self, features: Tensor) -> Tensor:
        return self._standardizer.apply(features).to(self.weight) @ self.weight + self.bias
