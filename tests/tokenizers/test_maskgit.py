"""The MaskGIT VQGAN: its odd shortcut, its pooling, its 8-bit values."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from randar_features.tokenizers.maskgit import DownLevel, ResidualBlock
from tests.tokenizers.small import random_images, small_maskgit


def test_where_the_width_changes_the_shortcut_takes_the_output_and_the_input_is_dropped() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(32, 64)
    x = torch.randn(2, 32, 4, 4)
    h = block.conv2(F.silu(block.norm2(block.conv1(F.silu(block.norm1(x))))))
    assert block.nin_shortcut is not None
    shortcut = torch.einsum("oi,bihw->bohw", block.nin_shortcut.weight[:, :, 0, 0], h)
    torch.testing.assert_close(block(x), shortcut + h)
    torch.nn.init.zeros_(block.conv2.weight)
    assert block(x).abs().sum() == 0


def test_equal_widths_add_the_input() -> None:
    block = ResidualBlock(32, 32)
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(block(x), x)
    assert [name for name, _ in block.named_parameters() if "bias" in name] == ["norm1.bias", "norm2.bias"]


def test_levels_are_pooled_by_averages() -> None:
    level = DownLevel(32, 32, blocks=1, pool=True)
    torch.nn.init.zeros_(level.get_parameter("block.0.conv2.weight"))
    x = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 32, 4, 4)
    assert level(x)[0, 5].tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_pixels_go_in_as_they_are() -> None:
    tokenizer = small_maskgit()
    seen: list[torch.Tensor] = []
    tokenizer.encoder.conv_in.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = random_images(1, 3, 8, 8)
    tokenizer.encode(images)
    assert torch.equal(seen[0], images)


def test_8_bit_values_are_cut_off() -> None:
    values = torch.tensor([-0.1, 0.0, 0.99 / 255, 100.01 / 255, 100.99 / 255, 0.9999, 1.0, 1.1])
    converted = small_maskgit().to_uint8(values.view(1, 1, 1, 8).expand(1, 3, 1, 8))
    assert converted[0, 0, :, 0].tolist() == [0, 0, 0, 100, 100, 254, 255, 255]
