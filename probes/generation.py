"""How near generated images are to real ones, by features: Fréchet and kernel distance, precision, recall, IS.

| function | what | source |
|---|---|---|
| `frechet_distance` | distance of two Gaussians; of Inception's features it is the FID | Heusel et al. 2017 |
| `kernel_distance` | unbiased squared MMD; of Inception's features it is the KID | Bińkowski et al. 2018 |
| `precision`, `recall` | share of one set inside the balls around the other | Kynkäänniemi et al. 2019 |
| `density`, `coverage` | the same with less weight on outliers | Naeem et al. 2020 |
| `inception_score` | how sure and how varied a classifier's answers are | Salimans et al. 2016 |

Features are arrays or tensors (n, D) of numbers, or `probes.rows.Rows` that are read from disk block by block. All are
checked before any work: ValueError for NaN, infinity, fewer than 2 samples, and widths that differ.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from probes.inputs import at_least_float32, check_counts, own_modes, require_finite
from probes.rows import Features, Rows, as_rows

NEGATIVE = 1e-5
"""How far below 0 an eigenvalue of a covariance may lie, as a share of the largest, and still be rounding."""
SUM_TOLERANCE = 1e-3
TIE = 16
"""Two squared distances are equal if they differ by less than this many units of rounding of the squared norms."""
COMPARED = 4096  # features of each set, at once
SAMPLED = 257  # features whose median stands for the middle of a set


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of features, which can be collected block by block and over several processes.

    Attributes:
        count: n, samples that they are of; None where that is not known, as of published statistics.
        mean: (D,) float64.
        covariance: (D, D) float64, divided by n - 1.
    """

    count: int | None
    mean: np.ndarray
    covariance: np.ndarray

    def __post_init__(self) -> None:
        """ValueError unless these can be a mean and a covariance."""
        width = self.mean.shape[-1] if self.mean.ndim else 0
        if self.mean.ndim != 1 or self.covariance.shape != (width, width):
            shapes = f"{self.mean.shape} and {self.covariance.shape}"
            raise ValueError(f"a mean (D,) and a covariance (D, D) are expected, got {shapes}")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise ValueError("a mean or a covariance holds NaN or infinity: the features are damaged, or too large")
        largest = np.abs(self.covariance).max(initial=0)
        if not np.allclose(self.covariance, self.covariance.T, rtol=0, atol=1e-6 * largest):
            raise ValueError("a covariance must be symmetric")

    @classmethod
    def of(cls, features: Features, name: str = "features") -> Moments:
        """The moments of features (n, D), which are read once, in blocks."""
        rows = _samples(features, name)
        parts = (cls._of_block(block) for _, block in rows.blocks())
        moments = next(parts)
        for part in parts:
            moments = moments + part
        return moments

    @classmethod
    def _of_block(cls, block: Tensor) -> Moments:
        values = block.double().cpu().numpy()
        mean = values.mean(axis=0)
        values = values - mean
        with np.errstate(over="ignore"):
            return cls(len(values), mean, values.T @ values / max(1, len(values) - 1))

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets together (Chan et al. 1979); ValueError where a number of samples is not known."""
        if self.count is None or other.count is None:
            raise ValueError("moments of an unknown number of samples cannot be put together with others")
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"widths differ: {len(self.mean)} and {len(other.mean)}")
        count, apart = self.count + other.count, other.mean - self.mean
        scatter = (self.count - 1) * self.covariance + (other.count - 1) * other.covariance
        scatter += np.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, self.mean + apart * (other.count / count), scatter / (count - 1))


def frechet_distance(real: Features | Moments, fake: Features | Moments) -> float:
    """|m₁ - m₂|² + tr(C₁ + C₂ - 2·(C₁C₂)^½), the squared Fréchet distance of the Gaussians of two sets; symmetric.

    The trace of the root is the sum of the singular values of C₁^½·C₂^½, roots by eigenvalues in float64: it stays
    real, where a root of the product may be complex.

    Args:
        real, fake: features (n, D), or their `Moments`. Of n ≤ D samples covariances are singular, and the distance is
            far too large: there is a UserWarning.

    Raises:
        ValueError: see the module; or a covariance has an eigenvalue far below 0, so that its root is complex.
        numpy.linalg.LinAlgError: eigenvalues did not converge.
    """
    first, second = (
        given if isinstance(given, Moments) else Moments.of(given, name)
        for given, name in ((real, "real"), (fake, "fake"))
    )
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"real has width {len(first.mean)} and fake {len(second.mean)}: they must be of one network")
    for moments, name in ((first, "real"), (second, "fake")):
        if moments.count is not None and moments.count <= len(moments.mean):
            warnings.warn(
                f"frechet_distance: {name} has {moments.count} samples of width {len(moments.mean)}: its covariance is "
                "singular and the distance too large; compare it with distances of as many samples only",
                stacklevel=2,
            )
    apart = first.mean - second.mean
    roots = _root(first.covariance, "real"), _root(second.covariance, "fake")
    cross = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    total = np.trace(first.covariance) + np.trace(second.covariance)
    distance = float(apart @ apart + total - 2 * cross)
    if not distance >= -NEGATIVE * total:
        raise ValueError(f"the Fréchet distance came out as {distance}: the statistics are damaged")
    return max(distance, 0.0)


def _root(covariance: np.ndarray, name: str) -> np.ndarray:
    """The symmetric root (D, D); ValueError where it would be complex by more than rounding."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    if values[0] < -NEGATIVE * max(values[-1], 0.0):
        raise ValueError(
            f"the covariance of {name} has eigenvalues from {values[0]:.3g} to {values[-1]:.3g}: its root is complex, "
            "so these are no statistics of features; make them anew"
        )
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


class ManifoldScores(NamedTuple):
    """Precision, recall, density and coverage, each as the function of its name gives it."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(real: Features, fake: Features, k: int = 3) -> ManifoldScores:
    """Precision, recall, density and coverage from one pass over the distances.

    Distances are Euclidean, computed in the format of the features, float32 at least, between blocks: memory does not
    grow with n·m. A ball around a feature reaches to its k-th nearest other feature of the same set.

    Args:
        real, fake: features (n, D) and (m, D).
        k: neighbours, below n and m.
    """
    return ManifoldScores(*_manifold(real, fake, k, of_real=True, of_fake=True))


def precision(real: Features, fake: Features, k: int = 3) -> float:
    """Share of the fake features that lie inside, or on, a ball around a real one: the quality of samples."""
    return _manifold(real, fake, k, of_real=True)[0]


def recall(real: Features, fake: Features, k: int = 3) -> float:
    """Share of the real features that lie inside, or on, a ball around a fake one: the variety of samples."""
    return _manifold(real, fake, k, of_fake=True)[1]


def density(real: Features, fake: Features, k: int = 3) -> float:
    """The mean number of balls around real features that a fake one lies in, over k: 1 for equal sets, no upper bound.

    What lies on a ball is outside, as in the authors' code, which uses k = 5.
    """
    return _manifold(real, fake, k, of_real=True)[2]


def coverage(real: Features, fake: Features, k: int = 3) -> float:
    """Share of the balls around real features that hold a fake one; what lies on a ball is outside, see `density`."""
    return _manifold(real, fake, k, of_real=True)[3]


@own_modes()
def _manifold(
    real: Features, fake: Features, k: int, *, of_real: bool = False, of_fake: bool = False
) -> tuple[float, float, float, float]:
    """The four scores; those that need balls that are not wanted come out as 0."""
    check_counts(k=k)
    sets = _pair(real, fake)
    for each, name in zip(sets, ("real", "fake"), strict=True):
        if len(each) <= k:
            raise ValueError(f"{name} has {len(each)} samples, too few for the {k} nearest others of each")
    points = _Points.of(sets)
    around_real, around_fake = (
        _radii(one, k) if wanted else None for one, wanted in zip(points, (of_real, of_fake), strict=True)
    )
    precise, recalled = (
        torch.zeros(len(sets[1]), dtype=torch.bool, device="cpu"),
        torch.zeros(len(sets[0]), dtype=torch.bool, device="cpu"),
    )
    covered, visits = recalled.clone(), 0
    for rows, columns, squared, tie in _squared_distances(points[1], points[0]):
        if around_real is not None:
            beyond = squared - around_real[columns].to(squared)
            precise[rows] |= (beyond <= tie).any(1).cpu()
            inside = beyond < -tie
            covered[columns] |= inside.any(0).cpu()
            visits += int(inside.sum())
        if around_fake is not None:
            recalled[columns] |= (squared - around_fake[rows, None].to(squared) <= tie).any(0).cpu()
    means = [values.double().mean().item() for values in (precise, recalled, covered)]
    return means[0], means[1], visits / (k * len(precise)), means[2]


class _Points(NamedTuple):
    """Features about a common middle and in a common unit, which change no ratio of distances: nothing overflows.

    The middle is made of values of the features and the unit is a power of 2, so that small whole numbers stay exact.
    """

    rows: Rows
    middle: Tensor
    unit: float
    dtype: torch.dtype

    @classmethod
    def of(cls, sets: tuple[Rows, Rows]) -> tuple[_Points, _Points]:
        """Both sets."""
        chosen = np.unique(np.linspace(0, len(sets[0]) - 1, SAMPLED).round().astype(np.int64))
        sample = sets[0].read(chosen).double()
        middle = sample.median(dim=0).values
        blocks = (block for rows in sets for _, block in rows.blocks(COMPARED))
        largest = max((block.double() - middle).abs().max().item() for block in blocks)
        formats = {rows.read(chosen[:1]).dtype for rows in sets}
        dtype = torch.float64 if torch.float64 in formats else torch.float32
        limits = np.frexp([torch.finfo(dtype).tiny, torch.finfo(dtype).max / 2])[1]  # of what the unit divides exactly
        unit = 2.0 ** np.clip(np.frexp(largest)[1], *limits) if largest else 1.0
        return cls(sets[0], middle, unit, dtype), cls(sets[1], middle, unit, dtype)

    def blocks(self, first: int = 0) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Places, features (b, D) and their squared norms (b,), from the block on that begins at `first`."""
        for place, block in self.rows.blocks(COMPARED):
            if place.start >= first:
                middle = (self.middle / self.unit).to(block.device, self.dtype)
                values = block.to(self.dtype).mul(1 / self.unit).sub_(middle)
                yield place, values, values.square().sum(1)


def _squared_distances(left: _Points, right: _Points) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Places in both sets, squared distances (a, b) and the differences (a, b) below which they count as equal.

    Of a set and itself, as the same object: columns from the block of the rows on, as distances are symmetric.
    """
    rounding = TIE * torch.finfo(left.dtype).eps
    for rows, values, norms in left.blocks():
        for columns, others, other_norms in right.blocks(rows.start if left is right else 0):
            sums = norms[:, None] + other_norms.to(norms)
            squared = torch.addmm(sums, values, others.to(values).T, alpha=-2).clamp_min_(0)
            yield rows, columns, squared, sums.mul_(rounding)


def _radii(points: _Points, k: int) -> Tensor:
    """Squared distance of each feature to its k-th nearest other of the set, (n,)."""
    nearest = torch.full((len(points.rows), k), torch.inf, dtype=points.dtype, device="cpu")
    for rows, columns, squared, _ in _squared_distances(points, points):
        sides = [(rows, squared), (columns, squared.T)]
        if rows == columns:
            squared.fill_diagonal_(torch.inf)  # each and itself
            sides.pop()
        for place, distances in sides:
            both = torch.cat([nearest[place].to(squared), distances], dim=1)
            nearest[place] = both.topk(k, dim=1, largest=False).values.cpu()
    return nearest[:, -1]


@own_modes()
def kernel_distance(real: Features, fake: Features) -> float:
    """Squared maximum mean discrepancy of the kernel (x·y/D + 1)³, the unbiased estimate over all pairs; symmetric.

    Its mean over draws of one distribution is 0, so that single values may be negative; that of a set and itself is
    below 0 by about the variance of the kernel over n.
    """
    sets = _pair(real, fake)
    middle = next(sets[0].blocks())[1].double().mean(0)
    within = [
        (_kernel_sum(rows, rows, middle) - _kernel_diagonal(rows)) / (len(rows) * (len(rows) - 1)) for rows in sets
    ]
    distance = sum(within) - 2 * _kernel_sum(*sets, middle) / (len(sets[0]) * len(sets[1]))
    if not np.isfinite(distance):
        raise ValueError("the kernel distance overflows: the features are too large for the cube of their products")
    return float(distance)


def _kernel_sum(left: Rows, right: Rows, middle: Tensor) -> float:
    """The sum over all pairs; products x·y are formed about the middle, as features far from 0 would lose digits."""
    total = 0.0
    for _, values in left.blocks(COMPARED):
        apart, along = _about(values, middle)
        for _, others in right.blocks(COMPARED):
            other_apart, other_along = (part.to(along.device) for part in _about(others, middle))
            products = (apart @ other_apart.to(apart).T).double().add_(along[:, None])
            products.add_(other_along + middle.square().sum().to(along)).div_(len(middle)).add_(1)
            total += products.square().mul_(products).sum().item()
    return total


def _about(block: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
    """Features less their middle (b, D), in their format, float32 at least, and their products with it (b,)."""
    apart = block.double() - middle.to(block.device)
    return apart.to(at_least_float32(block[:0]).dtype), apart @ middle.to(block.device)


def _kernel_diagonal(rows: Rows) -> float:
    squares = (block.double().square().mean(1) for _, block in rows.blocks())
    return sum((each + 1).pow(3).sum().item() for each in squares)


def inception_score(probabilities: Features, splits: int = 10, *, size: int | None = None) -> tuple[float, float]:
    """exp of the mean of KL(p(y|x) ‖ p(y)), with p(y) the mean of a part: mean and deviation over parts.

    Args:
        probabilities: (n, C) of C classes.
        splits: consecutive parts of equal size, to one sample, in the order given: what order that is matters.
        size: samples of each part, instead of `splits`; the last has those that are left, as in ADM's evaluator.

    Returns:
        The mean and the population standard deviation over the parts; the score lies in 1 … C.

    Raises:
        ValueError: see the module; or probabilities are negative, do not add up to 1, or are fewer than `splits`.
    """
    rows = _samples(probabilities, "probabilities")
    check_counts(splits=splits, size=1 if size is None else size)
    if size is None and splits > len(rows):
        raise ValueError(f"{len(rows)} samples are too few for {splits} parts: give at most as many")
    for place, block in rows.blocks():
        _check_probabilities(block, place.start)
    bounds = [len(rows) * part // splits for part in range(splits + 1)]
    if size is not None:
        bounds = [*range(0, len(rows), size), len(rows)]
    scores = []
    for first, last in pairwise(bounds):
        part = rows.read(np.arange(first, last)).double()
        divergence = (torch.xlogy(part, part) - torch.xlogy(part, part.mean(dim=0))).sum(1)
        scores.append(divergence.mean().exp().item())
    return float(np.mean(scores)), float(np.std(scores))


def _check_probabilities(block: Tensor, first: int) -> None:
    sums = block.double().sum(1)
    rounding = torch.finfo(block.dtype).eps / 2  # of each
    wrong = (block < 0).any(1) | ((sums - 1).abs() > max(SUM_TOLERANCE, rounding))
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"probabilities: those of sample {first + row} reach down to {block[row].min().item():.4g} and add up to "
            f"{sums[row].item():.6g}, expected numbers from 0 on that add up to 1; logits take a softmax first"
        )


def _pair(real: Features, fake: Features) -> tuple[Rows, Rows]:
    first, second = _samples(real, "real"), _samples(fake, "fake")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"real has width {first.shape[1]} and fake {second.shape[1]}: they must be of one network")
    return first, second


def _samples(features: Features, name: str) -> Rows:
    """Two samples at least, all finite."""
    rows = as_rows(_as_floats(features), name, "(n, D)", 2)
    if len(rows) < 2:
        raise ValueError(f"{name} has {len(rows)} sample, expected at least 2")
    if isinstance(features, Rows):  # what is in memory was checked
        for _, block in rows.blocks():
            require_finite(block, name)
    return rows


def _as_floats(features: Features) -> Features:
    """Whole numbers as float64; anything else as it is."""
    if isinstance(features, np.ndarray) and features.dtype.kind in "iu":
        return features.astype(np.float64)
    if isinstance(features, Tensor) and features.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8):
        return features.double()
    return features
