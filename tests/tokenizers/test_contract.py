"""What both tokenizers promise, on small ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from randar_features.tokenizers import ImageTokenizer
from tests.tokenizers.small import BUILDERS, random_images, small_llamagen, small_maskgit


@pytest.fixture(scope="module", params=list(BUILDERS))
def build(request: pytest.FixtureRequest) -> Callable[..., ImageTokenizer]:
    return BUILDERS[request.param]


@pytest.fixture(scope="module")
def tokenizer(build: Callable[..., ImageTokenizer]) -> ImageTokenizer:
    return build()


def transposed(tokenizer: ImageTokenizer, like: ImageTokenizer) -> ImageTokenizer:
    """`like` filled with `tokenizer`'s weights, each kernel with rows and columns exchanged."""
    state = tokenizer.state_dict()
    like.load_state_dict({name: weight.mT if weight.ndim == 4 else weight for name, weight in state.items()})
    return like


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 24), (20, 4)])
def test_any_multiple_of_the_downsampling_works(tokenizer: ImageTokenizer, height: int, width: int) -> None:
    images = random_images(2, 3, height, width)
    assert tokenizer.downsampling == 4
    rows, columns = height // 4, width // 4
    tokens = tokenizer.encode(images)
    assert tokens.shape == (2, rows * columns) and tokens.dtype == torch.int64
    assert tokens.min() >= 0 and tokens.max() < 100 and tokens.unique().numel() > 1
    decoded = tokenizer.decode(tokens, grid=(rows, columns))
    assert decoded.shape == images.shape and decoded.dtype == torch.float32
    assert decoded.min() >= 0 and decoded.max() <= 1
    raw = tokenizer.decode_raw(tokens, grid=(rows, columns))
    low, high = tokenizer.raw_range
    torch.testing.assert_close(decoded, ((raw - low) / (high - low)).clamp(0, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("small", [small_llamagen, small_maskgit])
def test_transposed_kernels_see_transposed_images(small: Callable[..., ImageTokenizer]) -> None:
    tokenizer = small()
    other = transposed(tokenizer, small())
    images = random_images(2, 3, 16, 28)
    latents = tokenizer.latents(images)
    torch.testing.assert_close(other.latents(images.mT), latents.mT, atol=1e-5, rtol=0)
    tokens = tokenizer.quantize_latents(latents)
    on_its_side = tokens.view(2, 4, 7).mT.flatten(1)
    assert torch.equal(other.quantize_latents(latents.mT), on_its_side)
    decoded = tokenizer.decode_raw(tokens, (4, 7))
    torch.testing.assert_close(other.decode_raw(on_its_side, (7, 4)), decoded.mT, atol=1e-5, rtol=0)


def test_an_image_gives_the_same_in_any_batch(tokenizer: ImageTokenizer) -> None:
    images = random_images(5, 3, 16, 16)
    latents = tokenizer.latents(images)
    one_by_one = torch.cat([tokenizer.latents(image[None]) for image in images])
    torch.testing.assert_close(latents, one_by_one, atol=1e-5, rtol=0)
    tokens = tokenizer.encode(images)
    assert torch.equal(tokens, torch.cat([tokenizer.encode(image[None]) for image in images]))
    decoded = torch.cat([tokenizer.decode(row[None]) for row in tokens])
    torch.testing.assert_close(tokenizer.decode(tokens), decoded, atol=1e-5, rtol=0)


def test_channels_last_changes_nothing(tokenizer: ImageTokenizer) -> None:
    images = random_images(2, 3, 16, 16)
    expected = tokenizer(images)
    output = tokenizer(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(output.tokens, expected.tokens)
    torch.testing.assert_close(output.reconstruction, expected.reconstruction, atol=1e-5, rtol=0)


def test_forward_is_encode_and_decode(tokenizer: ImageTokenizer) -> None:
    images = random_images(2, 3, 16, 16)
    output = tokenizer(images)
    assert torch.equal(output.tokens, tokenizer.encode(images))
    codes = tokenizer.codes(output.tokens).mT.unflatten(2, (4, 4))
    torch.testing.assert_close(output.quantized, codes, atol=1e-6, rtol=0)
    torch.testing.assert_close(output.reconstruction, tokenizer.decode_raw(output.tokens), atol=1e-4, rtol=0)


def test_gradients_pass_straight_through_the_codebook(tokenizer: ImageTokenizer) -> None:
    latents = torch.randn(2, tokenizer.code_dim, 3, 2, requires_grad=True)
    weights = torch.randn(2, tokenizer.code_dim, 3, 2)
    scaled, quantized, _ = tokenizer.quantize(latents)
    (through,) = torch.autograd.grad((quantized * weights).sum(), latents, retain_graph=True)
    (around,) = torch.autograd.grad((scaled * weights).sum(), latents)
    assert torch.equal(through, around) and through.abs().sum() > 0


def test_a_reconstruction_loss_trains_the_networks_and_codes_train_the_codebook(
    tokenizer: ImageTokenizer,
) -> None:
    tokenizer.zero_grad()
    output = tokenizer(random_images(2, 3, 16, 16))
    output.reconstruction.square().mean().backward()
    for name, parameter in tokenizer.named_parameters():
        frozen = name == "quantize.embedding.weight" or not parameter.requires_grad
        assert (parameter.grad is None) == frozen, name
    tokenizer.codes(output.tokens)[..., 0].sum().backward()
    gradient = tokenizer.quantize.embedding.weight.grad
    assert gradient is not None
    assert torch.equal(gradient.abs().sum(dim=1).nonzero().flatten(), output.tokens.unique())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_and_a_float32_search(build: Callable[..., ImageTokenizer], dtype: torch.dtype) -> None:
    full, half = build(), build().to(dtype)
    images = random_images(4, 3, 16, 16)
    latents = half.latents(images)
    assert latents.dtype == dtype
    tolerance = 0.1 if dtype == torch.bfloat16 else 0.02
    torch.testing.assert_close(latents.float(), full.latents(images), atol=tolerance, rtol=0)
    tokens = half.encode(images)
    vectors = half.quantize.scale(latents.permute(0, 2, 3, 1).flatten(1, 2), dim=-1)
    nearest = torch.cdist(vectors.double(), half.quantize.weight().double()).argmin(dim=-1)
    assert torch.equal(tokens, nearest)
    decoded = half.decode(tokens)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, full.decode(tokens), atol=tolerance, rtol=0)


def test_the_search_is_in_float32_under_autocast(tokenizer: ImageTokenizer) -> None:
    latents = torch.randn(4, tokenizer.code_dim, 16, 16)
    expected = tokenizer.quantize_latents(latents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.quantize_latents(latents), expected)
        assert tokenizer(random_images(1, 3, 16, 16)).reconstruction.dtype == torch.float32


def test_autocast_changes_no_token_and_no_pixel(tokenizer: ImageTokenizer) -> None:
    images = random_images(8, 3, 16, 16)
    tokens, pixels = tokenizer.encode(images), tokenizer.decode(torch.arange(64).view(4, 16))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.encode(images), tokens)
        assert torch.equal(tokenizer.decode(torch.arange(64).view(4, 16)), pixels)
        # Training may choose it, so there it does reach the networks.
        assert tokenizer.latents(images).dtype == torch.bfloat16


def test_float64_and_half_images_are_taken(tokenizer: ImageTokenizer) -> None:
    images = random_images(1, 3, 16, 16)
    assert torch.equal(tokenizer.encode(images.double()), tokenizer.encode(images))
    assert torch.equal(tokenizer.encode(images.half()), tokenizer.encode(images.half().float()))


def test_state_dict_round_trip(build: Callable[..., ImageTokenizer]) -> None:
    images = random_images(1, 3, 16, 16)
    tokenizer, copy = build(), build()
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(1.0)
    copy.load_state_dict(tokenizer.state_dict())
    assert torch.equal(copy(images).reconstruction, tokenizer(images).reconstruction)


def test_whole_8_bit_values_survive(tokenizer: ImageTokenizer) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    converted = tokenizer.to_uint8(pixels.float() / 255)
    assert converted.dtype == torch.uint8
    assert torch.equal(converted, pixels.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 3, 18, 16), ValueError, r"18x16 .* factor 4.*16x16"),
        (torch.zeros(1, 3, 0, 16), ValueError, r"0x16 .* factor 4"),
        (torch.zeros(1, 1, 16, 16), ValueError, r"\(1, 1, 16, 16\), expected \(B, 3, H, W\)"),
        (torch.zeros(3, 16, 16), ValueError, r"\(3, 16, 16\), expected \(B, 3, H, W\)"),
        (torch.zeros(1, 16, 16, 3), ValueError, r"\(1, 16, 16, 3\), expected \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), TypeError, r"torch.uint8.*\[0, 1\].*divide"),
        (torch.arange(768.0).view(1, 3, 16, 16) % 256, ValueError, "from 0 to 255, .*divide 8-bit values by 255"),
        (torch.full((1, 3, 16, 16), -2.1), ValueError, "from -2.1 to -2.1, .*leave out normalisation"),
        (torch.full((1, 3, 16, 16), 1.01), ValueError, r"from 1.01 to 1.01, .*bicubic.*clamp\(0, 1\)"),
        (torch.full((1, 3, 16, 16), float("nan")), ValueError, "hold NaN"),
        (np.zeros((1, 3, 16, 16), np.float32), TypeError, "of type ndarray, expected a floating-point tensor"),
        (Image.new("RGB", (16, 16)), TypeError, "of type Image, expected a floating-point tensor.*open_images"),
        (torch.zeros(0, 3, 16, 16), ValueError, r"\(0, 3, 16, 16\), expected .* at least one"),
    ],
)
def test_wrong_images(tokenizer: ImageTokenizer, images: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tokenizer.encode(images)


def test_rounding_at_the_ends_of_the_range_is_taken(tokenizer: ImageTokenizer) -> None:
    images = random_images(1, 3, 16, 16)
    assert tokenizer.encode(images * 1.001 - 0.0005).shape == (1, 16)
    images[0, 0, 0, 0] = 1.0001
    assert tokenizer.encode(images.requires_grad_()).shape == (1, 16)


def test_tokens_of_every_integer_format(tokenizer: ImageTokenizer) -> None:
    tokens = torch.arange(4)[None]
    for dtype in (torch.uint8, torch.int16, torch.uint16, torch.uint32):
        assert torch.equal(tokenizer.decode(tokens.to(dtype)), tokenizer.decode(tokens))


@pytest.mark.parametrize(
    ("tokens", "grid", "error", "message"),
    [
        (torch.tensor([[0, 1, 2, 100]]), None, ValueError, "from 0 to 100, .* codes are 0 to 99"),
        (torch.tensor([[0, -1, 2, 3]]), None, ValueError, "from -1 to 3, .* codes are 0 to 99"),
        (torch.zeros(1, 4), None, TypeError, "torch.float32, expected integers"),
        (np.zeros((1, 4), np.int64), None, TypeError, "of type ndarray, expected a tensor of integers"),
        (torch.zeros(1, 4, dtype=torch.bool), None, TypeError, "torch.bool, expected integers"),
        (torch.zeros(4, dtype=torch.long), None, ValueError, r"\(4,\), expected \(B, N\)"),
        (torch.zeros(1, 6, dtype=torch.long), None, ValueError, r"6 tokens .*grid=\(rows, columns\)"),
        (torch.zeros(1, 6, dtype=torch.long), (2, 2), ValueError, "grid of 2x2 does not hold 6 tokens"),
        (torch.zeros(1, 0, dtype=torch.long), None, ValueError, "grid of 0x0 does not hold 0"),
        (torch.zeros(1, 6, dtype=torch.long), (-2, -3), ValueError, "grid of -2x-3 does not hold 6"),
    ],
)
def test_wrong_tokens(
    tokenizer: ImageTokenizer,
    tokens: torch.Tensor,
    grid: tuple[int, int] | None,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        tokenizer.decode(tokens, grid)


def test_wrong_latents(tokenizer: ImageTokenizer) -> None:
    with pytest.raises(ValueError, match=rf"\(1, 5, 2, 2\), expected \(B, {tokenizer.code_dim}, h, w\)"):
        tokenizer.quantize_latents(torch.zeros(1, 5, 2, 2))


@pytest.mark.parametrize("small", [small_llamagen, small_maskgit])
def test_wrong_sizes(small: Callable[..., ImageTokenizer]) -> None:
    with pytest.raises(ValueError, match=r"channels=48 .*\(1, 2\) gives a width of 48.* multiple of the 32"):
        small(channels=48, channel_multipliers=(1, 2))
    with pytest.raises(ValueError, match=r"channel_multipliers=\(\), expected one number a level"):
        small(channel_multipliers=())
    with pytest.raises(ValueError, match="vocab_size=0, expected an integer, 1 to"):
        small(vocab_size=0)
    with pytest.raises(ValueError, match="blocks_per_level='2', expected an integer"):
        small(blocks_per_level="2")


@pytest.mark.parametrize("small", [small_llamagen, small_maskgit])
def test_weights_of_another_shape_are_refused(small: Callable[..., ImageTokenizer]) -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch for quantize\.embedding\.weight"):
        small().load_state_dict(small(vocab_size=64).state_dict())
    incomplete: dict[str, torch.Tensor] = small().state_dict()
    del incomplete["encoder.conv_out.bias"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"encoder.conv_out.bias"'):
        small().load_state_dict(incomplete)
