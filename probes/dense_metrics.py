"""Scores of dense tasks: segmentation and point matching."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from probes.inputs import Array, Labels, float_tensor, label_vector
from probes.intervals import Difference, Draws, bootstrap_interval, bootstrap_of_sums, difference_from, resampled_sums
from probes.metrics import confusion_matrix


def segmentation_counts(
    predicted: np.ndarray, truth: np.ndarray, num_classes: int, ignore_index: int | None = None
) -> np.ndarray:
    """Pixels of one image by their true class (row) and predicted class (column), int64 (C, C).

    predicted, truth: integers (H, W). Pixels whose truth is `ignore_index` are left out. Counts of several
    images add up. Raises on other shapes and on values that are no class.
    """
    if predicted.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"predicted and truth must have one shape (H, W), got {predicted.shape} and {truth.shape}")
    kept = np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
    if not kept.any():
        return np.zeros((num_classes, num_classes), np.int64)
    return confusion_matrix(predicted[kept], truth[kept], num_classes)


def intersections_and_unions(counts: np.ndarray) -> np.ndarray:
    """Pixels in the intersection and in the union of truth and prediction of each class: (…, C, C) → (…, 2, C).

    Those of several images add up, as the counts do.
    """
    intersections = np.diagonal(counts, axis1=-2, axis2=-1)
    return np.stack([intersections, counts.sum(-1) + counts.sum(-2) - intersections], -2).astype(np.float64)


def class_ious(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float64 (…, C), from `segmentation_counts` (…, C, C).

    NaN where a class occurs in neither truth nor prediction.
    """
    return _ious(intersections_and_unions(counts))


def _ious(parts: np.ndarray) -> np.ndarray:
    intersections, unions = parts[..., 0, :], parts[..., 1, :]
    return np.divide(intersections, unions, out=np.full(intersections.shape, np.nan), where=unions > 0)


def mean_iou(counts: np.ndarray) -> float:
    """mIoU in [0, 1] of counts (C, C) summed over a whole set: mean of `class_ious` without the NaNs.

    Raises ValueError when not one pixel was counted.
    """
    if not counts.any():
        raise ValueError("no pixel was counted: every one has the ignored label, or there is none")
    return float(np.nanmean(class_ious(counts)))


def segmentation_scores(counts: np.ndarray, **draws: Unpack[Draws]) -> dict[str, Any]:
    """Scores of counts (n, C, C) of n images, all over their sum and in [0, 1].

    draws: groups, block, resamples and seed as in `bootstrap_interval`; the first two where images are not
    independent, as frames of a clip.

    Returns `miou`; `interval`, its bootstrap interval over images; `pixel_accuracy`; `class_ious`, a list with
    None for classes that do not occur.
    """
    if counts.ndim != 3 or not len(counts):
        raise ValueError(f"counts must have shape (n, C, C) and not be empty, got {counts.shape}")
    total = counts.sum(0)
    ious = class_ious(total)
    parts = intersections_and_unions(counts)
    interval = bootstrap_of_sums(parts.reshape(len(parts), -1), lambda sums: _mious(sums, 1)[:, 0], **draws)
    return {
        "miou": mean_iou(total),
        "interval": list(interval),
        "pixel_accuracy": float(np.trace(total) / total.sum()),
        "class_ious": [None if np.isnan(value) else float(value) for value in ious],
    }


def miou_difference(first: np.ndarray, second: np.ndarray, **draws: Unpack[Draws]) -> Difference:
    """mIoU of one segmentation − mIoU of another of the same images, with its paired bootstrap interval.

    first, second: `intersections_and_unions` (n, 2, C) of each image; images are drawn for both together.
    draws: groups, block, resamples and seed as in `bootstrap_interval`.
    """
    if first.shape != second.shape:
        raise ValueError(f"first and second must be of the same images and classes, got {first.shape}, {second.shape}")
    both = np.stack([first, second], 1)
    rows = both.reshape(len(both), -1)

    def gain(sums: np.ndarray) -> np.ndarray:
        mious = _mious(sums, 2)
        return mious[:, 0] - mious[:, 1]

    return difference_from(float(gain(rows.sum(0, keepdims=True))[0]), gain(resampled_sums(rows, **draws)))


def _mious(sums: np.ndarray, count: int) -> np.ndarray:
    """mIoU (r, count) of `count` segmentations from their parts in a row (r, count · 2 · C); NaN: nothing counts."""
    ious = _ious(sums.reshape(len(sums), count, 2, -1))
    present = np.isfinite(ious).sum(-1)
    return np.divide(np.nansum(ious, -1), present, out=np.full(present.shape, np.nan), where=present > 0)


ALPHAS = (0.1, 0.05, 0.01)


def pck(
    predicted: Array,
    target: Array,
    pairs: Labels,
    *,
    box_sizes: Array,
    image_sizes: Array,
    alpha: float = 0.1,
) -> dict[str, float]:
    """Percentage of correct keypoints, as a share in [0, 1], in all four published variants.

    A point is correct when |predicted - target| ≤ alpha · max(width, height) of the target's bounding box
    or of the target image. `per_point` is hits over points; `per_image` averages the shares of the image
    pairs (SPair-71k as measured by DIFT's `eval_spair.py`).

    predicted, target: (K, 2) x and y in pixels of the target image. pairs: (K,) which of the P image pairs
    a point belongs to. box_sizes, image_sizes: (P, 2) width and height in pixels, in either order.
    Returns box_per_point, box_per_image, image_per_point, image_per_image.
    """
    return _shares(_hits(predicted, target, pairs, {"box": box_sizes, "image": image_sizes}, alpha))


def pck_table(
    predicted: Array,
    target: Array,
    pairs: Labels,
    *,
    box_sizes: Array,
    image_sizes: Array,
    alphas: Sequence[float] = ALPHAS,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """`pck` at several `alphas`, and bootstrap intervals over image pairs: two dictionaries with the same names.

    Their names are box_per_point@0.1, box_per_image@0.1 … image_per_image@0.01; an interval is [low, high].
    """
    values: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    for alpha in alphas:
        found = _hits(predicted, target, pairs, {"box": box_sizes, "image": image_sizes}, alpha)
        values |= {f"{name}@{alpha:g}": score for name, score in _shares(found).items()}
        for name, (hits, points) in found.items():
            by_point = bootstrap_of_sums(np.stack([hits, points], 1), lambda sums: sums[:, 0] / sums[:, 1], **options)
            intervals[f"{name}_per_point@{alpha:g}"] = list(by_point)
            intervals[f"{name}_per_image@{alpha:g}"] = list(bootstrap_interval(hits / points, **options))
    return values, intervals


def _shares(found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """`pck` of what `_hits` gives."""
    result: dict[str, float] = {}
    for name, (hits, points) in found.items():
        result[f"{name}_per_point"] = float(hits.sum() / points.sum())
        result[f"{name}_per_image"] = float((hits / points).mean())
    return result


def _hits(
    predicted: Array, target: Array, pairs: Labels, sizes: Mapping[str, Array], alpha: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Correct points and all points of every pair that has any, float64 (pairs,) each, by threshold basis."""
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    points, truth = (_pairs_of_floats(v, n) for v, n in ((predicted, "predicted"), (target, "target")))
    if points.shape != truth.shape:
        raise ValueError(f"predicted and target must have one shape, got {points.shape} and {truth.shape}")
    pair = label_vector(pairs, len(points), "pairs")
    distance = np.linalg.norm(points - truth, axis=1)
    counts = np.bincount(pair).astype(np.float64)
    found = {}
    for name, values in sizes.items():
        threshold = alpha * _longest_sides(values, f"{name}_sizes", pair.max() + 1)
        hits = np.bincount(pair, distance <= threshold[pair])
        found[name] = hits[counts > 0], counts[counts > 0]
    return found


def _pairs_of_floats(values: Array, name: str) -> np.ndarray:
    if isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.integer):  # as `match_points` gives them
        values = values.astype(np.float64)
    array = float_tensor(values, name, "(n, 2)", 2).cpu().double().numpy()
    if array.shape[1] != 2:
        raise ValueError(f"{name} must have shape (n, 2), got {array.shape}")
    return array


def _longest_sides(sizes: Array, name: str, needed: int) -> np.ndarray:
    sides = _pairs_of_floats(sizes, name)
    if len(sides) < needed or sides.min() <= 0:
        raise ValueError(f"{name} must be {needed} rows of positive sizes, got shape {sides.shape}")
    return sides.max(1)
