"""Arguments of an extraction, refused before any work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from randar_features import sequence
from randar_features.features.spec import as_index
from randar_features.hub import Model


def check_numbers(batch_size: int | None, num_workers: int) -> None:
    """TypeError or ValueError for a batch below 1 image, fewer than 0 processes, or what is no integer."""
    if batch_size is not None and as_index("batch_size", batch_size) < 1:
        raise ValueError(f"batch_size must be at least 1, or None; got {batch_size}")
    if as_index("num_workers", num_workers) < 0:
        raise ValueError(f"num_workers must be at least 0, got {num_workers}")


def check_pool(pool: str | None) -> None:
    """ValueError for another pooling than "mean", or None for maps."""
    if pool is not None:
        sequence.check_choice("pool", pool, ("mean",))


def check_classes(classes: Any, model: Model) -> str | int | list[int] | None:
    """`classes` as None, "labels", one index or a list of them, all from 0 to C, the null class.

    Raises:
        TypeError, ValueError: they are anything else.
    """
    if classes is None or (isinstance(classes, str) and classes == "labels"):
        return classes
    if isinstance(classes, str):
        raise ValueError(f'classes must be None, "labels", an index, or one index for each image; got {classes!r}')
    if isinstance(classes, Iterable) and not getattr(classes, "ndim", 1):
        classes = classes.item()  # type: ignore[attr-defined]
    several = isinstance(classes, Iterable)
    given = [as_index("classes", label) for label in (classes if several else [classes])]
    null = model.transformer.config.num_classes
    if wrong := [label for label in given if not 0 <= label <= null]:
        raise ValueError(f"classes must lie in 0 … {null - 1}, or be {null} for the null class; got {wrong[0]}")
    return given if several else given[0]
