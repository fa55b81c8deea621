"""Multipliers of the peak learning rate."""

from __future__ import annotations

import math


def cosine_multiplier(step: int, *, warmup: int, total: int, floor: float = 0.05) -> float:
    """s/W for s < W, then floor + (1 − floor)·(1 + cos(π·(s − W)/(T − W)))/2 up to T, and the floor after T."""
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
