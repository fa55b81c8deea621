"""A model that is ready to decode: its weights packed where that is possible."""

import os
from dataclasses import replace

import torch

from randar_features.hub import Model, load_model
from randar_features.layers.packed_linear import pack_weights
from randar_features.precision import DType, compute_dtype, name_of


def load_for_decoding(name: str, device: str | None, dtype: DType) -> tuple[Model, str]:
    """The model, with weights packed in a number format (`pack_weights`) where that is possible, and the format's name.

    `device` None: this process's own GPU (LOCAL_RANK, as torchrun sets it) where there is one, else the CPU.
    """
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    own = compute_dtype(dtype, torch.device(device), torch.float32)
    if not can_pack(own, torch.device(device)):
        return load_model(name, device, own), name_of(own)
    model = load_model(name, device)
    return replace(model, transformer=pack_weights(model.transformer, own)), name_of(own)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether packed weights are faster and this build of PyTorch has the kernels, which it may lack on ARM."""
    if device.type != "cpu":
        return dtype == torch.bfloat16
    if dtype == torch.float16:
        return "fbgemm" in torch.backends.quantized.supported_engines
    return dtype == torch.bfloat16 or torch.backends.mkldnn.is_available()
