"""LlamaGen's tokenizer: its parts, and its widths as arguments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from randar_features.tokenizers import LlamaGenTokenizer
from randar_features.tokenizers.llamagen import AttentionBlock, Downsample, ResidualBlock
from tests.tokenizers.small import random_images, small_llamagen


def test_attention_is_softmax_over_all_positions() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(64)
    x = torch.randn(2, 64, 3, 5)
    h = block.norm(x)
    q, k, v = (conv(h).flatten(2) for conv in (block.q, block.k, block.v))  # (B, D, n)
    weights = torch.softmax(torch.einsum("bdi,bdj->bij", q, k) / 8, dim=-1)
    attended = torch.einsum("bij,bdj->bdi", weights, v).view(2, 64, 3, 5)
    torch.testing.assert_close(block(x), x + block.proj_out(attended), atol=1e-5, rtol=0)


def test_downsampling_pads_on_the_right_and_below() -> None:
    block = Downsample(1)
    block.load_state_dict({"conv.weight": torch.ones(1, 1, 3, 3), "conv.bias": torch.zeros(1)})
    ones = torch.ones(1, 1, 4, 4)
    assert block(ones).tolist() == [[[[9.0, 6.0], [6.0, 4.0]]]]


def test_the_shortcut_takes_the_input() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(32, 64)
    x = torch.randn(1, 32, 4, 4)
    h = block.conv2(F.silu(block.norm2(block.conv1(F.silu(block.norm1(x))))))
    assert block.nin_shortcut is not None
    torch.testing.assert_close(block(x), block.nin_shortcut(x) + h)
    assert ResidualBlock(32, 32).nin_shortcut is None


def patches(images: Tensor, side: int) -> Tensor:
    """Channels (colour, row in the patch, column in the patch), colour slowest."""
    colours = images.unbind(1)
    planes = [c[:, i::side, j::side] for c in colours for i in range(side) for j in range(side)]
    return torch.stack(planes, dim=1)


def test_the_stem_sees_patches_as_channels() -> None:
    tokenizer = small_llamagen(stem_patch=4, channel_multipliers=(1, 2))
    assert tokenizer.encoder.conv_in.weight.shape == (32, 48, 3, 3)
    assert tokenizer.decoder.conv_out.weight.shape == (48, 32, 3, 3)
    seen: list[Tensor] = []
    tokenizer.encoder.conv_in.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = random_images(2, 3, 16, 24)
    latents = tokenizer.latents(images)
    assert latents.shape == (2, 8, 2, 3)
    torch.testing.assert_close(seen[0], patches(2 * images - 1, 4))


def test_the_decoder_lays_its_channels_out_as_patches() -> None:
    tokenizer = small_llamagen(stem_patch=4, channel_multipliers=(1, 2))
    given: list[Tensor] = []
    tokenizer.decoder.conv_out.register_forward_hook(lambda _, __, output: given.append(output))
    raw = tokenizer.decode_raw(torch.arange(12).view(2, 6), grid=(2, 3))
    assert raw.shape == (2, 3, 16, 24)
    assert torch.equal(patches(raw, 4), given[0])


@pytest.mark.parametrize(
    ("sizes", "downsampling"),
    [
        ({"channel_multipliers": (1,)}, 1),
        ({"channel_multipliers": (2, 1)}, 2),
        ({"channel_multipliers": (1, 2), "stem_patch": 4}, 8),
        ({"channel_multipliers": (1, 1, 2), "stem_patch": 2, "blocks_per_level": 2, "attention": False}, 8),
    ],
)
def test_sizes(sizes: dict[str, object], downsampling: int) -> None:
    tokenizer = small_llamagen(**sizes)
    assert tokenizer.downsampling == downsampling
    images = random_images(1, 3, 2 * downsampling, 3 * downsampling)
    tokens = tokenizer.encode(images)
    assert tokens.shape == (1, 6)
    assert tokenizer.decode(tokens, grid=(2, 3)).shape == images.shape
    has_attention = any(".q." in name for name in tokenizer.state_dict())
    assert has_attention == sizes.get("attention", True)


def test_codes_are_of_unit_length_whatever_the_rows() -> None:
    tokenizer = small_llamagen()
    tokens = torch.arange(100).view(1, 100)
    expected = tokenizer.codes(tokens)
    torch.testing.assert_close(expected.norm(dim=-1), torch.ones(1, 100))
    images = random_images(1, 3, 16, 16)
    encoded = tokenizer.encode(images)
    with torch.no_grad():
        tokenizer.quantize.embedding.weight.mul_(torch.linspace(0.5, 20, 100)[:, None])
    torch.testing.assert_close(tokenizer.codes(tokens), expected)
    assert torch.equal(tokenizer.encode(images), encoded)


def test_8_bit_values_are_rounded_as_published() -> None:
    raw = torch.tensor([-1.5, -1.0, -0.9962, -0.9960, 0.0, 0.5, 0.9884, 1.0, 1.5])
    by_hand = [0, 0, 0, 1, 128, 191, 254, 255, 255]  # x·127.5 + 128, clamped, fraction cut off
    images = ((raw + 1) / 2).view(1, 1, 1, 9).expand(1, 3, 1, 9)
    assert LlamaGenTokenizer.to_uint8(small_llamagen(), images)[0, 0, :, 0].tolist() == by_hand


def test_the_usage_counter_is_kept_but_not_trained() -> None:
    tokenizer = small_llamagen()
    assert tokenizer.state_dict()["quantize.codebook_used"].shape == (65536,)
    assert "quantize.codebook_used" not in dict(tokenizer.named_parameters())
