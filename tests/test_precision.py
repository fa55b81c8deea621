"""One policy of number formats: what a call computes in, whatever the machine and the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from randar_features import (
    ImageEncoder,
    Model,
    encode_tokens,
    extract_features,
    generate,
    inpaint,
    load_model,
    log_likelihood,
    upscale_tokens,
)
from randar_features.hub import choose_device
from randar_features.layers.rope import fine_grid_rotary_table
from randar_features.precision import (
    autocast,
    check_dtype,
    compute_dtype,
    computing_in,
    fastest_dtype,
    full_float32,
    weights_dtype,
)

CPU = torch.device("cpu")
COMPUTE = ("float32", "bfloat16", "float16")
HELD = ("float32", "bfloat16", "float16", "float64")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("found", "expected"), [({}, "float32"), ({"amx_bf16": 1}, "bfloat16"), ({"avx512_bf16": 1}, "bfloat16")]
)
def test_the_fastest_format_follows_the_processor_and_the_default_does_not(
    small_model: Model, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], expected: str
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert fastest_dtype(CPU) == getattr(torch, expected)
    options: dict[str, Any] = {"pool": "mean", "progress": False}
    default, auto = (extract_features(images, small_model, dtype=dtype, **options) for dtype in (None, "auto"))
    assert (default.details["dtype"], auto.details["dtype"]) == ("float32", expected)
    stated = extract_features(images, small_model, dtype=expected, **options)
    assert torch.equal(auto.pooled(), stated.pooled())
    assert torch.equal(
        ImageEncoder(small_model, dtype="auto")(images), ImageEncoder(small_model, dtype=expected)(images)
    )


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_numbers_do_not_depend_on_the_default_format_of_torch(
    small_model: Model, images: torch.Tensor, default: torch.dtype
):
    def numbers() -> list[Any]:
        tokens = small_model.tokenizer.encode(images)
        with pytest.warns(UserWarning, match="could not be read"):
            features = extract_features([*images, "missing.png"], small_model, orders=3, pool="mean", progress=False)
        return [
            features.pooled()[:2],
            log_likelihood(small_model, tokens, orders=2),
            upscale_tokens(small_model, [1], steps=6, generator=0),
            fine_grid_rotary_table(4, 16, 10000.0),
        ]

    expected = numbers()
    torch.set_default_dtype(default)
    try:
        found = numbers()
    finally:
        torch.set_default_dtype(torch.float32)
    assert [one.dtype for one in found] == [torch.float32, torch.float32, torch.int64, torch.float32]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_formats_are_given_by_name_or_as_torch_has_them(small_model: Model):
    for name in COMPUTE:
        assert check_dtype(name) == check_dtype(getattr(torch, name)) == getattr(torch, name)
    for wrong in ("half", "torch.float32", "float64", torch.int8, torch.float64, 16, True):
        with pytest.raises(ValueError, match=r"dtype=.*float32.*auto"):
            check_dtype(wrong)
    for name in HELD:
        assert weights_dtype(name) == getattr(torch, name)
        assert load_model(small_model, dtype=name).dtype == getattr(torch, name)
    for wrong in ("auto", "int8", torch.int64, torch.complex64):
        with pytest.raises(TypeError, match=r"dtype=.*float32"):
            weights_dtype(wrong)


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("computed", [None, *COMPUTE])
def test_weights_of_any_format_compute_in_any(
    small_model: Model, images: torch.Tensor, held: str, computed: str | None
):
    reference = extract_features(images, small_model, pool="mean", dtype="float32", progress=False).pooled()
    model = load_model(small_model, dtype=held)
    table = extract_features(images, model, pool="mean", dtype=computed, progress=False)
    assert table.details["dtype"] == (computed or held)
    # A tokenizer held in half precision takes other tokens here and there.
    tolerance = {"bfloat16": 0.3, "float16": 0.1}.get(held, 5e-2)
    assert (table.pooled() - reference).norm() < tolerance * reference.norm()
    encoder = ImageEncoder(model, dtype=computed)
    torch.testing.assert_close(encoder(images), table.pooled()[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("held", HELD)
def test_every_inference_call_takes_weights_of_any_format(small_model: Model, images: torch.Tensor, held: str):
    model = load_model(small_model, dtype=held)
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    assert generate(model.transformer, [1], steps=4, generator=0).shape == (1, 16)
    assert upscale_tokens(model.transformer, [1], steps=8, generator=0).shape == (1, 64)
    assert log_likelihood(model.transformer, tokens).isfinite().all()
    assert encode_tokens(model.transformer, tokens).isfinite().all()
    assert model.tokenizer.decode(tokens).isfinite().all()
    assert inpaint(model, images, torch.eye(16, dtype=torch.bool), steps=3, generator=0).isfinite().all()


def test_a_callers_autocast_counts_where_no_format_is_stated(small_model: Model, images: torch.Tensor):
    options: dict[str, Any] = {"pool": "mean", "progress": False}
    stated = {name: extract_features(images, small_model, dtype=name, **options) for name in COMPUTE}
    encoder = ImageEncoder(small_model)
    with torch.autocast("cpu", torch.bfloat16):
        own = extract_features(images, small_model, **options)
        assert torch.equal(encoder(images), own.pooled()[:, 0])
        full = extract_features(images, small_model, dtype="float32", **options)
        assert compute_dtype(None, CPU, torch.float32) == torch.bfloat16
        with autocast(CPU, torch.float32):
            assert not torch.is_autocast_enabled("cpu")
        with autocast(CPU, None):
            assert torch.is_autocast_enabled("cpu")
    assert own.details["dtype"] == "bfloat16" and torch.equal(own.pooled(), stated["bfloat16"].pooled())
    assert full.details["dtype"] == "float32" and torch.equal(full.pooled(), stated["float32"].pooled())


def test_a_stated_format_that_the_weights_no_longer_allow_is_refused(small_model: Model, images: torch.Tensor):
    encoder = ImageEncoder(load_model(small_model, dtype="float64"), dtype="float32").to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"float32.*bfloat16"):
        encoder(images)


def test_float32_is_in_full_precision_inside_and_as_before_outside():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul)
        outside = [switch.fp32_precision for switch in switches]
        assert outside == ["tf32", "tf32", "bf16"]
        with computing_in(torch.float32, CPU):
            assert [switch.fp32_precision for switch in switches] == ["ieee"] * 3
        assert [switch.fp32_precision for switch in switches] == outside
        with pytest.raises(KeyError), full_float32():
            raise KeyError
        assert [switch.fp32_precision for switch in switches] == outside
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("device", ["meta", "mps", "xpu", "cuda:99", "nowhere", "", -1])
def test_devices_that_are_not_there_are_refused(small_model: Model, images: torch.Tensor, device: Any):
    if str(device) in ("mps", "xpu") and torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    for attempt in (choose_device, lambda one: extract_features(images, small_model, device=one, progress=False)):
        with pytest.raises(ValueError, match="device="):
            attempt(device)
