"""The number of tokens in each step, and the guidance scale: numbers on the host, known before decoding starts."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

from randar_features.sequence import GROUP

RECOMMENDED_SHARE = 88 / 256  # RandAR's steps a token at the published setting
ONE_BY_ONE = -1


def decoding_schedule(num_tokens: int, steps: int, known: int = 0) -> list[int]:
    """Tokens to decode at each step, RandAR's cosine rule (arXiv 2412.01827, published code).

    The first step decodes one token; step s ≥ 1 goes on to ⌊(1 − cos(π/2 · (s+1)/S)) · N + 1⌋ tokens,
    always at least one. N and the tokens done count the `known` ones, which are not decoded.

    Args:
        num_tokens: N, known tokens included.
        steps: S ≥ 1, or −1 for one token a step. At S > N every step decodes one. S = 1 takes two steps.

    Returns:
        Positive numbers that add up to N − known.
    """
    if steps < 1 and steps != ONE_BY_ONE:
        raise ValueError(f"steps must be at least 1, or −1 for one token a step; got {steps}")
    if steps == ONE_BY_ONE:
        return [1] * (num_tokens - known)
    schedule: list[int] = []
    done = known
    while done < num_tokens:
        step = len(schedule)
        share = 1 - math.cos(math.pi / 2 * (step + 1) / steps)
        target = min(num_tokens, math.floor(share * num_tokens + 1)) if step else 0
        schedule.append(min(max(target - done, 1), num_tokens - done))
        done += schedule[-1]
    return schedule


def share_schedule(num_tokens: int, steps: int, share: Callable[[float], float]) -> list[int]:
    """Tokens to decode at each step, ARPG's rule (arXiv 2503.10568, published code).

    After step s = 0, 1, … of S, with k tokens done before it, ⌊share((s+1)/S) · N⌋ tokens are left, but at least
    one, and at most N − k − 1; the last step decodes all that are left.

    Args:
        num_tokens: N.
        steps: S ≥ 1, or −1 for one token a step.
        share: of all tokens, by progress in (0, 1].

    Returns:
        Positive numbers that add up to N.
    """
    if steps == ONE_BY_ONE:
        return [1] * num_tokens
    schedule: list[int] = []
    for step in range(steps - 1):
        open_tokens = num_tokens - sum(schedule)
        left = max(1, min(open_tokens - 1, math.floor(num_tokens * share((step + 1) / steps))))
        schedule.append(open_tokens - left)
    schedule.append(num_tokens - sum(schedule))
    return [count for count in schedule if count]


def arccos_schedule(num_tokens: int, steps: int) -> list[int]:
    """`share_schedule` under which arccos(progress) / (π/2) of the tokens are left: ARPG's later default."""
    return share_schedule(num_tokens, steps, lambda progress: math.acos(progress) / (math.pi / 2))


def cosine_schedule(num_tokens: int, steps: int) -> list[int]:
    """`share_schedule` under which cos(π/2 · progress) of the tokens are left: that of ARPG's published FIDs."""
    return share_schedule(num_tokens, steps, lambda progress: math.cos(math.pi / 2 * progress))


def group_schedule(num_tokens: int, known: int = 0) -> list[int]:
    """PAR's tokens a step: four single ones, then groups of four; without the first `known`."""
    if known > GROUP and known % GROUP:
        raise ValueError(f"PAR continues after whole groups of {GROUP} tokens, not after {known} known ones")
    singles = max(0, min(GROUP, num_tokens) - known)
    return [1] * singles + [GROUP] * ((num_tokens - known - singles) // GROUP)


def recommended_steps(num_tokens: int, share: float = RECOMMENDED_SHARE) -> int:
    """RandAR's published 88 steps at N = 256, and the same share of N elsewhere; or another share."""
    return max(1, round(num_tokens * share))


def check_steps(steps: int | None, num_tokens: int) -> int | None:
    """`steps` if it is None, −1 or within 1 … N; ValueError otherwise."""
    whole = isinstance(steps, Integral) and not isinstance(steps, bool)
    if steps is not None and not (whole and (steps == ONE_BY_ONE or 1 <= steps <= num_tokens)):
        raise ValueError(
            f"steps must lie in 1 … {num_tokens} (the number of tokens), or be −1 for one token a step, "
            f"or None for the recommended number; got {steps!r}"
        )
    return steps


MAX_SCALE = 1e6  # beyond it the logits would leave the range of their number format


@dataclass(frozen=True)
class Scale:
    """A guidance scale that goes linearly from `start` (nothing done) to `end` (everything done).

    0 draws without the class, 1 with the class alone, between them is an interpolation, above 1 the class counts
    for more, below 0 it is avoided.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if not (abs(self.start) <= MAX_SCALE and abs(self.end) <= MAX_SCALE):
            raise ValueError(
                f"guidance scales must be finite, and at most {MAX_SCALE:.0e} in size; got ({self.start}, {self.end})"
            )

    @property
    def active(self) -> bool:
        """Whether this guidance changes anything: at a scale of 1 throughout, it does not."""
        return (self.start, self.end) != (1, 1)

    def at(self, progress: float) -> float:
        """The scale where this share of all tokens is done."""
        return self.start + (self.end - self.start) * progress


def as_scale(guidance: float | tuple[float, float]) -> Scale:
    """A number is a constant scale; a pair is (start, end)."""
    try:
        start, end = (guidance, guidance) if isinstance(guidance, (int, float, Real)) else guidance
    except (TypeError, ValueError):
        raise ValueError(f"guidance must be one scale or a pair (start, end); got {guidance!r}") from None
    if not all(isinstance(scale, Real) and not isinstance(scale, bool) for scale in (start, end)):
        raise ValueError(f"guidance must be one scale or a pair (start, end); got {guidance!r}")
    return Scale(float(start), float(end))
