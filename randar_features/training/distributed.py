"""How a step is spread over processes and devices, which changes nothing except rounding."""

import ctypes
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from randar_features.models import ImageTransformer
from randar_features.options.types import Count, check_ranges
from randar_features.precision import fastest_dtype

# Of malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
DTYPES = {"bf16": torch.bfloat16, "no": torch.float32}


def format_name(dtype: torch.dtype) -> str:
    """The key of `DTYPES` for a dtype."""
    return next(name for name, value in DTYPES.items() if value == dtype)


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """How the devices compute a step. Everything except the number format may change when a run is continued.

    Attributes:
        micro_batch_size: images in memory of one process; none: its share of the batch. Gradients are accumulated
            until the batch is complete.
        mixed_precision: "bf16" or "no"; none: bf16 if the hardware has bfloat16 products.
        gradient_checkpointing: keep only the inputs of the blocks, and compute the blocks again for the gradients.
        compile: compile the blocks with `torch.compile`.
        shard_weights: spread weights, gradients and optimizer over all processes (FSDP2), for a model that does
            not fit one device; else each process has a copy (DDP).
    """

    micro_batch_size: Count | None = None
    mixed_precision: Literal["bf16", "no"] | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    shard_weights: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, "hardware.")

    def dtype(self, device: torch.device) -> torch.dtype:
        """What matrix products run in on that device."""
        return fastest_dtype(device) if self.mixed_precision is None else DTYPES[self.mixed_precision]


def make_accelerator() -> Accelerator:
    """This process among those that train together: one, or as many as `accelerate launch` or torchrun started.

    Raises:
        ValueError: the launcher wants another way of training than this configuration's.
    """
    replicas = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    # Precision is this package's own, the same as for encoding.
    # Several processes on CPUs train together only if accelerate is told that there is nothing else.
    accelerator = Accelerator(
        mixed_precision="no", cpu=not torch.accelerator.is_available(), kwargs_handlers=[replicas]
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ValueError(
            f"the launcher is set to {accelerator.distributed_type.value}: leave that to hardware.shard_weights=true, "
            "and launch with several processes alone"
        )
    return accelerator


def micro_batches(
    batch_size: int, micro_batch_size: int | None, processes: int, process: int
) -> list[tuple[int, slice]]:
    """The parts of the global batch that one process computes, one after the other: (number of the part, rows).

    All parts are of one size, so that the mean over their losses is the batch's.

    Raises:
        ValueError: the batch does not divide into such parts.
    """
    size = micro_batch_size or batch_size // processes
    if size < 1 or batch_size % (size * processes):
        raise ValueError(
            f"a global batch of {batch_size} images does not divide into micro batches of {micro_batch_size or size} "
            f"on {processes} processes: set hardware.micro_batch_size to a divisor of {batch_size}/{processes}"
        )
    numbers = range(process, batch_size // size, processes)
    return [(number, slice(number * size, (number + 1) * size)) for number in numbers]


def shard(model: ImageTransformer, accelerator: Accelerator, dtype: torch.dtype) -> ImageTransformer:
    """Spread the weights over all processes, block by block (FSDP2); gradients are summed in float32.

    PyTorch's own `fully_shard`, since accelerate's plugin takes no CPU processes, with which it can be tested.
    """
    if accelerator.num_processes == 1:
        raise ValueError("hardware.shard_weights needs several processes: start with torchrun or `accelerate launch`")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    # Rotary angles are an input, and stay float32.
    half = None if dtype == torch.float32 else dtype
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in [*model.blocks, model]:
        fully_shard(module, mesh=mesh, mp_policy=policy)
    return model


def without_sync(accelerator: Accelerator, model: nn.Module) -> AbstractContextManager[None]:
    """Context of a backward pass whose gradients are not yet exchanged; sharded ones always are, to save memory."""
    return nullcontext() if isinstance(model, FSDPModule) else accelerator.no_sync(model)


def gathered(values: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Whole tensors on the CPU of such as may be sharded; all processes take part, those without `keep` get none."""
    whole = {}
    for name, value in values.items():
        value = value.detach()
        value = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            whole[name] = value.cpu()
    return whole


def placed_like(value: Tensor, target: Tensor) -> Tensor:
    """A whole tensor on the target's device, or this process's shard of it where the target is sharded."""
    value = value.to(target.device)
    if not isinstance(target, DTensor):
        return value
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)


def keep_freed_memory() -> bool:
    """Have the C library keep what this process frees; False where it is not the GNU one.

    Otherwise every large buffer of a step on a CPU is given back to the system and comes anew, page after page
    filled with zeros, in the next: 5 to 8 % of a step of RandAR-L's width. In exchange the process stays as
    large as it once was, and grows by some percent through gaps.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    never = -1
    return all([set_option(M_MMAP_MAX, 0), set_option(M_TRIM_THRESHOLD, never), set_option(M_TOP_PAD, 64 * 2**20)])
