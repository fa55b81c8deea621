"""Grids of values of an option, which are extended if the best value lies at their end."""

from collections.abc import Callable, Iterable, Mapping

C_LIMITS = (1e-12, 1e8)
RATE_LIMITS = (1e-9, 1e3)


def beyond(tried: Iterable[float], chosen: float, limits: tuple[float, float], count: int = 3) -> list[float]:
    """Up to `count` values beyond that end of the grid that was chosen, nearest first; none if it lies inside.

    They go on by the ratio of the two outermost values, as far as `limits`. Of a single value none is beyond: it was
    not chosen.
    """
    values = sorted(set(tried))
    if len(values) < 2 or chosen not in (values[0], values[-1]):
        return []
    ratio = values[1] / values[0] if chosen == values[0] else values[-2] / values[-1]
    found = [float(f"{chosen / ratio**step:.12g}") for step in range(1, count + 1)]
    return [value for value in found if limits[0] <= value <= limits[1]]


def settle(
    scores: dict[float, float],
    score: Callable[[list[float]], dict[float, float]],
    limits: tuple[float, float],
    count: int = 3,
) -> float:
    """The value with the best score (at most 1), the lowest of equals; the grid is extended until it lies inside.

    scores: of the values tried, to which those beyond are added. A value beyond must be better, not as good.
    score: scores of more values.
    """
    best = max(sorted(scores), key=scores.__getitem__)
    ends = [min(scores), max(scores)]
    while scores[best] < 1 and ends:
        # Where accuracies are all alike, as of far too low values, either end may be the way.
        end = ends.pop()
        if scores[end] < scores[best]:
            continue
        while more := beyond(scores, end, limits, count):
            found = score(more)
            scores |= found
            better = max(sorted(found), key=found.__getitem__)
            if found[better] <= scores[best]:
                break
            best = end = better
    return best


def end_warnings(name: str, scores: Mapping[float, float], chosen: float) -> list[str]:
    """A warning if the chosen value is the end of the grid, by score, so that a better one may lie beyond."""
    values = sorted(scores)
    if len(values) < 2 or values[0] < chosen < values[-1] or scores[chosen] >= 1:
        return []
    end = "lowest" if chosen == values[0] else "highest"
    return [f"end of grid: {name} {chosen:g}, the {end} that was tried, was chosen; a better one may lie beyond"]
