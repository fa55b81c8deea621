"""Number formats: in which one a forward pass computes, decided here alone.

Every inference call computes in the format of the model's weights, which is float32 unless `load_model(dtype=…)` says
otherwise, on every machine: bfloat16 changes the ten nearest neighbours of a quarter of the images of a collection.
`dtype="bfloat16"`, `"float16"` or `"float32"` states another format, `dtype="auto"` takes the fastest of this machine,
and a `torch.autocast` of the caller is honoured where no format is stated. What was used is recorded with the numbers.

Training has an option of its own, `hardware.mixed_precision`, whose default is the fastest format.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn

COMPUTE_FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHT_FORMATS = COMPUTE_FORMATS | {"float64": torch.float64}
AUTO = "auto"

DType = torch.dtype | str | None
"""A format as a caller states it: a torch dtype, its name, "auto", or None for the format of the weights."""

Module = TypeVar("Module", bound=nn.Module)


def fastest_dtype(device: torch.device) -> torch.dtype:
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


def check_dtype(dtype: DType) -> DType:
    """`dtype` if a forward pass can compute in it: one of `COMPUTE_FORMATS` as torch has it, "auto" or None.

    Raises:
        ValueError: it is anything else.
    """
    if isinstance(dtype, str) and dtype in COMPUTE_FORMATS:
        return COMPUTE_FORMATS[dtype]
    if dtype is None or (isinstance(dtype, str) and dtype == AUTO):
        return dtype
    if isinstance(dtype, torch.dtype) and dtype in COMPUTE_FORMATS.values():
        return dtype
    names = ", ".join(f'"{name}"' for name in COMPUTE_FORMATS)
    raise ValueError(f'dtype={dtype!r}: expected {names} (or the torch dtype of that name), "auto" or None')


def weights_dtype(dtype: DType) -> torch.dtype:
    """The format in which weights are held: one of `WEIGHT_FORMATS` or its name; float32 for None.

    Raises:
        TypeError: it is anything else.
    """
    found = WEIGHT_FORMATS.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is None:
        return torch.float32
    if not isinstance(found, torch.dtype) or found not in WEIGHT_FORMATS.values():
        raise TypeError(f"dtype={dtype!r}: expected one of {', '.join(WEIGHT_FORMATS)}, as a name or a torch dtype")
    return found


def compute_dtype(dtype: DType, device: torch.device, weights: torch.dtype) -> torch.dtype:
    """The format that a call computes in: the stated one, else that of the caller's autocast, else the weights' own."""
    dtype = check_dtype(dtype)
    if isinstance(dtype, str):
        return fastest_dtype(device)
    if dtype is not None:
        return dtype
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else weights


def name_of(dtype: torch.dtype) -> str:
    """Its name, "float32"."""
    return str(dtype).removeprefix("torch.")


def format_of(dtype: torch.dtype, weights: torch.dtype) -> str:
    """What a call computed in, for records: "bfloat16", or "bfloat16, weights in bfloat16" where these were too."""
    held = "" if weights == torch.float32 else f", weights in {name_of(weights)}"
    return f"{name_of(dtype)}{held}"


def parse_format(text: str) -> tuple[torch.dtype, torch.dtype]:
    """What `format_of` was given: the format of the products, and that of the weights."""
    products, _, weights = text.partition(", weights in ")
    return weights_dtype(products), weights_dtype(weights or None)


def can_compute(dtype: torch.dtype, weights: torch.dtype) -> bool:
    """Whether weights held in that format can be computed with in `dtype`: in their own, and from float32 in any.

    Autocast would mix two half formats, which no kernel takes; what is held in a third format is first made float32,
    which is exact but for float64.
    """
    return weights in (dtype, torch.float32)


def fitted(module: Module, dtype: torch.dtype, weights: torch.dtype) -> Module:
    """A module that can compute in `dtype`: itself, or a copy in float32; see `can_compute`."""
    return module if can_compute(dtype, weights) else copy.deepcopy(module).to(torch.float32)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Context in which matrix products run in `dtype`, norms and sums as they are; None: as the caller has it."""
    if dtype is None:
        return nullcontext()
    if dtype not in (torch.bfloat16, torch.float16):
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype)


def computing_in(
    dtype: torch.dtype | None, device: torch.device, weights: torch.dtype | None = None
) -> AbstractContextManager[object]:
    """Context of an inference call in the format that `compute_dtype` chose, None: as the caller has it.

    float32 means float32 there: TF32 is off, which PyTorch switches on for convolutions on CUDA. In `torch.compile`
    and `torch.export` the switch stays as it is, since no graph can hold it.

    Args:
        dtype: of the products.
        device: where they are computed.
        weights: the format in which the weights are held; where it is `dtype`, no product needs a conversion.

    Raises:
        ValueError: weights in that format cannot compute in `dtype`, see `can_compute`.
    """
    if dtype is not None and weights is not None and not can_compute(dtype, weights):
        raise ValueError(
            f"{name_of(dtype)} was stated, but the weights are held in {name_of(weights)} now: bring them back to "
            "float32, or leave the format out (None)"
        )
    own = torch.float32 if dtype is not None and dtype == weights else dtype
    if torch.compiler.is_compiling():
        return autocast(device, own)
    return _exactly(device, own)


@contextmanager
def _exactly(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    with full_float32(), autocast(device, dtype):
        yield


@contextmanager
def full_float32() -> Iterator[None]:
    """Products of float32 in full precision inside, whatever `torch.set_float32_matmul_precision` says outside."""
    backends: Any = torch.backends  # whose type stubs lack the switches
    switches = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.rnn,
    )
    reduced = [(switch, switch.fp32_precision) for switch in switches if switch.fp32_precision not in ("none", "ieee")]
    for switch, _ in reduced:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        for switch, before in reduced:
            switch.fp32_precision = before
