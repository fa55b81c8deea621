"""What holds for all four generators, and what is particular to LlamaGen, PAR and ARPG."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.reference import plain
from randar_features import sequence
from randar_features.generation import new_cache
from randar_features.generation.stepping import ARPGStepper, PARStepper, stepper_of
from randar_features.models import ARCHITECTURES, ARPG, ARPGConfig, ImageTransformer, PARConfig
from randar_features.models.base import order_of, several_orders
from randar_features.training.generator.objective import training_order
from tests.golden.models import FOLDER, golden, golden_model, raster_tokens
from tests.published import arpg_content, arpg_queries, causal, par_rule, seen_by

NAMES = ("randar_small", "llamagen_small", "par_small", "arpg_small")
SIZES: dict[str, Any] = {
    "num_layers": 2, "num_heads": 2, "dim": 32, "vocab_size": 50, "num_tokens": 16, "num_classes": 5,
    "ffn_multiple_of": 16,
}  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> ImageTransformer:
    return golden_model(name)


@pytest.fixture(scope="module")
def given(name: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tokens, classes and order of the golden file."""
    recorded = golden(name)[0]
    return raster_tokens(name), recorded["cond"], recorded.get("order")


def changed_logits(model: ImageTransformer, name: str) -> Tensor:
    """(changed place in the order, place of the logits): the largest change of a logit."""
    tokens, classes, order = raster_tokens(name)[:1], golden(name)[0]["cond"][0], golden(name)[0].get("order")
    order = order_of(model, None if order is None else order[:1], 1)
    variants = tokens.repeat(16, 1)
    variants[range(16), order[0]] = (variants[range(16), order[0]] + 7) % 64
    before, after = model(tokens, classes, order), model(variants, classes, order)
    return (after - before).abs().amax(-1)


def test_state_dict_has_the_published_names_and_shapes(name: str, model: ImageTransformer):
    published = json.loads((FOLDER / f"{name}_state_dict.json").read_text())
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == published


def test_logits_and_loss_equal_the_published(name: str, model: ImageTransformer, given):
    tokens, _, order = given
    logits, recorded = model(*given), golden(name)[0]
    torch.testing.assert_close(logits, recorded["logits"], atol=1e-4, rtol=0)
    wanted = sequence.to_order(tokens, order_of(model, order, 3))
    loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
    torch.testing.assert_close(loss, recorded["loss"][0], atol=1e-5, rtol=0)


def test_a_token_is_predicted_from_those_before_it_or_before_its_group(name: str, model: ImageTransformer):
    """PAR's first four tokens stand alone; the others' groups of four are predicted together."""
    changed, places = changed_logits(model, name), torch.arange(16)
    first = torch.where(places < 4, places, places // 4 * 4) if name == "par_small" else places
    seen = places[:, None] < first[None]
    assert (changed[~seen] == 0).all()
    assert (changed[seen] > 1e-5).all()


def test_modes_differ_in_dropout_alone(name: str, given):
    build, sizes = ARCHITECTURES[name.partition("_")[0]]
    still = build(sizes(**SIZES, token_dropout=0.0, residual_dropout=0.0))
    torch.nn.init.normal_(still.output_layer.get_parameter("weight"))
    tokens = given[0] % 50
    assert torch.equal(still.train()(tokens), still.eval()(tokens))
    dropping = build(sizes(**SIZES))
    dropping.load_state_dict(still.state_dict())
    assert torch.equal(dropping.eval()(tokens), still(tokens))
    assert not torch.allclose(dropping.train()(tokens), still(tokens))


def test_images_do_not_see_each_other(model: ImageTransformer, given):
    together = model(*given)
    for i in range(3):
        alone = model(*(None if value is None else value[i : i + 1] for value in given))
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-5, rtol=1e-5)


def test_no_class_is_the_null_class(model: ImageTransformer, given):
    tokens, classes, order = given
    assert torch.equal(model(tokens, None, order), model(tokens, torch.full((3,), 10), order))
    assert not torch.allclose(model(tokens, None, order), model(tokens, classes, order))
    with pytest.raises(ValueError, match="0 … 9, or be 10 for the null class; got 0 … 11"):
        model(tokens, [0, 11, 3], order)


def test_half_precision_stays_close_and_angles_exact(name: str, model: ImageTransformer, given):
    half = golden_model(name).to(torch.bfloat16)
    assert half.dtype == torch.bfloat16 and torch.equal(half.rotary, model.rotary)
    similarity = F.cosine_similarity(half(*given), golden(name)[0]["logits"], dim=-1)
    assert similarity.min() > 0.98


def test_fresh_weights(name: str):
    build, sizes = ARCHITECTURES[name.partition("_")[0]]
    one, other = build(sizes(**SIZES)), build(sizes(**SIZES))
    for model in (one, other):
        model.initialize(torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not one.output_layer.get_parameter("weight").any()
    assert not one(torch.zeros(1, 16, dtype=torch.int64)).any()
    assert 0.017 < one.code_embedding.weight.std() < 0.023
    assert all(p.eq(1).all() for key, p in one.named_parameters() if key.endswith("norm.weight"))


def test_every_weight_is_trained(name: str):
    build, sizes = ARCHITECTURES[name.partition("_")[0]]
    model = build(sizes(**SIZES))
    torch.nn.init.normal_(model.output_layer.get_parameter("weight"))
    order = training_order(model, 2, torch.Generator().manual_seed(0))
    model(torch.arange(32).view(2, 16), [1, 5], order).square().mean().backward()
    untouched = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


def test_training_orders(name: str, model: ImageTransformer):
    orders = [training_order(model, 3, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    if model.fixed_order:
        assert torch.equal(orders[0], model.own_order()) and torch.equal(orders[2], orders[0])
    else:
        assert orders[0].shape == (3, 16) and not torch.equal(orders[2], orders[0])


@pytest.mark.parametrize("name", ["llamagen_small", "par_small"])
def test_a_fixed_order_may_be_given_but_no_other(name: str):
    model, tokens = golden_model(name), raster_tokens(name)
    assert torch.equal(model(tokens, order=model.own_order()), model(tokens))
    with pytest.raises(ValueError, match="was trained in one order and knows no other"):
        model(tokens, order=model.own_order().flip(1))
    with pytest.raises(ValueError, match=r"2 orders are too many: (LlamaGen|PAR) knows one order only"):
        several_orders(model, 2)
    assert torch.equal(several_orders(model, 1), model.own_order())


# Against slow restatements


def test_llamagen_equals_a_slow_restatement():
    model, recorded = golden_model("llamagen_small"), golden("llamagen_small")[0]
    weights, tokens = dict(model.state_dict()), recorded["idx"][0]
    first = weights["cls_embedding.embedding_table.weight"][recorded["cond"][:1]]
    x, angles = (
        torch.cat([first, weights["tok_embeddings.weight"][tokens[:-1]]]),
        plain.angles_of([None, *range(15)], 4, 16),
    )
    states = list(plain.stream(weights, x, angles, 4, seen_by(causal, 16, 16)))
    expected = plain.norm(states[-1], weights["norm.weight"]) @ weights["output.weight"].T
    torch.testing.assert_close(model(tokens[None], recorded["cond"][:1])[0], expected, atol=1e-4, rtol=1e-4)


def test_par_equals_a_slow_restatement():
    model, recorded = golden_model("par_small"), golden("par_small")[0]
    weights, tokens = dict(model.state_dict()), recorded["idx"][0]  # in the order of groups
    image = weights["tok_embeddings.weight"][tokens]
    special = weights["spe_tok_embeddings.special_embeddings.weight"]
    order = model.own_order()[0].tolist()
    first = weights["cls_embedding.embedding_table.weight"][recorded["cond"][:1]]
    x = torch.cat([first, image[:4], special, image[4:12]])
    places = [None, *order[:4], None, None, None, *order[4:12]]
    sees = seen_by(par_rule, 16, 16)
    states = list(plain.stream(weights, x, plain.angles_of(places, 4, 16), 4, sees))
    expected = plain.norm(states[-1], weights["norm.weight"]) @ weights["output.weight"].T
    logits = model(raster_tokens("par_small")[:1], recorded["cond"][:1])[0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_arpg_equals_a_slow_restatement():
    model, recorded = golden_model("arpg_small"), golden("arpg_small")[0]
    weights, order = dict(model.state_dict()), recorded["order"][1].tolist()
    tokens = recorded["idx"][1, order].tolist()
    content = arpg_content(
        weights,
        tokens[:-1],
        order[:-1],
        64 + 1 + int(recorded["cond"][1]),
        4,
        4,
        seen_by(causal, 16, 16),
    )
    states = arpg_queries(weights, content[-1], order[:-1], order, 64, 4, 4, seen_by(causal, 16, 16))
    expected = plain.norm(states[-1], weights["norm.weight"]) @ weights["head.weight"].T
    logits = model(recorded["idx"][1:2], recorded["cond"][1:2], recorded["order"][1:2])[0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


# PAR's order and mask


def test_groups_are_the_same_place_of_the_four_quadrants():
    # Places of the 4×4 grid, and which of them go together.
    assert sequence.group_order(16).view(4, 4).tolist() == [
        [0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15],
    ]  # fmt: skip
    for a, b, i, j in ((0, 1, 2, 0), (1, 0, 1, 2), (1, 1, 0, 1)):
        index = 4 * (i * 3 + j) + 2 * a + b
        assert sequence.group_order(36)[0, index] == (a * 3 + i) * 6 + b * 3 + j


def test_group_mask_of_a_4x4_grid():
    """class, t1 … t4, three special tokens, t5 … t12: what the rows see, written by hand."""
    alone = ["x" * count + "." * (16 - count) for count in (1, 2, 3, 4)]
    expected = [*alone, *["xxxxxxxx........"] * 4, *["xxxxxxxxxxxx...."] * 4, *["xxxxxxxxxxxxxxxx"] * 4]
    mask = sequence.group_mask(16)
    assert ["".join(".x"[seen] for seen in row) for row in mask.int().tolist()] == expected
    stepper = PARStepper(golden_model("par_small"), torch.tensor([1]), golden_model("par_small").rotary)
    for start, count, expected_mask in ((0, 16, mask), (8, 4, None), (2, 1, None), (4, 8, mask[4:12, :12])):
        stepper.start = start
        found = stepper.mask(count, separate=0)
        assert found is expected_mask or torch.equal(found, expected_mask)  # type: ignore[arg-type]


# Sizes, checks, caches


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (PARConfig, {"num_tokens": 9}, "9 tokens cannot be cut into four quadrants"),
        (ARPGConfig, {"num_layers": 3}, "num_layers = 3 must be even"),
        (PARConfig, {"num_layers": 10**7}, "num_layers = 10000000 .* 1 to 1000"),
        (PARConfig, {"num_heads": True}, "num_heads = True"),
        (PARConfig, {"norm_eps": math.nan}, "norm_eps = nan"),
        (PARConfig, {"norm_eps": 0.0}, "norm_eps = 0.0"),
        (PARConfig, {"rope_base": 0}, "rope_base = 0 "),
        (PARConfig, {"token_dropout": -0.1}, "token_dropout = -0.1"),
        (PARConfig, {"residual_dropout": "much"}, "residual_dropout = 'much'"),
    ],
)
def test_sizes_that_cannot_be_are_refused(config: Any, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        config(**{**SIZES, **changes})


def test_arpg_with_shared_keys_decodes_as_it_was_trained():
    model = ARPG(ARPGConfig(**SIZES, num_kv_heads=1)).eval().requires_grad_(False)
    torch.nn.init.normal_(model.head.weight)
    assert new_cache(model, 2).keys.shape == (2, 2, 1, 17, 16)
    tokens = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(0))
    order = sequence.random_orders(2, 16, torch.Generator().manual_seed(1))
    stepper, logits = ARPGStepper(model, torch.tensor([1, 2]), model.rotary), model(tokens, [1, 2], order)
    image = model.embeddings(sequence.to_order(tokens, order))
    for done in range(16):
        last = slice(max(done - 1, 0), done)
        found = stepper.step(image[:, last], order[:, last.start : done + 1])
        torch.testing.assert_close(found[:, 0], logits[:, done], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("randar_small", "is for 3 layers of 4 heads of 16 channels, torch.float32 on cpu; the model has 3 layers"),
        ("llamagen_small", "the model has 3 layers of 4 heads of 16 channels, torch.bfloat16 on cpu"),
    ],
)
def test_a_cache_of_another_model_is_refused(other: str, message: str):
    model = golden_model("randar_small").to(torch.bfloat16)
    with pytest.raises(ValueError, match=message):
        stepper_of(model)(model, torch.tensor([1]), model.rotary, new_cache(golden_model(other), 1))
