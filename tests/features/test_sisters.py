"""Features of LlamaGen, PAR and ARPG, the leave-one-out read above all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.reference import plain
from randar_features import ImageEncoder, RandAREncoder, encode_tokens, extract_features, load_model, sequence
from randar_features.features import encode_specs, model_specs
from randar_features.models.base import context_of
from tests.golden.models import golden, golden_model, raster_tokens
from tests.published import arpg_content, arpg_queries, causal, par_rule, seen_by
from tests.small_models import write_folder

SISTERS = ("llamagen_small", "par_small", "arpg_small")
ARPG_ORDER = golden("arpg_small")[0]["order"]


def changed(name: str, context: str, read: str, layer: int, order: Tensor | None = None) -> Tensor:
    """(changed location, feature location): the largest change of a feature when one token changes."""
    model, tokens = golden_model(name), raster_tokens(name)[:1]
    variants = tokens.repeat(16, 1)
    variants[range(16), range(16)] = (variants[range(16), range(16)] + 7) % 64
    options: dict[str, Any] = {"order": order, "layers": layer, "context": context, "read": read}
    before = encode_tokens(model, tokens, **options).flatten(1, 3)
    after = encode_tokens(model, variants, **options).flatten(1, 3)
    return (after - before).abs().amax(-1)


@pytest.mark.parametrize("layer", [2, 3])
def test_leave_one_out_features_depend_on_every_token_but_their_own(layer: int):
    for order in (None, ARPG_ORDER[0]):
        difference = changed("arpg_small", "single", "leave_one_out", layer, order)
        own = torch.eye(16, dtype=torch.bool)
        assert (difference[own] == 0).all()
        assert (difference[~own] > 1e-6).all()


def test_leave_one_out_equals_a_slow_restatement():
    """Content in both directions, each causal; a query sees what is in front of it of the one, behind of the other."""
    model, tokens, order = golden_model("arpg_small"), raster_tokens("arpg_small")[0], ARPG_ORDER[0].tolist()
    weights, null = dict(model.state_dict()), 64 + 1 + 10

    def content(places: list[int]) -> Tensor:
        seen = seen_by(causal, 17, 17)
        return arpg_content(weights, tokens[places].tolist(), places, null, 4, 4, seen)[-1]

    entries = torch.cat([content(order), content(order[::-1])[1:]])
    places = [*order, *order[::-1]]  # where the entries behind the class are

    def sees(query: int, entry: int) -> bool:
        forward = entry <= query  # the class, and the tokens in front
        backward = 17 <= entry < 17 + 15 - query  # the reverse begins with the last token
        return forward or backward

    assert [sum(sees(query, entry) for entry in range(33)) for query in range(16)] == [16] * 16
    expected = arpg_queries(weights, entries, places, order, 64, 4, 4, seen_by(sees, 16, 33))
    maps = encode_tokens(
        model, tokens[None], order=torch.tensor(order), layers=[3, 2], context="single", read="leave_one_out"
    )
    for position, layer in enumerate((3, 2)):
        found = maps[0, position].flatten(0, 1)[order]
        torch.testing.assert_close(found, expected[layer - 2], atol=1e-5, rtol=1e-4)


def test_leave_one_out_mask_by_hand():
    # Rows: queries of three places; columns: class, x1 … x3 seen from the front, x1 … x3 seen from behind.
    assert sequence.leave_one_out_mask(3).int().tolist() == [
        [1, 0, 0, 0, 0, 1, 1],
        [1, 1, 0, 0, 0, 0, 1],
        [1, 1, 1, 0, 0, 0, 0],
    ]


def test_a_query_sees_the_whole_image_behind_one_showing():
    for layer in (2, 3):
        assert (changed("arpg_small", "single", "query", layer, ARPG_ORDER[0]) > 1e-6).all()


def test_queries_equal_a_slow_restatement():
    model, tokens, order = golden_model("arpg_small"), raster_tokens("arpg_small")[1], ARPG_ORDER[1].tolist()
    weights = dict(model.state_dict())
    seen = seen_by(causal, 17, 17)
    content = arpg_content(weights, tokens[order].tolist(), order, 64 + 1 + 10, 4, 4, seen)
    everything = torch.ones(16, 17, dtype=torch.bool)
    states = arpg_queries(weights, content[-1], order, range(16), 64, 4, 4, everything)
    options: dict[str, Any] = {"order": torch.tensor(order), "context": "single"}
    queries = encode_tokens(model, tokens[None], layers=[2, 3], read="query", **options)
    torch.testing.assert_close(queries[0].flatten(1, 2), torch.stack(states), atol=1e-5, rtol=1e-4)
    images = encode_tokens(model, tokens[None], layers=[0, 1], **options)[0].flatten(1, 2)
    torch.testing.assert_close(images[:, order], torch.stack(content)[:, 1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SISTERS)
def test_a_second_copy_sees_the_whole_image(name: str):
    order = ARPG_ORDER[0] if name == "arpg_small" else None
    for context in golden_model(name).reads["image"][1:]:
        assert (changed(name, context, "image", 1, order) > 1e-6).all()


def test_a_single_pass_sees_what_came_before():
    causal = torch.ones(16, 16, dtype=torch.bool).triu()
    assert torch.equal(changed("llamagen_small", "single", "image", 1) > 0, causal)
    place = sequence.invert(ARPG_ORDER[:1])[0]
    assert torch.equal(changed("arpg_small", "single", "image", 1, ARPG_ORDER[0]) > 0, place[:, None] <= place)
    # PAR: the first four tokens as they come (the fourth shares its group with special tokens alone), then groups.
    place = sequence.invert(sequence.group_order(16))[0]
    last_seen = torch.where(place < 4, place, place // 4 * 4 + 3)
    assert torch.equal(changed("par_small", "single", "image", 1) > 0, place[:, None] <= last_seen)


def test_pars_features_are_states_of_its_sequence():
    model, tokens = golden_model("par_small"), golden("par_small")[0]["idx"][0]
    weights, order = dict(model.state_dict()), model.own_order()[0].tolist()
    image = weights["tok_embeddings.weight"][tokens]
    special = weights["spe_tok_embeddings.special_embeddings.weight"]
    x = torch.cat([weights["cls_embedding.embedding_table.weight"][10:11], image[:4], special, image[4:], image])
    places: list[int | None] = [None, *order[:4], None, None, None, *order[4:], *order]
    states = list(plain.stream(weights, x, plain.angles_of(places, 4, 16), 4, seen_by(par_rule, 36, 36)))
    for context, kept in (("single", [*range(1, 5), *range(8, 20)]), ("repeat", range(20, 36))):
        maps = encode_tokens(model, raster_tokens("par_small")[:1], layers=[0, 2], context=context)
        for position, layer in enumerate((0, 2)):
            found = maps[0, position].flatten(0, 1)[order]
            torch.testing.assert_close(found, states[layer][list(kept)], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SISTERS)
def test_invariance_to_the_batch_and_to_the_layers_asked_for(name: str):
    model, tokens = golden_model(name), raster_tokens(name)
    for read in model.reads:
        layers = list(model.layers_of(read))
        together = encode_tokens(model, tokens, layers=layers[::-1], read=read)
        for i in range(3):
            alone = encode_tokens(model, tokens[i : i + 1], layers=layers[0], read=read)
            torch.testing.assert_close(alone[:, 0], together[i : i + 1, -1], atol=1e-5, rtol=1e-5)


def test_all_reads_in_as_few_passes_as_there_can_be():
    arpg, tokens = golden_model("arpg_small"), raster_tokens("arpg_small")
    for spec, values in encode_specs(arpg, tokens, model_specs(arpg, read=arpg.reads)).items():
        torch.testing.assert_close(values, encode_tokens(arpg, tokens, read=spec.read)[:, 0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "llamagen_small",
            {"context": "reverse"},
            "single, repeat with LlamaGen.*has never seen an image the other way",
        ),
        ("par_small", {"context": "reverse"}, "PAR was trained in one order"),
        ("par_small", {"context": "twice"}, "context must be one of single, repeat, reverse; got 'twice'"),
        ("llamagen_small", {"read": "instruction"}, "read must be one of image with LlamaGen; got 'instruction'"),
        ("randar_small", {"read": "query"}, "read must be one of image, instruction with RandAR"),
        ("arpg_small", {"read": "query", "context": "repeat"}, "after a single showing"),
        ("arpg_small", {"layers": [1, 2]}, r"read='image' is of the layers 0 … 1 of a ARPG with 4; got \[2\]"),
        ("arpg_small", {"layers": 1, "read": "leave_one_out"}, "is of the layers 2 … 3"),
    ],
)
def test_views_that_a_model_cannot_have_are_refused_with_a_reason(name: str, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        encode_tokens(golden_model(name), raster_tokens(name), **options)


def test_several_orders_of_a_model_that_knows_one_are_refused():
    with pytest.raises(ValueError, match="3 orders are too many: LlamaGen knows one order only"):
        model_specs(golden_model("llamagen_small"), orders=3)
    arpg, tokens = golden_model("arpg_small"), raster_tokens("arpg_small")
    each = [encode_tokens(arpg, tokens, order=order, read="query") for order in sequence.antithetic_orders(2, 16, 5)]
    (spec,) = model_specs(arpg, orders=2, seed=5, read="query")
    torch.testing.assert_close(encode_specs(arpg, tokens, [spec])[spec], (sum(each) / 2)[:, 0])


@pytest.mark.parametrize("architecture", ["llamagen", "par", "arpg"])
def test_images_to_features(architecture: str, tmp_path: Path):
    model = load_model(write_folder(tmp_path, architecture=architecture), device="cpu")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tokens = model.tokenizer.encode(images)
    for read in model.transformer.reads:
        available, context = model.transformer.layers_of(read), context_of(model.transformer, None, read)
        features = extract_features(images, model, read=read, progress=False)
        assert features.details["context"] == context and features.layers[0] in available
        assert features.maps is not None
        torch.testing.assert_close(
            features.maps, encode_tokens(model.transformer, tokens, layers=features.layers, read=read)
        )
        encoder = ImageEncoder(model, read=read)
        torch.testing.assert_close(encoder.forward_features(images), features.maps[:, 0].flatten(1, 2))
        final, maps = encoder.forward_intermediates(images, norm=True)
        assert len(maps) == len(available) and torch.equal(final, maps[-1].flatten(2).transpose(1, 2))
        last = encoder.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        torch.testing.assert_close(last[0], maps[-1])
    names = dict(encoder.named_modules())
    assert all(info["module"] in names for info in encoder.feature_info)
    assert RandAREncoder is ImageEncoder
