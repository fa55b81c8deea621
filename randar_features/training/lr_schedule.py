"""Multipliers of the peak learning rate: s/W for the first W steps, then one of several ways down."""

from __future__ import annotations

import math


def cosine_multiplier(step: int, *, warmup: int, total: int, floor: float = 0.05) -> float:
    """s/W for s < W, then floor + (1 − floor)·(1 + cos(π·(s − W)/(T − W)))/2 up to T, and the floor after T."""
    if step < warmup:
        return step / warmup
    return floor + (1 - floor) * (1 + math.cos(math.pi * _progress(step, warmup, total))) / 2


def linear_multiplier(step: int, *, warmup: int, total: int, floor: float = 0.05) -> float:
    """s/W for s < W, then in a straight line from 1 down to the floor at T."""
    if step < warmup:
        return step / warmup
    return 1 - (1 - floor) * _progress(step, warmup, total)


def constant_multiplier(step: int, *, warmup: int, total: int, floor: float = 0.05) -> float:
    """s/W for s < W, then 1."""
    return min(1.0, step / warmup) if warmup else 1.0


def _progress(step: int, warmup: int, total: int) -> float:
    return min(1.0, (step - warmup) / max(1, total - warmup))


SCHEDULES = {"cosine": cosine_multiplier, "constant": constant_multiplier, "linear": linear_multiplier}
