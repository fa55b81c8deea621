"""Generation in a stated number format."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from randar_features import (
    ImageEncoder,
    Model,
    extract_features,
    generate,
    inpaint,
    load_model,
    log_likelihood,
    precision,
    upscale_tokens,
)
from randar_features.generation import complete, new_cache
from randar_features.generation.decode import DecodingTask, Guidance, decode
from randar_features.generation.sampling import Sampling
from randar_features.generation.schedule import Scale
from randar_features.layers.packed_linear import PackedLinear, pack_weights, product_dtype
from randar_features.models.base import order_of
from tests.golden.models import golden, golden_model, golden_randar, raster_tokens

NAMES = ("randar_small", "llamagen_small", "par_small", "arpg_small")


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_in_bfloat16_are_those_of_float32(name: str):
    """From the same tokens before them: a different one changes all that follow. Random weights have many near-ties."""
    model = golden_model(name)
    packed, classes = pack_weights(model, torch.bfloat16), torch.arange(10).repeat(8)
    tokens = torch.randint(64, (80, 16), generator=torch.Generator().manual_seed(1))
    exact, rounded = model(tokens, classes), packed(tokens, classes)
    assert (exact.argmax(-1) == rounded.argmax(-1)).float().mean() > 0.97
    assert 0 < (exact - rounded).abs().max() < 0.15 * exact.std()


def test_the_bundled_models_greedy_tokens_are_those_of_float32():
    model = load_model("randar-tiny", device="cpu").transformer
    classes = list(range(8))
    tokens = generate(model, classes, generator=0, steps=8)
    exact, rounded = model(tokens, classes), pack_weights(model, torch.bfloat16)(tokens, classes)
    assert (exact.argmax(-1) == rounded.argmax(-1)).float().mean() > 0.98


@pytest.mark.parametrize("name", NAMES)
def test_a_stated_format_packs_the_weights(name: str):
    model, packed = golden_model(name), pack_weights(golden_model(name), torch.bfloat16)
    assert product_dtype(model) == torch.float32 and product_dtype(packed) == torch.bfloat16
    expected = generate(packed, [1, 2, 3], generator=0)
    assert torch.equal(generate(model, [1, 2, 3], generator=0, dtype="bfloat16"), expected)
    assert torch.equal(generate(packed, [1, 2, 3], generator=0, dtype=torch.bfloat16), expected)
    assert torch.equal(generate(pack_weights(model, "bfloat16"), [1, 2, 3], generator=0), expected)
    cache = new_cache(packed, 6)
    assert cache.keys.dtype == torch.bfloat16
    assert torch.equal(generate(packed, [1, 2, 3], generator=0, cache=cache), expected)
    assert isinstance(packed.output_layer, PackedLinear) and packed.output_layer.dtype == torch.float32
    assert product_dtype(model) == torch.float32  # packing leaves the model as it was


def test_float32_is_the_default_and_auto_is_the_fastest(monkeypatch: pytest.MonkeyPatch):
    model = golden_randar()
    default = generate(model, [1, 2], generator=0)
    assert torch.equal(generate(model, [1, 2], generator=0, dtype="float32"), default)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(generate(model, [1, 2], generator=0, dtype="float32"), default)
    for fastest in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(precision, "fastest_dtype", lambda device, fastest=fastest: fastest)
        stated = generate(model, [1, 2], generator=0, dtype=fastest)
        assert torch.equal(generate(model, [1, 2], generator=0, dtype="auto"), stated)


def test_models_held_in_another_format_compute_in_the_stated_one():
    model = golden_randar()
    half = golden_randar().to(torch.bfloat16)
    rounded = golden_randar()
    for parameter in rounded.parameters():
        parameter.data = parameter.data.bfloat16().float()
    assert torch.equal(generate(half, [1], generator=0, dtype="float32"), generate(rounded, [1], generator=0))
    assert torch.equal(generate(half, [1], generator=0, dtype="bfloat16"), generate(half, [1], generator=0))
    with pytest.raises(ValueError, match=r"float32 was stated, but the weights are packed in bfloat16"):
        generate(pack_weights(model, torch.bfloat16), [1], dtype="float32")
    with pytest.raises(ValueError, match="float32 was stated, but the weights are packed in float16"):
        generate(pack_weights(model, torch.float16), [1], dtype="float32")
    with pytest.raises(ValueError, match="int8"):
        generate(model, [1], dtype="int8")


def test_every_way_of_generating_takes_a_format(small_model):
    model, packed = golden_randar(), pack_weights(golden_randar(), torch.bfloat16)
    upscaled = upscale_tokens(model, [1], generator=0, steps=8, dtype="bfloat16")
    assert torch.equal(upscaled, upscale_tokens(packed, [1], generator=0, steps=8))
    assert torch.equal(upscaled, generate(model, [1], generator=0, steps=8, scale=2, dtype="bfloat16"))
    images, mask = torch.rand(1, 3, 16, 16), torch.zeros(16, 16, dtype=torch.bool)
    mask[:8] = True
    redrawn = inpaint(small_model, images, mask, [1], generator=0, dtype="bfloat16")
    assert torch.equal(redrawn[:, :, 8:], images[:, :, 8:])


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_features_of_packed_weights_are_in_their_format_alone(small_model: Model, stored: str):
    packed = replace(small_model, transformer=pack_weights(small_model.transformer, stored))
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    table = extract_features(pixels, packed, progress=False)
    assert table.details["dtype"] == stored
    assert torch.equal(table.maps, extract_features(pixels, packed, dtype=stored, progress=False).maps)
    with pytest.raises(ValueError, match=f"float16 was stated, but the weights are packed in {stored}"):
        extract_features(pixels, packed, dtype="float16", progress=False)
    with pytest.raises(ValueError, match=f"float16 was stated, but the weights are packed in {stored}"):
        ImageEncoder(packed, dtype="float16")
    assert packed.to("cpu") is packed
    with pytest.raises(ValueError, match=f"packed in torch.{stored} on cpu.*torch.float16"):
        packed.to(dtype="float16")


@pytest.mark.parametrize(
    "wrong", [{"order": "diagonal"}, {"schedule": "linear"}, {"guidance": (1, 2, 3)}, {"scale": 2, "order": "diagonal"}]
)
def test_bad_settings_are_refused_before_weights_are_packed(wrong: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(complete, "pack_weights", lambda *given: pytest.fail("the weights were packed"))
    with pytest.raises(ValueError, match=next(reversed(wrong))):
        generate(golden_randar(), [1], dtype="bfloat16", **wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("use", [pickle.dumps, torch.nn.Module.state_dict, pack_weights])
def test_packed_weights_are_neither_saved_nor_packed_again(
    use: Callable[[torch.nn.Module], object], dtype: torch.dtype
):
    with pytest.raises(TypeError, match=r"save the model that they were packed from|packed already"):
        use(pack_weights(golden_randar(), dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_copy_of_a_packed_model_draws_the_same(dtype: torch.dtype):
    """scikit-learn copies a model that is given to a step of a pipeline."""
    packed = pack_weights(golden_randar(), dtype)
    copied = copy.deepcopy(packed)
    assert copied.cls_embedding is not packed.cls_embedding
    tokens = [generate(model, [1, 2], steps=4, generator=0, dtype=dtype) for model in (packed, copied)]
    assert torch.equal(*tokens)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_cuda_steps_do_not_wait_for_the_device(name: str, dtype: torch.dtype):
    model = golden_model(name).to("cuda")
    model = model if dtype == torch.float32 else pack_weights(model, dtype)
    tokens, order = raster_tokens(name).cuda(), order_of(model, golden(name)[0].get("order"), 3).expand(3, -1)
    task = DecodingTask(
        classes=torch.tensor([1, 2, 3], device="cuda"),
        order=order,
        known=tokens.gather(1, order)[:, :8],
        schedule=[4, 4],
        guidance=Guidance(scale=Scale(2.0, 2.0)),
        sampling=Sampling(top_k=5, top_p=0.9),
        seeds=torch.tensor([1, 2, 3], device="cuda"),
        rotary=model.rotary,
    )
    if name == "llamagen_small":
        task = DecodingTask(**{**vars(task), "schedule": [1] * 8})
    expected = decode(model, task).tokens
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        tokens = decode(model, task).tokens
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(tokens, expected)


@pytest.mark.cuda
def test_cuda_greedy_tokens_in_bfloat16_are_those_of_float32():
    model = golden_randar().to("cuda")
    tokens, classes = raster_tokens("randar_small").cuda(), golden("randar_small")[0]["cond"].cuda()
    exact, rounded = model(tokens, classes), pack_weights(model, torch.bfloat16)(tokens, classes)
    assert (exact.argmax(-1) == rounded.argmax(-1)).float().mean() > 0.95


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_are_measured_in_their_own_format_alone(dtype: torch.dtype):
    packed, tokens = pack_weights(golden_randar(), dtype), torch.arange(32).view(2, 16)
    assert torch.equal(log_likelihood(packed, tokens, dtype=dtype), log_likelihood(packed, tokens))
    with pytest.raises(ValueError, match="float16 was stated, but the weights are packed in"):
        log_likelihood(packed, tokens, dtype="float16")
