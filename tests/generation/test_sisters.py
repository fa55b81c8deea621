"""Decoding with LlamaGen, PAR and ARPG."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.reference import plain
from randar_features import generate, inpaint, load_model, log_likelihood, sequence, upscale_tokens
from randar_features.generation import new_cache
from randar_features.generation.complete import ORDERS
from randar_features.generation.recipe import RECIPES, recipe_of
from randar_features.generation.schedule import arccos_schedule, cosine_schedule, group_schedule
from randar_features.layers.packed_linear import pack_weights
from randar_features.models import ARPG
from randar_features.models.base import order_of
from tests.golden.models import golden, golden_model, raster_tokens
from tests.published import arpg_content, arpg_queries, seen_by
from tests.small_models import write_folder

SISTERS = ("llamagen_small", "par_small", "arpg_small")
RECORDED = [
    (name, key) for name in SISTERS for key in golden(name)[0] if key.startswith("generate.") and key[9:] != "order"
]


def recorded_settings(name: str, key: str) -> dict[str, Any]:
    """Arguments of `generate` for a recording: "generate.cfg2" or "generate.steps8.arccos.cfg4-linear"."""
    if name != "arpg_small":
        return {"guidance": float(key.removeprefix("generate.cfg"))}
    _, steps, schedule, guidance = key.split(".")
    scale, kind = guidance.removeprefix("cfg").split("-")
    return {
        "steps": int(steps.removeprefix("steps")),
        "schedule": schedule,
        "guidance": float(scale) if kind == "constant" else (1.0, float(scale)),
        "order": golden(name)[0]["generate.order"],
    }


@pytest.mark.parametrize(("name", "key"), RECORDED)
def test_greedy_tokens_equal_the_published(name: str, key: str):
    model, recorded = golden_model(name), golden(name)[0]
    tokens = generate(model, recorded["cond"], top_k=1, **recorded_settings(name, key))
    in_order = recorded[key] if name != "par_small" else sequence.to_raster(recorded[key], sequence.group_order(16))
    assert torch.equal(tokens, in_order)


def test_every_recorded_generation_is_there():
    assert len(RECORDED) == 3 + 3 + 24


def sees(step_of: list[int], p: int, q: int) -> bool:
    return step_of[q] <= step_of[p]


@pytest.mark.parametrize("name", SISTERS)
def test_decoding_equals_teacher_forcing(name: str):
    """Greedy tokens are the likeliest under one pass over all of them; ARPG's one at a time, as it was trained."""
    model, classes = golden_model(name), golden(name)[0]["cond"]
    order = order_of(model, golden(name)[0].get("order"), 3)
    settings = {"order": order, "steps": -1} if isinstance(model, ARPG) else {}
    tokens = generate(model, classes, guidance=1.0, top_k=1, **settings)
    assert torch.equal(sequence.to_order(tokens, order), model(tokens, classes, order).argmax(dim=-1))


def test_arpgs_tokens_of_a_step_see_each_other():
    """Against a pass without a cache over all that is known, written slowly."""
    model, recorded = golden_model("arpg_small"), golden("arpg_small")[0]
    order, class_row = recorded["order"][0].tolist(), 64 + 1 + int(recorded["cond"][0])
    weights, schedule = dict(model.state_dict()), arccos_schedule(16, 5)
    step_of, tokens = [0], list[int]()
    for step, count in enumerate(schedule):
        done = len(tokens)
        seen = seen_by(partial(sees, step_of), 1 + done, 1 + done)
        content = arpg_content(weights, tokens, order[:done], class_row, 4, 4, seen)
        everything, wanted = torch.ones(count, 1 + done, dtype=torch.bool), order[done : done + count]
        states = arpg_queries(weights, content[-1], order[:done], wanted, 64, 4, 4, everything)
        logits = plain.norm(states[-1], weights["norm.weight"]) @ weights["head.weight"].T
        tokens += logits.argmax(dim=1).tolist()
        step_of += [step + 1] * count
    assert len(set(schedule)) > 1
    found = generate(model, recorded["cond"][:1], order=order, steps=5, guidance=1.0, top_k=1)
    assert found[0, order].tolist() == tokens


def test_schedules_by_hand():
    # left = ⌊16 · share⌋, share = arccos((s+1)/4) / (π/2): 0.839, 0.667, 0.460
    assert arccos_schedule(16, 4) == [3, 3, 3, 7]
    # share = cos(π/2 · (s+1)/4): 0.924, 0.707, 0.383
    assert cosine_schedule(16, 4) == [2, 3, 5, 6]
    assert arccos_schedule(16, 1) == cosine_schedule(16, 1) == [16]
    assert arccos_schedule(16, -1) == cosine_schedule(16, 40)[:16] == [1] * 16
    assert group_schedule(16) == [1, 1, 1, 1, 4, 4, 4]
    assert group_schedule(16, known=2) == [1, 1, 4, 4, 4] and group_schedule(16, known=8) == [4, 4]
    assert len(group_schedule(576)) == 147


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 30, 64, 200, 256])
def test_schedules_decode_every_token_once(steps: int):
    for schedule in (arccos_schedule(256, steps), cosine_schedule(256, steps)):
        assert sum(schedule) == 256 and min(schedule) >= 1 and len(schedule) == steps


def test_recommended_steps_and_guidance_are_those_published():
    steps = {
        kind.__name__: recipe.recommended_steps(576 if kind.__name__ == "PAR" else 256)
        for kind, recipe in RECIPES.items()
    }
    assert steps == {"RandAR": 88, "LlamaGen": 256, "PAR": 147, "ARPG": 64}
    arpg = recipe_of(golden_model("arpg_small")).guide((1.0, 4.0))
    assert [arpg.scale.at(arpg.progress(*step, 16)) for step in ((0, 4), (8, 8))] == [1.75, 4.0]
    randar = recipe_of(golden_model("randar_small")).guide(None)
    assert [randar.scale.at(randar.progress(*step, 16)) for step in ((0, 4), (8, 8))] == [1.0, 2.5]
    assert recipe_of(golden_model("llamagen_small")).guide(None).scale.at(0.3) == 2.0


@pytest.mark.parametrize("name", SISTERS)
def test_same_seed_same_images_whatever_the_batch(name: str):
    model, classes = golden_model(name), [1, 2, 3, 4]
    whole = generate(model, classes, generator=11)
    generator = torch.Generator().manual_seed(11)
    parts = [generate(model, part, generator=generator) for part in (classes[:1], classes[1:])]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, generate(model, classes, generator=12))


@pytest.mark.parametrize("order", ORDERS)
def test_arpg_decodes_and_goes_on_in_every_order(order: str):
    model, given = golden_model("arpg_small"), raster_tokens("arpg_small")
    known = torch.rand(3, 16, generator=torch.Generator().manual_seed(5)) < 0.4
    tokens = generate(model, [1, 2, 3], tokens=given, known=known, order=order, generator=0)
    assert torch.equal(tokens[known], given[known])
    for i in range(3):
        row = slice(i, i + 1)
        seeds = torch.tensor([7])
        alone = generate(model, [1], tokens=given[row], known=known[row], order=order, generator=seeds)
        both = generate(
            model, [1, 2], tokens=given[[i, 0]], known=known[[i, 0]], order=order, generator=torch.tensor([7, 8])
        )
        assert torch.equal(alone[0], both[0])


def test_arpgs_known_tokens_are_seen_as_in_training():
    model, given, order = (
        golden_model("arpg_small"),
        raster_tokens("arpg_small")[:1],
        golden("arpg_small")[0]["order"][:1],
    )
    known = torch.zeros(1, 16, dtype=torch.bool).scatter_(1, order[:, :6], True)
    tokens = generate(model, [4], tokens=given, known=known, order=order, steps=-1, guidance=1.0, top_k=1)
    forced = sequence.to_raster(model(tokens, [4], order).argmax(dim=-1), order)
    assert torch.equal(tokens[known], given[known]) and torch.equal(tokens[~known], forced[~known])


@pytest.mark.parametrize(("name", "count"), [("llamagen_small", 5), ("par_small", 3), ("par_small", 8)])
def test_fixed_orders_go_on_from_their_first_tokens(name: str, count: int):
    model, given = golden_model(name), raster_tokens(name)
    order = model.own_order()
    known = torch.zeros(1, 16, dtype=torch.bool).scatter_(1, order[:, :count], True)[0]
    tokens = generate(model, [1, 2, 3], tokens=given, known=known, guidance=1.0, top_k=1)
    forced = sequence.to_raster(model(tokens, [1, 2, 3]).argmax(dim=-1), order)
    assert torch.equal(tokens[:, known], given[:, known]) and torch.equal(tokens[:, ~known], forced[:, ~known])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("llamagen_small", {"steps": 4}, "always decodes its 16 tokens in 16 steps; got steps=4"),
        ("par_small", {"steps": -1}, "in 7 steps; got steps=-1"),
        ("par_small", {"schedule": "cosine"}, "got schedule='cosine'"),
        ("llamagen_small", {"order": "random"}, "LlamaGen knows one order only"),
        ("par_small", {"order": torch.arange(16)}, "PAR was trained in one order"),
        ("arpg_small", {"schedule": "linear"}, "schedule must be one of arccos, cosine, randar; got 'linear'"),
        ("arpg_small", {"steps": 17}, "steps must lie in 1 … 16"),
        ("arpg_small", {"scale": 2}, "twice the resolution takes a RandAR.*got ARPG"),
    ],
)
def test_what_a_model_cannot_do_is_refused(name: str, settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        generate(golden_model(name), [1, 2], **settings)


@pytest.mark.parametrize("name", ["llamagen_small", "par_small"])
def test_known_tokens_after_unknown_ones_are_refused(name: str):
    known = torch.zeros(16, dtype=torch.bool)
    known[15] = True
    with pytest.raises(ValueError, match=r"draws its tokens in one order.*takes a model of any order, RandAR or ARPG"):
        generate(golden_model(name), [1, 2, 3], tokens=raster_tokens(name), known=known)
    with pytest.raises(ValueError, match="after whole groups of 4 tokens, not after 6"):
        order = sequence.group_order(16)[0, :6]
        six = torch.zeros(16, dtype=torch.bool).scatter_(0, order, True)
        generate(golden_model("par_small"), [1], tokens=raster_tokens("par_small")[:1], known=six)


def test_schedules_of_any_order_models_are_for_both():
    model = golden_model("randar_small")
    default = generate(model, [1, 2], steps=5, generator=0)
    assert torch.equal(default, generate(model, [1, 2], steps=5, generator=0, schedule="randar"))
    assert not torch.equal(default, generate(model, [1, 2], steps=5, generator=0, schedule="arccos"))
    with pytest.raises(ValueError, match="at twice the resolution the schedule is RandAR's own"):
        generate(model, [1], scale=2, schedule="arccos")
    with pytest.raises(ValueError, match="twice the resolution takes a RandAR"):
        upscale_tokens(golden_model("par_small"), [1])


@pytest.mark.parametrize("name", SISTERS)
def test_likelihoods_are_the_training_loss(name: str):
    model, recorded = golden_model(name), golden(name)[0]
    orders = recorded["order"][None] if name == "arpg_small" else 1
    found = log_likelihood(model, raster_tokens(name), recorded["cond"], orders)
    torch.testing.assert_close(-found.mean(), recorded["loss"][0], atol=1e-5, rtol=0)


def test_likelihoods_in_orders_a_model_does_not_know_are_refused():
    with pytest.raises(ValueError, match="knows one order only"):
        log_likelihood(golden_model("par_small"), raster_tokens("par_small"), orders=2)
    with pytest.raises(ValueError, match="trained in one order"):
        log_likelihood(golden_model("par_small"), raster_tokens("par_small"), orders=torch.arange(16))


@pytest.mark.parametrize("name", SISTERS)
def test_packed_weights_decode_the_same(name: str):
    model = golden_model(name)
    assert torch.equal(generate(pack_weights(model), [1, 2], generator=0), generate(model, [1, 2], generator=0))


@pytest.mark.parametrize("name", SISTERS)
def test_half_precision_decodes_and_a_held_cache_serves(name: str):
    half = golden_model(name).to(torch.bfloat16)
    cache = new_cache(half, 6)
    tokens = generate(half, [1, 2, 3], generator=0, cache=cache)
    assert tokens.shape == (3, 16) and torch.equal(tokens, generate(half, [1, 2, 3], generator=0))
    with pytest.raises(
        ValueError, match=r"the key-value cache is for .* torch.bfloat16 on cpu; the model has .*float32"
    ):
        generate(golden_model(name), [1], cache=cache)


def test_editing_takes_what_each_model_can(tmp_path):
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    corner, bottom = torch.zeros(2, 16, 16, dtype=torch.bool)
    corner[:4, :4], bottom[8:] = True, True
    arpg = load_model(write_folder(tmp_path / "arpg", architecture="arpg"), device="cpu")
    for mask in (corner, bottom):
        redrawn = inpaint(arpg, images, mask, [1], generator=0)
        assert torch.equal(redrawn[:, :, ~mask], images[:, :, ~mask])
        assert not torch.equal(redrawn[:, :, mask], images[:, :, mask])
    llamagen = load_model(write_folder(tmp_path / "llamagen", architecture="llamagen"), device="cpu")
    redrawn = inpaint(llamagen, images, bottom, [1], generator=0)
    assert torch.equal(redrawn[:, :, :8], images[:, :, :8]) and not torch.equal(redrawn, images)
    with pytest.raises(ValueError, match="LlamaGen draws its tokens in one order"):
        inpaint(llamagen, images, corner, [1])


def fed_rows(name: str, classes: Tensor) -> list[int]:
    """Rows that each pass feeds through the first block."""
    model, seen = golden_model(name), list[int]()
    model.blocks[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    generate(model, classes, guidance=1.0)
    return seen


def test_each_pass_feeds_the_new_rows_alone():
    classes = torch.tensor([1, 2])
    assert fed_rows("llamagen_small", classes) == [1] * 16
    assert fed_rows("par_small", classes) == [1, 1, 1, 1, 4, 4, 4]
    assert fed_rows("arpg_small", classes) == [1, *arccos_schedule(16, 4)[:-1]]
