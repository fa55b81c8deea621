"""Wall time of a call, and the FLOP/s that a device reaches in a matrix product."""

import time
from collections.abc import Callable

import torch


def seconds(run: Callable[[], object], repeats: int = 3, device: torch.device | str = "cpu") -> float:
    """Shortest wall time of `repeats` runs after one to warm up."""
    device, best = torch.device(device), float("inf")
    for attempt in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if attempt:
            best = min(best, time.perf_counter() - start)
    return best


def matrix_peak(
    dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", side: int | None = None
) -> float:
    """FLOP/s of a large square matrix product, measured."""
    device = torch.device(device)
    side = side or (8192 if device.type == "cuda" else 2048)
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / seconds(lambda: left @ right, 5, device)
