"""Which number format the forward pass runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies matrices in it: CUDA, and CPUs with AMX or AVX512-BF16; else float32.

    A CPU without such instructions emulates bfloat16, at a tenth of the speed of float32.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"):
            return torch.bfloat16
    return torch.float32


def check_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    """`dtype` if matrix products can run in it (None: to be chosen), else ValueError."""
    if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be torch.float32, torch.bfloat16, torch.float16 or None; got {dtype!r}")
    return dtype


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Context in which matrix products run in `dtype`; norms and sums stay as they are.

    None leaves an autocast that the caller has switched on as it is, and is `default_dtype` otherwise. Weights
    that are in half precision themselves stay so.
    """
    check_dtype(dtype)
    if dtype is None and torch.is_autocast_enabled(device.type):
        return nullcontext()
    dtype = dtype or default_dtype(device)
    if dtype == torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype)
