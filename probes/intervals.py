"""Confidence intervals: bootstrap over images, groups or blocks, paired differences, many tests."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypedDict, Unpack

import numpy as np

from probes.inputs import Array, Labels, check_counts, float_tensor, integer_vector, whole_number

DRAWN_AT_ONCE = 1 << 20  # places, which bounds memory


def bootstrap_interval(
    values: Array,
    *,
    groups: Labels | None = None,
    block: int | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean of `values` (n,) (Efron 1979).

    For an accuracy, `values` are the hits of the images as 0.0 and 1.0. The same seed gives the same interval.
    (NaN, NaN) of a single value, which does not tell how far others are from it.

    Args:
        values: (n,) floats, independent of each other unless `groups` or `block` says otherwise.
        groups: (n,) integers; values of one group (a patient, a clip) are drawn together.
        block: values are consecutive, as frames of a clip, and neighbours are alike: blocks of this length are drawn,
            which begin anywhere and go on from the last value to the first (Politis and Romano 1992).
        confidence: in (0, 1).
        resamples: how many.
        seed: of the draws.

    Raises:
        ValueError: both `groups` and `block`, fewer than two groups, or a block longer than half of the values.
    """
    _check_confidence(confidence)
    resampled = _resampled_means(_values(values, "values"), groups=groups, block=block, resamples=resamples, seed=seed)
    return _percentiles(resampled, confidence)


class Draws(TypedDict, total=False):
    """The arguments of `bootstrap_interval` that say how resamples are drawn, as other functions take them."""

    groups: Labels | None
    block: int | None
    resamples: int
    seed: int


class Difference(NamedTuple):
    """The difference of the means of two scores on the same images, the first − the second."""

    difference: float
    interval: tuple[float, float]
    """Percentile bootstrap, at the given confidence."""
    worse: float
    """Share of resamples in which the first was not better: near 0, it is; near 1, it is not."""
    p_value: float = math.nan
    """Two-sided, in (0, 1]: how often a resample falls on the other side of 0, twice; for `holm`.

    NaN, as the interval and `worse`, where fewer than two images count: they do not tell.
    """


def paired_interval(first: Array, second: Array, *, confidence: float = 0.95, **draws: Unpack[Draws]) -> Difference:
    """Whether one variant beats another on the same images: `first` and `second` (n,) are the scores of each image.

    Images are drawn for both together (Efron and Tibshirani 1993, chapter 16), so that what is hard for both does not
    widen the interval; that of two independent accuracies would be wider. Other arguments as in `bootstrap_interval`.
    """
    _check_confidence(confidence)
    scores = _values(first, "first"), _values(second, "second")
    if len(scores[0]) != len(scores[1]):
        raise ValueError(f"first and second must score the same images, got {len(scores[0])} and {len(scores[1])}")
    gains = scores[0] - scores[1]
    return difference_from(float(gains.mean()), _resampled_means(gains, **draws), confidence)


paired_bootstrap = paired_interval
"""The name that it had first."""


def difference_from(difference: float, resampled: np.ndarray, confidence: float = 0.95) -> Difference:
    """A difference with what its resamples (r,) say of it.

    Resamples of NaN, in which nothing counts, say nothing; without others all but the difference is NaN.
    p-value: 2 · (1 + fewer of the resamples ≤ 0 and ≥ 0) / (1 + r), at most 1 (Davison and Hinkley 1997, 4.2).
    """
    resampled = resampled[~np.isnan(resampled)]
    if not len(resampled):
        return Difference(difference, (math.nan, math.nan), math.nan)
    tail = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    p_value = min(1.0, 2 * (1 + tail) / (1 + len(resampled)))
    return Difference(difference, _percentiles(resampled, confidence), float((resampled <= 0).mean()), p_value)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """p-values (m,) corrected for being m tests, by Holm's step-down procedure (Holm 1979), in the order given.

    Ascending, the i-th of m (from 0) is multiplied by m − i, and is at least as large as the one before and at most 1.
    The chance of one false finding among all with a corrected value below α is below α, however the tests depend on
    each other.

    Raises:
        ValueError: values that are not (m,), or outside [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p_values must have shape (m,) and lie in [0, 1], got {values.tolist()}")
    order = np.argsort(values, kind="stable")
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1)
    return corrected


def bootstrap_of_sums(
    rows: Array,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    confidence: float = 0.95,
    **draws: Unpack[Draws],
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of a statistic of the column sums of `rows` (n, k), one an image.

    For scores that are no mean over images, such as the mIoU or the share of all points over image pairs. `statistic`
    takes sums (resamples, k), float64, and gives (resamples,). Other arguments as in `bootstrap_interval`; rows of
    zeros alone, such as of masks that are ignored everywhere, are not counted as values.
    """
    _check_confidence(confidence)
    return _percentiles(statistic(resampled_sums(rows, **draws)), confidence)


def resampled_sums(
    rows: Array, *, groups: Labels | None = None, block: int | None = None, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Column sums (resamples, k), float64, of each resample of `rows` (n, k), drawn as in `bootstrap_interval`.

    NaN if fewer than two rows hold anything but zeros.
    """
    check_counts(resamples=resamples)
    sample = float_tensor(rows, "rows", "(n, k)", 2).cpu().double().numpy()
    if groups is None and block is None:
        generator = np.random.default_rng(seed)
        sums = generator.multinomial(len(sample), np.full(len(sample), 1 / len(sample)), size=resamples) @ sample
    else:
        draws = _draws(len(sample), groups=groups, block=block, resamples=resamples, seed=seed)
        sums = np.stack([np.bincount(row, minlength=len(sample)) @ sample for drawn in draws for row in drawn])
    return sums if np.count_nonzero(sample.any(axis=1)) > 1 else np.full_like(sums, math.nan)


def _resampled_means(sample: np.ndarray, **draws: Unpack[Draws]) -> np.ndarray:
    means = np.concatenate([sample[drawn].mean(axis=1) for drawn in _draws(len(sample), **draws)])
    return means if len(sample) > 1 else np.full_like(means, math.nan)


def _draws(
    count: int, *, groups: Labels | None = None, block: int | None = None, resamples: int = 1000, seed: int = 0
) -> Iterator[np.ndarray]:
    """The places in 0 … count − 1 that each resample consists of, (r, count) of some resamples at a time."""
    check_counts(resamples=resamples)
    if groups is not None and block is not None:
        raise ValueError("give groups or block, not both")
    generator = np.random.default_rng(seed)
    if groups is not None:
        members = _members(integer_vector(groups, "groups", count))
        for _ in range(resamples):
            chosen = generator.integers(len(members), size=len(members))
            yield np.concatenate([members[group] for group in chosen])[None]
        return
    if block is not None and not 1 <= whole_number(block, "block") <= count // 2:
        raise ValueError(f"block must lie within 1 … {count // 2}, half of the {count} values, got {block}")
    at_once = max(1, DRAWN_AT_ONCE // count)  # one by one would be slower, the draws are the same
    for start in range(0, resamples, at_once):
        some = min(at_once, resamples - start)
        if block is None:
            yield generator.integers(count, size=(some, count))
        else:
            starts = generator.integers(count, size=(some, math.ceil(count / block), 1))
            yield ((starts + np.arange(block)) % count).reshape(some, -1)[:, :count]


def _members(groups: np.ndarray) -> list[np.ndarray]:
    """Places of each group; ValueError if there is but one."""
    _, sizes = np.unique(groups, return_counts=True)
    if len(sizes) < 2:
        raise ValueError(f"at least 2 groups are needed to draw from, got {len(sizes)}: no interval can be told")
    return np.split(np.argsort(groups, kind="stable"), np.cumsum(sizes)[:-1])


def _values(values: Array, name: str) -> np.ndarray:
    return float_tensor(values, name, "(n,)", 1).cpu().double().numpy()


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    # NaN: a resample in which nothing counts, such as of masks that are ignored everywhere.
    counted = values[~np.isnan(values)]
    if not len(counted):
        return math.nan, math.nan
    low, high = np.quantile(counted, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
