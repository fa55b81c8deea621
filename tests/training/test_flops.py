from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from randar_features.models import ARCHITECTURES, RandARConfig, TransformerConfig
from randar_features.training import flops
from randar_features.training.flops import data_sheet_peak, peak_flops, training_flops
from randar_features.training.generator.objective import next_token_loss


def sizes(**options: int) -> TransformerConfig:
    """Hidden width 32 at width 8."""
    return TransformerConfig(
        **{"num_layers": 4, "num_heads": 2, "dim": 8, "vocab_size": 10, "num_tokens": 4, "num_classes": 3}
        | {"ffn_multiple_of": 32}
        | options
    )


QKV, WO, FFN, LOGITS = 3 * 8 * 8, 8 * 8, 3 * 8 * 32, 4 * 8 * 10


def test_randar_by_hand():
    """Sequence 8, 3 whole blocks, and the last one behind attention for the 4 instructions alone."""
    attention = 2 * 8 * 8 * 8 / 2
    whole = 8 * (QKV + WO + FFN) + attention
    last = 8 * QKV + 4 * (WO + FFN) + attention
    assert training_flops(sizes()) == 6 * (3 * whole + last + LOGITS)


@pytest.mark.parametrize("kind", ["llamagen", "par"])
def test_raster_models_by_hand(kind: str):
    """Sequence 4: the class and all tokens but the last."""
    assert training_flops(sizes(), kind) == 6 * (4 * (4 * (QKV + WO + FFN) + 2 * 4 * 4 * 8 / 2) + LOGITS)


def test_arpg_by_hand():
    """2 blocks of content, 2 of queries without keys and values of their own, which are projected once."""
    attention = 2 * 4 * 4 * 8 / 2
    content, queries = 4 * (QKV + WO + FFN) + attention, 4 * (QKV // 3 + WO + FFN) + attention
    assert training_flops(sizes(), "arpg") == 6 * (2 * content + 2 * queries + 4 * QKV * 2 / 3 + LOGITS)


def test_grouped_queries_by_hand():
    attention = 2 * 4 * 4 * 8 / 2
    block = 4 * (8 * 8 + 2 * 8 * 4 + WO + FFN) + attention
    assert training_flops(sizes(num_kv_heads=1), "llamagen") == 6 * (4 * block + LOGITS)


def test_published_size():
    """RandAR-L, 300 M parameters in blocks: about 6 operations a parameter and row of 512, and attention's."""
    large = RandARConfig(num_layers=24, num_heads=16, dim=1024, vocab_size=16384, num_tokens=256, num_classes=1000)
    per_row = 24 * (4 * 1024**2 + 3 * 1024 * 2816)
    rest = 256 * 1024 * 16384 - 256 * (1024**2 + 3 * 1024 * 2816)
    assert training_flops(large) == 6 * (512 * per_row + 24 * 512 * 512 * 1024 + rest)
    assert training_flops(large) == pytest.approx(996.5e9, rel=1e-4)
    assert training_flops(large, causal=False) / training_flops(large) == pytest.approx(1.038, abs=1e-3)


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="no operation count for a 'gpt', only for randar, llamagen, par, arpg"):
        training_flops(sizes(), "gpt")


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("num_kv_heads", [None, 2])
def test_equals_what_pytorch_counts(kind: str, num_kv_heads: int | None):
    architecture, configuration = ARCHITECTURES[kind]
    config = configuration(
        num_layers=4, num_heads=4, dim=32, vocab_size=20, num_tokens=16, num_classes=3, num_kv_heads=num_kv_heads
    )
    model = architecture(config)
    tokens = torch.arange(32).view(2, 16) % 20
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        next_token_loss(model, tokens, None, model.own_order()).backward()
    assert counter.get_total_flops() == 2 * training_flops(config, kind, causal=False)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla T4", None),
    ],
)
def test_peaks_by_name(name: str, peak: float | None):
    assert data_sheet_peak(name) == peak


def test_the_peak_comes_from_the_data_sheet_only_in_half_precision(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(flops, "matrix_peak", lambda dtype, device, side: 4e14)
    peak_flops.cache_clear()
    assert peak_flops("cuda:0") == 989e12
    assert peak_flops("cuda:0", torch.float32) == 4e14
    peak_flops.cache_clear()


def test_a_cpus_peak_is_measured_once(monkeypatch: pytest.MonkeyPatch):
    measurements = iter([1e11])
    monkeypatch.setattr(flops, "matrix_peak", lambda dtype, device, side: next(measurements))
    peak_flops.cache_clear()
    assert [peak_flops("cpu", torch.float32) for _ in range(2)] == [1e11] * 2
    peak_flops.cache_clear()
