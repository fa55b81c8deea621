"""What a number was measured on, and from which code."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch


def describe(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """Processor or GPU, cores, threads, versions and the commit."""
    device = torch.device(device)
    about: dict[str, str | int] = {
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
    }
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    return about


def processor_name() -> str:
    """Model name of the CPU, with its widest matrix instructions."""
    capabilities = torch.cpu.get_capabilities()
    name = capabilities.get("cpu_name") or platform.processor() or platform.machine()
    extensions = [part for part in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2") if capabilities.get(part)]
    return f"{name} ({extensions[0] if extensions else 'no vector extension known'})"


def commit() -> str:
    """Short hash of the checked-out commit, with "+changes" if tracked files differ; "unknown" without git."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=folder, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if changed else "")


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
