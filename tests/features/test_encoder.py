from __future__ import annotations

import numpy as np
import pytest
import torch

from randar_features import RandAREncoder, encode_tokens, extract_features, sequence
from randar_features.features import encode_specs, model_specs
from randar_features.models import RandAR
from tests.golden.models import golden, golden_randar
from tests.published import randar_states

RECORDED = golden("randar_small")[0]
FEATURES = sorted(name for name in RECORDED if name.startswith("features."))


@pytest.fixture(scope="module")
def transformer() -> RandAR:
    return golden_randar()


@pytest.mark.parametrize("name", FEATURES)
def test_features_equal_the_published(transformer: RandAR, name: str):
    _, context, *middle, layer, read = name.split(".")
    maps = encode_tokens(
        transformer,
        RECORDED["idx"],
        RECORDED["cond"] if middle == ["class"] else None,
        RECORDED["order"],
        layers=-1 if layer == "norm" else int(layer.removeprefix("layer")),
        context=context,
        read=read,
        norm=layer == "norm",
    )
    assert maps.shape == (3, 1, 4, 4, 64)
    torch.testing.assert_close(maps.flatten(1, 3), RECORDED[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("context", sequence.CONTEXTS)
@pytest.mark.parametrize("read", sequence.READS)
def test_fast_path_equals_a_slow_explicit_softmax_restatement(transformer: RandAR, context: str, read: str):
    tokens, order = RECORDED["idx"][1], RECORDED["order"][1].tolist()
    shown = {"single": order, "repeat": order + order, "reverse": order + order[::-1]}[context]
    states = randar_states(
        dict(transformer.state_dict()), heads=4, grid=4, tokens=tokens.tolist(), class_index=10, shown=shown
    )
    maps = encode_tokens(
        transformer, tokens[None], order=torch.tensor(order), layers=[2, 0], context=context, read=read
    )
    first = 1 + 2 * (len(shown) - 16) + (read == "image")
    for position, layer in enumerate((2, 0)):
        for step, location in enumerate(shown[-16:]):
            expected = states[layer][first + 2 * step]
            got = maps[0, position, location // 4, location % 4]
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def _changed(read: str, context: str) -> torch.Tensor:
    """(changed location, feature location): the largest change of a feature when one token changes."""
    transformer, order = golden_randar(), RECORDED["order"][0]
    tokens = RECORDED["idx"][:1]
    variants = tokens.repeat(16, 1)
    variants[range(16), range(16)] = (variants[range(16), range(16)] + 7) % 64
    options = {"order": order, "layers": 1, "context": context, "read": read}
    before = encode_tokens(transformer, tokens, **options).flatten(1, 3)
    after = encode_tokens(transformer, variants, **options).flatten(1, 3)
    return (after - before).abs().amax(-1)


@pytest.mark.parametrize("read", sequence.READS)
@pytest.mark.parametrize("context", ["repeat", "reverse"])
def test_changing_any_one_token_changes_every_feature(context: str, read: str):
    assert (_changed(read, context) > 1e-5).all()


@pytest.mark.parametrize("read", sequence.READS)
def test_a_single_pass_sees_only_what_came_before(read: str):
    changed = _changed(read, "single")
    place = sequence.invert(RECORDED["order"][:1])[0]
    sees = place[:, None] <= place[None] if read == "image" else place[:, None] < place[None]
    assert (changed[~sees] == 0).all()
    assert (changed[sees] > 1e-5).all()


def test_invariance_to_the_batch(transformer: RandAR):
    options = {"layers": [0, 2], "context": "reverse"}
    together = encode_tokens(transformer, RECORDED["idx"], None, RECORDED["order"], **options)
    for i in range(3):
        row = slice(i, i + 1)
        alone = encode_tokens(transformer, RECORDED["idx"][row], None, RECORDED["order"][row], **options)
        torch.testing.assert_close(alone, together[row], atol=1e-5, rtol=1e-5)


def test_layers_do_not_depend_on_which_others_are_asked_for(transformer: RandAR):
    tokens = RECORDED["idx"]
    together = encode_tokens(transformer, tokens, layers=[2, 0, -2])
    for position, layer in enumerate((2, 0, 1)):
        torch.testing.assert_close(
            encode_tokens(transformer, tokens, layers=layer)[:, 0], together[:, position], atol=1e-5, rtol=1e-5
        )


def test_blocks_behind_the_deepest_layer_are_not_run(transformer: RandAR):
    broken = golden_randar()
    torch.nn.init.constant_(broken.layers[2].attention.wqkv.weight, torch.nan)
    torch.nn.init.constant_(broken.output.weight, torch.nan)
    assert torch.equal(
        encode_tokens(broken, RECORDED["idx"], layers=1), encode_tokens(transformer, RECORDED["idx"], layers=1)
    )


def test_default_is_raster_order_and_the_middle_layer(transformer: RandAR):
    default = encode_tokens(transformer, RECORDED["idx"])
    explicit = encode_tokens(transformer, RECORDED["idx"], order=torch.arange(16), layers=1, context="reverse")
    assert torch.equal(default, explicit)


def test_orders_are_averaged_or_concatenated(transformer: RandAR):
    tokens = RECORDED["idx"]
    orders = sequence.antithetic_orders(3, 16, seed=5)
    each = [encode_tokens(transformer, tokens, order=order, layers=1)[:, 0] for order in orders]
    for combine, expected in (("mean", sum(each) / 3), ("concatenate", torch.cat(each, dim=-1))):
        (spec,) = model_specs(transformer, layers=1, orders=3, seed=5, combine=combine)
        torch.testing.assert_close(encode_specs(transformer, tokens, [spec])[spec], expected)


@pytest.mark.parametrize("context", sequence.CONTEXTS)
def test_both_reads_in_one_pass_equal_one_pass_each(transformer: RandAR, context: str):
    specs = model_specs(transformer, layers=[0, 2], context=context, read=sequence.READS)
    both = encode_specs(transformer, RECORDED["idx"], specs, None, RECORDED["order"])
    for spec in specs:
        options = {"layers": spec.layer, "context": context, "read": spec.read}
        alone = encode_tokens(transformer, RECORDED["idx"], None, RECORDED["order"], **options)
        torch.testing.assert_close(both[spec], alone[:, 0], atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def encoder(small_model) -> RandAREncoder:
    return RandAREncoder(small_model)


def test_forward_features_and_pooling(encoder: RandAREncoder, small_model):
    images = torch.rand(2, 3, encoder.image_size, encoder.image_size, generator=torch.Generator().manual_seed(0))
    tokens = small_model.tokenizer.encode(images)
    expected = encode_tokens(small_model.transformer, tokens, layers=encoder.layer).flatten(1, 3)
    features = encoder.forward_features(images)
    assert features.shape == (2, encoder.grid_size[0] ** 2, encoder.num_features)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(encoder(images), expected.mean(dim=1))


def test_forward_intermediates_is_timms_contract(encoder: RandAREncoder, small_model):
    images = torch.rand(2, 3, encoder.image_size, encoder.image_size)
    tokens = small_model.tokenizer.encode(images)
    count, grid = small_model.transformer.config.num_layers, encoder.grid_size[0]
    every = encode_tokens(small_model.transformer, tokens, layers=range(count))
    final, maps = encoder.forward_intermediates(images)
    assert len(maps) == count
    torch.testing.assert_close(torch.stack(maps, 1).permute(0, 1, 3, 4, 2), every)
    torch.testing.assert_close(final, small_model.transformer.norm(every[:, -1]).flatten(1, 2))
    last = encoder.forward_intermediates(images, indices=1, norm=True, output_fmt="NLC", intermediates_only=True)
    assert len(last) == 1 and last[0].shape == (2, grid * grid, encoder.num_features)
    torch.testing.assert_close(last[0], final)
    # By depth and each once, as in timm.
    chosen = encoder.forward_intermediates(images, indices=[-1, 0, 0], intermediates_only=True)
    assert len(chosen) == 2
    torch.testing.assert_close(chosen[0], maps[0])
    for one in (np.int64(2), torch.tensor(2)):  # as the number 2
        assert len(encoder.forward_intermediates(images, indices=one, intermediates_only=True)) == 2
    assert [info["num_chs"] for info in encoder.feature_info] == [encoder.num_features] * count
    assert encoder.feature_info[0]["reduction"] == encoder.image_size // grid


def test_encoder_refuses_what_does_not_fit(encoder: RandAREncoder, small_model):
    side = encoder.image_size
    with pytest.raises(ValueError, match=rf"images must be {side}x{side} pixels.*got \(1, 3, 8, 8\)"):
        encoder(torch.rand(1, 3, 8, 8))
    with pytest.raises(TypeError, match="images must be a float tensor, got list"):
        encoder([1])
    with pytest.raises(ValueError, match="output_fmt must be one of NCHW, NLC; got 'NHWC'"):
        encoder.forward_intermediates(torch.rand(1, 3, side, side), output_fmt="NHWC")
    with pytest.raises(TypeError, match=r"norm.*'no'"):
        encoder.forward_intermediates(torch.rand(1, 3, side, side), norm="no")
    with pytest.raises(IndexError, match="the last 9 layers"):
        encoder.forward_intermediates(torch.rand(1, 3, side, side), indices=9)
    for indices in (True, 0, np.int64(9)):
        with pytest.raises((TypeError, IndexError)):
            encoder.forward_intermediates(torch.rand(1, 3, side, side), indices=indices)
    for options, error in (
        ({"context": "twice"}, ValueError),
        ({"orders": 0}, ValueError),
        ({"layer": [1, 2]}, TypeError),
        ({"context": ["reverse", "single"]}, TypeError),
        ({"layer": 3}, IndexError),
        ({"dtype": torch.float64}, ValueError),
    ):
        with pytest.raises(error):
            RandAREncoder(small_model, **options)


def test_orders_and_norm_are_those_of_extract_features(small_model):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    encoder = RandAREncoder(small_model, orders=3, seed=4)
    maps = encoder.forward_intermediates(images, norm=True, intermediates_only=True)
    expected = extract_features(images, small_model, layers=range(3), norm=True, orders=3, seed=4, progress=False).maps
    torch.testing.assert_close(torch.stack(maps, 1).permute(0, 1, 3, 4, 2), expected)


def test_training_the_module_around_it_switches_no_dropout_on(encoder: RandAREncoder):
    images = torch.rand(2, 3, 16, 16)
    pipeline = torch.nn.Sequential(encoder, torch.nn.Linear(encoder.num_features, 2)).train()
    assert pipeline.training and encoder.training
    assert torch.equal(encoder(images), encoder(images))


def test_encoding_leaves_the_weights_untouched(encoder: RandAREncoder):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder(torch.rand(1, 3, encoder.image_size, encoder.image_size))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.cuda
def test_cuda_bfloat16_stays_close_to_the_published():
    transformer = golden_randar().to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        maps = encode_tokens(transformer, RECORDED["idx"].cuda(), None, RECORDED["order"].cuda(), layers=1)
    expected = RECORDED["features.reverse.layer1.image"]
    similarity = torch.nn.functional.cosine_similarity(maps.cpu().flatten(1, 3), expected, dim=-1)
    assert similarity.min() > 0.999
