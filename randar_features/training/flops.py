"""What a training step costs: operations an image, and a device's peak."""

import re
from functools import cache

import torch

from randar_features.layers.block import hidden_width
from randar_features.models import TransformerConfig
from randar_features.timing import matrix_peak

# Dense FLOP/s of bfloat16 matrix products with float32 sums, from the makers' data sheets.
PEAKS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 6000 Ada": 364e12,
    "RTX A6000": 154.8e12,
    "RTX 5090": 209.5e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}


def training_flops(sizes: TransformerConfig, kind: str = "randar", *, causal: bool = True) -> float:
    """Floating-point operations of one image's training step: the forward pass, and twice that for the backward.

    Two for each multiply-add of the matrix products and of attention; normalisations, rotations, the softmax
    and the optimizer are left out, and so is what gradient checkpointing computes again. Only what the loss
    needs is counted: not RandAR's last image token, nor its last block after attention at image tokens, nor
    logits at other positions than the N that predict.

    Args:
        sizes: the model's configuration.
        kind: its type, a key of `models.ARCHITECTURES`.
        causal: count attention as half of L², the part below the diagonal that a causal kernel computes;
            False: in full, as Chowdhery et al. (arXiv 2204.02311, appendix B) do.
    """
    if kind not in _FORWARD:
        raise ValueError(f"no operation count for a {kind!r}, only for {', '.join(_FORWARD)}")
    return 3 * 2 * _FORWARD[kind](sizes, 0.5 if causal else 1.0)


def _project(sizes: TransformerConfig) -> int:
    """Multiply-adds of queries, keys and values for one row."""
    return sizes.dim * (sizes.dim + 2 * sizes.kv_heads * sizes.head_dim)


def _after_attention(sizes: TransformerConfig) -> int:
    """Multiply-adds of one row after attention: its output projection and the feed-forward."""
    return sizes.dim * (sizes.dim + 3 * hidden_width(sizes.dim, sizes.ffn_multiple_of))


def _logits(sizes: TransformerConfig) -> int:
    return sizes.num_tokens * sizes.dim * sizes.vocab_size


def _attention(sizes: TransformerConfig, rows: int, share: float) -> float:
    return 2 * rows * rows * sizes.dim * share


def _randar(sizes: TransformerConfig, share: float) -> float:
    rows = 2 * sizes.num_tokens  # [class] [P1] [x1] … [PN]
    blocks = sizes.num_layers * (rows * (_project(sizes) + _after_attention(sizes)) + _attention(sizes, rows, share))
    return blocks - (rows - sizes.num_tokens) * _after_attention(sizes) + _logits(sizes)


def _llamagen(sizes: TransformerConfig, share: float) -> float:
    """Also PAR's: its three special tokens take the places of the last three image tokens, which predict nothing."""
    rows = sizes.num_tokens
    blocks = sizes.num_layers * (rows * (_project(sizes) + _after_attention(sizes)) + _attention(sizes, rows, share))
    return blocks + _logits(sizes)


def _arpg(sizes: TransformerConfig, share: float) -> float:
    """Half of the blocks on the content, the other half on the queries with one set of keys and values."""
    rows, dim = sizes.num_tokens, sizes.dim
    shared = _project(sizes) - dim * dim
    queries = rows * (dim * dim + _after_attention(sizes))
    content = rows * (_project(sizes) + _after_attention(sizes))
    half = sizes.num_layers // 2
    blocks = half * (content + _attention(sizes, rows, share)) + half * (queries + _attention(sizes, rows, share))
    return blocks + rows * shared + _logits(sizes)


_FORWARD = {"randar": _randar, "llamagen": _llamagen, "par": _llamagen, "arpg": _arpg}


@cache
def peak_flops(device: torch.device | str = "cpu", dtype: torch.dtype = torch.bfloat16) -> float:
    """Dense FLOP/s of matrix products in `dtype` on one device.

    Half precision on a known NVIDIA GPU: the data sheet's. All else, such as a CPU or a share of a GPU, is
    measured by a matrix product, once a process.
    """
    device = torch.device(device)
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        known = data_sheet_peak(torch.cuda.get_device_name(device))
        if known is not None:
            return known
    return matrix_peak(dtype, device, 8192 if device.type == "cuda" else 1024)


def data_sheet_peak(name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a GPU by the name that CUDA gives it; None for an unknown one or a part of one."""
    if "MIG" in name:
        return None
    found = [model for model in PEAKS if re.search(rf"\b{model}\b", name, re.IGNORECASE)]
    return PEAKS[max(found, key=len)] if found else None
