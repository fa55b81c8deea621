from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from randar_features import sequence
from randar_features.features import FeatureSpec
from randar_features.features.encode import encode_specs
from randar_features.layers.attention import Attention
from randar_features.layers.block import hidden_width
from randar_features.layers.rope import rotate
from randar_features.models import RandAR, RandARConfig
from randar_features.models.base import order_of
from tests.golden.models import FOLDER, golden, golden_randar
from tests.published import randar_states


@pytest.fixture(scope="module")
def model() -> RandAR:
    return golden_randar()


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return golden("randar_small")[0]


def test_state_dict_has_the_published_names_and_shapes_in_order(model: RandAR):
    published = json.loads((FOLDER / "randar_small_state_dict.json").read_text())
    assert [(name, list(value.shape)) for name, value in model.state_dict().items()] == list(published.items())


def test_logits_and_loss_equal_the_published(model: RandAR, recorded: dict[str, torch.Tensor]):
    logits = model(recorded["idx"], recorded["cond"], recorded["order"])
    torch.testing.assert_close(logits, recorded["logits"], atol=1e-4, rtol=0)
    loss = F.cross_entropy(logits.flatten(0, 1), sequence.to_order(recorded["idx"], recorded["order"]).flatten())
    torch.testing.assert_close(loss, recorded["loss"][0], atol=1e-5, rtol=0)


def test_full_size_model_equals_the_published():
    """RandAR-L: logits, loss and the features of a middle and of the last layer."""
    recorded, large = golden("randar_l_llamagen")[0], golden_randar("randar_l_llamagen")
    tokens, order = recorded["idx"], recorded["order"]
    with torch.inference_mode():
        logits = large(tokens, recorded["cond"], order)
        torch.testing.assert_close(logits[:, ::32, ::64], recorded["logits_every32"], atol=2e-3, rtol=0)
        loss = F.cross_entropy(logits.flatten(0, 1), sequence.to_order(tokens, order).flatten())
        torch.testing.assert_close(loss, recorded["loss"][0], atol=2e-3, rtol=0)
        specs = [FeatureSpec("reverse", *place) for place in (("image", 11), ("image", 23), ("instruction", 11))]
        for spec, maps in encode_specs(large, tokens, specs, order=order).items():
            picked = maps.flatten(1, 2)[:, ::16, ::8]
            expected = recorded[f"features.reverse.layer{spec.layer}.{spec.read}.every16"]
            torch.testing.assert_close(picked, expected, atol=2e-3, rtol=0)


def test_equals_a_slow_explicit_softmax_restatement(model: RandAR, recorded: dict[str, torch.Tensor]):
    tokens, order = recorded["idx"][:1], recorded["order"][:1]
    states = randar_states(
        dict(model.state_dict()),
        heads=4,
        grid=4,
        tokens=tokens[0].tolist(),
        class_index=int(recorded["cond"][0]),
        shown=order[0].tolist(),
    )
    logits = model.logits(states[-1][None, 1::2])
    torch.testing.assert_close(model(tokens, recorded["cond"][:1], order), logits, atol=1e-5, rtol=1e-5)


def test_a_later_token_changes_no_earlier_logit(model: RandAR, recorded: dict[str, torch.Tensor]):
    tokens, order = recorded["idx"][:1], recorded["order"][:1]
    before = model(tokens, recorded["cond"][:1], order)[0]
    for position in range(16):
        changed = tokens.clone()
        changed[0, order[0, position]] = (changed[0, order[0, position]] + 1) % 64
        after = model(changed, recorded["cond"][:1], order)[0]
        # The token at `position` is predicted from what comes before it, so its own logits stay too.
        assert torch.equal(after[: position + 1], before[: position + 1])
        assert ((after[position + 1 :] - before[position + 1 :]).abs().amax(-1) > 1e-4).all()


def test_no_class_is_the_null_class(model: RandAR, recorded: dict[str, torch.Tensor]):
    tokens = recorded["idx"]
    assert torch.equal(model(tokens), model(tokens, torch.full((3,), 10)))
    assert not torch.allclose(model(tokens), model(tokens, recorded["cond"]))


def test_one_order_for_all_equals_one_for_each(model: RandAR, recorded: dict[str, torch.Tensor]):
    order = recorded["order"][0]
    shared = model(recorded["idx"], recorded["cond"], order)
    torch.testing.assert_close(
        shared, model(recorded["idx"], recorded["cond"], order.expand(3, -1)), atol=1e-6, rtol=1e-6
    )


def test_images_do_not_see_each_other(model: RandAR, recorded: dict[str, torch.Tensor]):
    together = model(recorded["idx"], recorded["cond"], recorded["order"])
    for i in range(3):
        row = slice(i, i + 1)
        alone = model(recorded["idx"][row], recorded["cond"][row], recorded["order"][row])
        torch.testing.assert_close(alone, together[row], atol=1e-5, rtol=1e-5)


def test_rotary_angles_survive_half_precision(model: RandAR):
    half = golden_randar().to(torch.bfloat16)
    assert half.output.weight.dtype == torch.bfloat16
    assert half.rotary.dtype == torch.float32
    assert torch.equal(half.rotary, model.rotary)


def test_half_precision_stays_close(model: RandAR, recorded: dict[str, torch.Tensor]):
    half = golden_randar().to(torch.bfloat16)
    logits = half(recorded["idx"], recorded["cond"], recorded["order"])
    assert logits.dtype == torch.float32
    similarity = F.cosine_similarity(logits, recorded["logits"], dim=-1)
    assert similarity.min() > 0.99


def test_grouped_queries_equal_repeated_keys_and_values():
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "num_layers": 1, "num_heads": 4, "dim": 16, "vocab_size": 4, "num_tokens": 4, "num_classes": 1,
        "residual_dropout": 0.0,
    }  # fmt: skip
    grouped = Attention(RandARConfig(**sizes, num_kv_heads=2))
    full = Attention(RandARConfig(**sizes))
    queries, keys, values = grouped.wqkv.weight.data.split([16, 8, 8])
    repeated = [part.unflatten(0, (2, 4)).repeat_interleave(2, dim=0).flatten(0, 1) for part in (keys, values)]
    full.wqkv.weight.data = torch.cat([queries, *repeated])
    full.wo.weight.data = grouped.wo.weight.data
    x, rotary = torch.randn(2, 5, 16), torch.randn(1, 5, 2, 2)
    torch.testing.assert_close(grouped(x, rotary), full(x, rotary))


def test_feed_forward_widths_of_the_family():
    assert [hidden_width(dim) for dim in (64, 768, 1024, 1280)] == [256, 2048, 2816, 3584]


def test_fresh_weights():
    config = RandARConfig(num_layers=2, num_heads=2, dim=32, vocab_size=512, num_tokens=16, num_classes=200)
    model = RandAR(config)
    assert not model.output.weight.any()
    assert model.norm.weight.eq(1).all()
    assert 0.018 < model.tok_embeddings.weight.std() < 0.022
    again = RandAR(config)
    for fresh in (model, again):
        fresh.initialize(torch.Generator().manual_seed(1))
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": torch.zeros(2, 15, dtype=torch.long)}, r"shape \(B, 16\); got \(2, 15\)"),
        ({"tokens": torch.zeros(2, 16)}, "torch.float32"),
        ({"tokens": torch.zeros(2, 16, dtype=torch.bool)}, "torch.bool"),
        ({"tokens": torch.full((2, 16), 64, dtype=torch.uint16)}, "must lie in 0 … 63; got 64 … 64"),
        ({"tokens": torch.full((2, 16), 64)}, "must lie in 0 … 63; got 64 … 64"),
        ({"classes": torch.tensor([0, 11])}, "0 … 9, or be 10 for the null class; got 0 … 11"),
        ({"classes": torch.tensor([1])}, r"classes must be 2 integers"),
        ({"classes": [1, 11]}, "got 1 … 11"),
        ({"classes": [True, False]}, "torch.bool"),
        ({"classes": [0.5, 1]}, "torch.float32"),
        ({"order": [0] * 16}, "no permutation"),
        ({"order": range(15)}, "an order must hold 16 integers"),
        ({"order": torch.zeros(16, dtype=torch.bool)}, "torch.bool"),
        ({"order": torch.arange(16).expand(3, -1)}, "3 orders for 2 images"),
        ({"order": torch.zeros(16, dtype=torch.long)}, "no permutation"),
    ],
)
def test_bad_input_is_refused(model: RandAR, arguments: dict[str, Any], message: str):
    good = {"tokens": torch.zeros(2, 16, dtype=torch.long)}
    with pytest.raises(ValueError, match=message):
        model(**{**good, **arguments})


@pytest.mark.parametrize("classes", [["lion", "cat"], {"lion": 1}, iter([1, 2])])
def test_what_holds_no_numbers_of_classes_is_refused(model: RandAR, classes: Any):
    with pytest.raises(TypeError, match=r"classes must be 2 integers, .*got .*(lion|iterator)"):
        model(torch.zeros(2, 16, dtype=torch.long), classes=classes)


@pytest.mark.parametrize("order", [torch.arange(15), torch.arange(16.0), torch.zeros(1, 1, 16, dtype=torch.long)])
def test_orders_on_an_accelerator_are_checked_without_their_values(model: RandAR, order: torch.Tensor):
    with pytest.raises(ValueError, match="an order must hold 16 integers"):
        order_of(model, order.to("meta"), 2)
    with pytest.raises(ValueError, match="3 orders for 2 images"):
        order_of(model, torch.empty(3, 16, dtype=torch.long, device="meta"), 2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32])
def test_tokens_of_any_integer_dtype(model: RandAR, recorded: dict[str, torch.Tensor], dtype: torch.dtype):
    tokens, order = recorded["idx"], recorded["order"]
    assert torch.equal(model(tokens.to(dtype), order=order), model(tokens, order=order))


@pytest.mark.parametrize("convert", [list, np.array, torch.tensor])
def test_classes_and_orders_as_lists_and_arrays(
    model: RandAR, recorded: dict[str, torch.Tensor], convert: Callable[[Any], Any]
):
    tokens, classes, order = recorded["idx"], recorded["cond"], recorded["order"]
    expected = model(tokens, classes, order)
    assert torch.equal(model(tokens, convert(classes.tolist()), convert(order.tolist())), expected)
    assert torch.equal(model(tokens, classes.byte(), order.byte()), expected)
    shared = model(tokens, convert(classes.tolist()), convert(order[0].tolist()))
    assert torch.equal(shared, model(tokens, classes, order[0]))


def test_a_learned_instruction_is_of_its_location_alone(model: RandAR, recorded: dict[str, torch.Tensor]):
    free = RandAR(replace(model.config, free_instructions=True)).eval()
    free.load_state_dict(model.state_dict() | {"pos_instruct_embeddings": model.instructions().detach().clone()})
    tokens, order = recorded["idx"][:1], recorded["order"][:1]
    logits = free(tokens, order=order)
    assert torch.equal(logits, model(tokens, order=order))
    with torch.no_grad():
        free.pos_instruct_embeddings[order[0, 9]] += 1
    changed = (free(tokens, order=order) - logits).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [False] * 9 + [True] * 7
    with pytest.raises(ValueError, match="free_instructions = 1 "):
        replace(model.config, free_instructions=1)


def test_one_class_is_for_all(model: RandAR, recorded: dict[str, torch.Tensor]):
    assert torch.equal(model(recorded["idx"], 7), model(recorded["idx"], torch.full((3,), 7)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers = 0 must be an integer, 1 to 1000"),
        ({"num_heads": 0}, "num_heads = 0 must be"),
        ({"dim": 0}, "dim = 0 must be"),
        ({"dim": "64"}, "dim = '64' must be an integer"),
        ({"vocab_size": -1}, "vocab_size = -1 must be"),
        ({"num_tokens": 0}, "num_tokens = 0 must be"),
        ({"num_classes": 0}, "num_classes = 0 must be"),
        ({"num_classes": 2.0}, r"num_classes = 2\.0 must be"),
        ({"num_kv_heads": 0}, "num_kv_heads = 0 must be"),
        ({"ffn_multiple_of": 0}, "ffn_multiple_of = 0 must be"),
        ({"num_heads": 3}, "dim = 64 must divide into num_heads = 3"),
        ({"num_heads": 32}, "divides by 4"),
        ({"num_kv_heads": 3}, "num_heads = 4 must be a multiple of num_kv_heads = 3"),
        ({"num_tokens": 15}, "square grid"),
    ],
)
def test_bad_sizes_are_refused(changes: dict[str, Any], message: str):
    sizes: dict[str, Any] = {
        "num_layers": 1,
        "num_heads": 4,
        "dim": 64,
        "vocab_size": 8,
        "num_tokens": 16,
        "num_classes": 2,
    }
    with pytest.raises(ValueError, match=message):
        RandARConfig(**{**sizes, **changes})


@pytest.mark.cuda
def test_cuda_equals_the_published(recorded: dict[str, torch.Tensor]):
    model = golden_randar().to("cuda")
    logits = model(recorded["idx"].cuda(), recorded["cond"].cuda(), recorded["order"].cuda())
    torch.testing.assert_close(logits.cpu(), recorded["logits"], atol=1e-3, rtol=0)


def test_rotation_is_the_same_in_a_compiled_graph(model: RandAR, monkeypatch: pytest.MonkeyPatch):
    x = torch.randn(2, 17, 4, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    angles = model.rotary[None].expand(1, -1, -1, -1)
    expected = rotate(x, angles)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(rotate(x, angles), expected)
