"""What a reader must know of a fitted head before using its numbers."""

from __future__ import annotations

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
        if value is not None and len(tried) > 1 and value in (min(tried), max(tried)):
            end = "largest" if value == max(tried) else "smallest"
            found.append(f"{name} = {value:g} is the {end} that was tried: another may be better")
    converged = getattr(head, "converged", None)
    if isinstance(converged, dict) and converged.get(getattr(head, "C", None)) is False:
        found.append(f"the head at C = {head.C:g} did not converge")
    return tuple(found)
