"""Linear layers whose weights are laid out for a few rows at a time on a CPU, as decoding needs them."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

ROWS = 16  # the layout is chosen for about as many rows as a guided step feeds
ModuleType = TypeVar("ModuleType", bound=nn.Module)


class PackedLinear(nn.Module):
    """x W^T in float32, for inference on a CPU.

    The usual kernels rearrange a weight each time they meet it, which for few rows costs more than the
    product itself. float32 keeps the rearranged weight (oneDNN): the same numbers up to rounding. float16
    stores it in half precision and multiplies in float32 (FBGEMM): half the memory to read, and no loss for
    weights that come from a half-precision file.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        weight = weight.detach().contiguous()
        self.half_precision = dtype == torch.float16
        self.packed: Any
        if self.half_precision:
            self.packed = torch.ops.quantized.linear_prepack_fp16(weight, None)
        else:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out), float32."""
        if self.half_precision:
            return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")


def pack_weights(model: ModuleType, dtype: torch.dtype = torch.float32) -> ModuleType:
    """A copy of `model` for faster decoding on a CPU; everything but its linear layers is shared with it.

    Args:
        model: of float32 weights, on the CPU.
        dtype: float32 for the same results up to rounding, float16 to store the weights in half precision.

    Raises:
        ValueError: the model is elsewhere or not float32, has biases in linear layers, or `dtype` is another.
    """
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"weights can be packed as torch.float32 or torch.float16, got {dtype}")
    tensors = [*model.parameters(), *model.buffers()]
    kinds = {f"{tensor.dtype} on {tensor.device}" for tensor in tensors}
    if kinds != {"torch.float32 on cpu"}:
        raise ValueError(f"only float32 weights on the CPU can be packed; got {', '.join(sorted(kinds))}")
    packed = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for parent in list(packed.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                if child.bias is not None:
                    raise ValueError(f"the linear layer {name} has a bias, which packed layers do not")
                setattr(parent, name, PackedLinear(child.weight, dtype))
    return packed
