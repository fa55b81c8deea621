"""What a reader must know of a fitted head before using its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHOSEN = ("C", "learning_rate")


def head_warnings(head: Any) -> tuple[str, ...]:
    """An option that was chosen at the end of its grid, and an optimiser that did not converge.

    head: a fitted probe or segmenter, with what it chose (`C`, `learning_rate`) and the scores by each value tried.
    """
    found = []
    tried = getattr(head, "validation_accuracies", None) or getattr(head, "validation_mious", None) or {}
    for name in CHOSEN:
        value = getattr(head, name, None)
        if (end := _end(tried, value)) is not None:
            found.append(f"{name} = {value:g} is the {end} that was tried: another may be better")
    converged = getattr(head, "converged", None)
    if isinstance(converged, dict) and converged.get(getattr(head, "C", None)) is False:
        found.append(f"the head at C = {head.C:g} did not converge")
    return tuple(found)


def _end(scores: Mapping[Any, float], value: Any) -> str | None:
    """Which end of the values tried the value is, if it was better than its neighbour; equals need no further ones."""
    if value not in scores or len(scores) < 2:
        return None
    tried = sorted(scores)
    for end, first, second in (("smallest", tried[0], tried[1]), ("largest", tried[-1], tried[-2])):
        if value == first and scores[first] > scores[second]:
            return end
    return None
