from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.throughput import forward_flops, straightforward
from randar_features import encode_tokens, sequence
from tests.golden.models import golden, golden_randar


@pytest.mark.parametrize("context", sequence.CONTEXTS)
@pytest.mark.parametrize("layer", [0, 2])
def test_both_ways_give_the_same_features(context: str, layer: int):
    model, tokens = golden_randar(), golden("randar_small")[0]["idx"]
    ours = encode_tokens(model, tokens, layers=layer, context=context)[:, 0].flatten(1, 2)
    torch.testing.assert_close(straightforward(model, tokens, layer, context), ours, atol=1e-5, rtol=1e-4)


def test_operations_of_the_straightforward_way_equal_those_counted():
    model, tokens = golden_randar(), golden("randar_small")[0]["idx"][:1]
    with FlopCounterMode(display=False) as counter:
        straightforward(model, tokens, 1, "reverse")
    expected = forward_flops(model, layers=3, context="reverse", logits=True, causal=False)
    assert counter.get_total_flops() == expected


def test_operations_of_the_fast_way_by_hand():
    """Sequence 65, D 64, hidden 256; the last of two blocks does what follows attention for 16 of 65 rows."""
    qkv, wo, ffn, attention = 3 * 64 * 64, 64 * 64, 3 * 64 * 256, 65 * 65 * 64
    first = 65 * (qkv + wo + ffn) + attention
    last = 65 * qkv + 16 * (wo + ffn) + attention
    assert forward_flops(golden_randar(), layers=2, context="reverse") == 2 * (first + last)
