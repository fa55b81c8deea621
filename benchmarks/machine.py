"""The machine and the code of a measurement."""

import platform
import subprocess
from functools import cache
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


@cache
def commit() -> str:
    """Short hash of the checked-out commit, with "+changes" if tracked files differ; "unknown" without git.

    As a process first finds it, since that is the code that it runs.
    """
    folder = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=folder, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if changed else "")
