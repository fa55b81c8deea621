"""Linear layers for decoding: their weights are converted to a number format and laid out once, not at each call."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FORMATS = (torch.float32, torch.bfloat16, torch.float16)
TOKENS = 16  # the layout is chosen for about as many tokens as a guided step feeds
NOT_SAVED = "packed weights cannot be saved: save the model that they were packed from, and call pack_weights again"
ModuleType = TypeVar("ModuleType", bound=nn.Module)


class PackedLinear(nn.Module):
    """x W^T for inference, with the weight in a number format.

    The usual kernels of a CPU rearrange a weight at each call, which takes longer than the product where tokens are
    few. There float32, and bfloat16 if the processor multiplies in it, hold the rearranged weight (oneDNN); float16
    is stored so and multiplied in float32 (FBGEMM). Elsewhere the weight is held as it is in that format.
    It cannot be saved: a state dict without its weight would look whole. A copy of a model shares it, since nothing
    changes its weight.

    Attributes:
        format: in which the weight is stored.
        dtype: of what it gives.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        weight = weight.detach().contiguous()
        on_cpu = weight.device.type == "cpu"
        self.fbgemm = on_cpu and dtype == torch.float16
        self.onednn = on_cpu and (dtype == torch.float32 or (dtype == torch.bfloat16 and _onednn_takes_bfloat16()))
        self.format, self.dtype = dtype, torch.float32 if self.fbgemm else dtype
        self.packed: Any = weight if self.fbgemm else weight.to(dtype)
        if self.fbgemm:
            self.packed = torch.ops.quantized.linear_prepack_fp16(weight, None)
        elif self.onednn:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.packed, TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        x = x.to(self.dtype)
        if self.fbgemm:
            return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        if self.onednn:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")
        return F.linear(x, self.packed)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedLinear":
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(NOT_SAVED)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise TypeError(NOT_SAVED)


def _onednn_takes_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pack_weights(model: ModuleType, dtype: torch.dtype | str = torch.float32) -> ModuleType:
    """Copy `model` for faster decoding. The copy shares everything with it except the linear layers.

    With bfloat16 the output layer stays in float32, because logits in bfloat16 have ties.

    Args:
        model: a model with float32 weights.
        dtype: torch.float32: on a CPU, the same results up to rounding. torch.float16: weights are stored in half
            precision. torch.bfloat16: products, keys and values are in bfloat16; sums of the residual stream, norms
            and logits in float32.

    Raises:
        TypeError: it is no module, or is packed already.
        ValueError: the model is not float32 or has biases in linear layers, or `dtype` is none of these.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a module is packed, such as model.transformer; got {type(model).__name__}")
    if (given := packed_format(model)) is not None:
        raise TypeError(f"the model is packed already, in {given}: give the one that it was packed from")
    tensors = [*model.parameters(), *model.buffers()]
    products = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if products not in FORMATS:
        raise ValueError(f"weights can be packed as {', '.join(map(str, FORMATS))}; got {dtype}")
    kinds = {str(tensor.dtype) for tensor in tensors}
    if kinds != {"torch.float32"}:
        raise ValueError(f"only float32 weights can be packed; got {', '.join(sorted(kinds))}")
    packed = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    output = getattr(packed, "output_layer", None)
    for parent in list(packed.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                if child.bias is not None:
                    raise ValueError(f"the linear layer {name} has a bias, which packed layers do not")
                exact = child is output and products == torch.bfloat16
                setattr(parent, name, PackedLinear(child.weight, torch.float32 if exact else products))
    return packed


def product_dtype(model: nn.Module) -> torch.dtype:
    """What the linear layers of a model give without autocast, and so the format of keys and values."""
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Linear | PackedLinear))
    return first.dtype if isinstance(first, PackedLinear) else first.weight.dtype


def packed_format(model: nn.Module) -> torch.dtype | None:
    """The format that `pack_weights` packed a model in; None if it did not make it."""
    return next((layer.format for layer in model.modules() if isinstance(layer, PackedLinear)), None)


def check_packed(model: nn.Module, stated: torch.dtype) -> None:
    """ValueError if the weights of a model are packed in another format than the stated one."""
    packed = packed_format(model)
    if packed is not None and packed != stated:
        stated_name, packed_name = (str(one).removeprefix("torch.") for one in (stated, packed))
        raise ValueError(
            f"{stated_name} was stated, but the weights are packed in {packed_name}: give the transformer that "
            "they were packed from, or leave the format out (None)"
        )
