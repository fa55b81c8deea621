"""Feature maps as colours: their first three principal components."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from probes.inputs import Array, float_tensor


def pca_colours(maps: Array, *, clip: float = 0.01) -> np.ndarray:
    """First three principal components of `maps` (n, h, w, D) as colours, float32 (n, h, w, 3) in [0, 1].

    All maps share one basis, so equal colours mean equal features across images. Each component runs from 0
    at its `clip` quantile to 1 at its 1 - `clip` quantile; the sign is that of its largest loading; a
    component that does not vary is 0.5.
    """
    tensor = float_tensor(maps, "maps", "(n, h, w, D)", 4)
    if not 0 <= clip < 0.5:
        raise ValueError(f"clip must lie in [0, 0.5), got {clip}")
    rows = tensor.flatten(0, 2).cpu().double()
    scores = _scores(rows - rows.mean(0)).numpy()
    low, high = np.quantile(scores, [clip, 1 - clip], axis=0)
    varies = high - low > 1e-9 * max(float(np.abs(scores).max()), 1e-30)
    colours = np.where(varies, (scores - low) / np.where(varies, high - low, 1), 0.5)
    return colours.clip(0, 1).astype(np.float32).reshape(*tensor.shape[:3], 3)


def align_colours(colours: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same colours (h, w, 3) in [0, 1] with channels exchanged and inverted to be most like the reference's.

    Principal components come in any order and sign; aligned, two sets of features can be compared by eye.
    """
    own, other = (np.concatenate([image.reshape(-1, 3) for image in images]).T for images in (colours, reference))
    with np.errstate(invalid="ignore"):  # a channel without variation is like no other
        correlations = np.nan_to_num(np.corrcoef(other, own)[:3, 3:])
    _, channels = linear_sum_assignment(-np.abs(correlations))
    inverted = correlations[np.arange(3), channels] < 0
    return [np.where(inverted, 1 - image[..., channels], image[..., channels]) for image in colours]


def _scores(centred: torch.Tensor) -> torch.Tensor:
    """Coordinates (rows, 3) along the leading principal axes; zeros where there are fewer than three."""
    _, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
    leading = axes.flip(1)[:, :3]
    largest = leading.gather(0, leading.abs().argmax(0, keepdim=True))
    projected = centred @ (leading * largest.sign())
    return torch.nn.functional.pad(projected, (0, 3 - projected.shape[1]))
