"""The MaskGIT VQGAN (Chang et al. 2022, arXiv:2202.04200): 1024 codes of 256 numbers, 256 to 16 a side.

The default arguments of `MaskGITTokenizer` are the published network, and its state dict has the
published names.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from randar_features.tokenizers.base import Codebook, ImageTokenizer, check_counts, group_norm, level_widths


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions without bias and a residual, which is odd where the width changes.

    There the shortcut takes the output of `conv2` instead of the block's input, and the input itself is
    dropped: shortcut(h) + h. The published weights were trained so.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm2 = group_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.nin_shortcut = None
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_out, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) to (B, channels_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(h))


def _residual_blocks(channels_in: int, channels_out: int, blocks: int) -> nn.ModuleList:
    widths = [channels_in] + [channels_out] * blocks
    return nn.ModuleList(ResidualBlock(before, after) for before, after in pairwise(widths))


class DownLevel(nn.Module):
    """Residual blocks, then 2x2 average pooling but at the deepest level."""

    def __init__(self, channels_in: int, channels_out: int, *, blocks: int, pool: bool) -> None:
        super().__init__()
        self.block = _residual_blocks(channels_in, channels_out, blocks)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) to (B, channels_out, H, W), or half as many rows and columns."""
        for block in self.block:
            x = block(x)
        return F.avg_pool2d(x, 2) if self.pool else x


class UpLevel(nn.Module):
    """Residual blocks, then each position repeated 2x2 and a 3x3 convolution but at the finest level."""

    def __init__(self, channels_in: int, channels_out: int, *, blocks: int, upsample: bool) -> None:
        super().__init__()
        self.block = _residual_blocks(channels_in, channels_out, blocks)
        self.upsample_conv = nn.Conv2d(channels_out, channels_out, 3, padding=1) if upsample else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) to (B, channels_out, H, W), or twice as many rows and columns."""
        for block in self.block:
            x = block(x)
        if self.upsample_conv is None:
            return x
        return self.upsample_conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Encoder(nn.Module):
    """Pixels to latents; `widths` are those of the stem and of each level, finest first."""

    def __init__(self, widths: Sequence[int], *, blocks: int, code_dim: int) -> None:
        super().__init__()
        deepest = len(widths) - 2
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            DownLevel(before, after, blocks=blocks, pool=i < deepest)
            for i, (before, after) in enumerate(pairwise(widths))
        )
        self.mid = _residual_blocks(widths[-1], widths[-1], 2)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], code_dim, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, code_dim, H / downsampling, W / downsampling)."""
        x = self.conv_in(pixels)
        for block in (*self.down, *self.mid):
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Codes to pixels; `widths` are those of each level, finest first, and of the middle.

    `up[0]` is the finest level and the last to run.
    """

    def __init__(self, widths: Sequence[int], *, blocks: int, code_dim: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(code_dim, widths[-1], 3, padding=1)
        self.mid = _residual_blocks(widths[-1], widths[-1], 2)
        self.up = nn.ModuleList(
            UpLevel(before, after, blocks=blocks, upsample=i > 0) for i, (after, before) in enumerate(pairwise(widths))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """(B, code_dim, h, w) to (B, 3, h · downsampling, w · downsampling)."""
        x = self.conv_in(codes)
        for block in (*self.mid, *reversed(self.up)):
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class MaskGITTokenizer(ImageTokenizer):
    """The MaskGIT VQGAN with its published sizes, or a smaller network of the same kind.

    Args:
        channels: width in front of the first level.
        channel_multipliers: width of each level, finest first, in units of `channels`; every width must be
            a multiple of 32 (group normalisation). Each level but the last halves both sides.
        blocks_per_level: residual blocks a level, in encoder and decoder.
        vocab_size: number of codes V.
        code_dim: numbers a code.

    Attributes: `downsampling` = 2^(levels - 1), `vocab_size`, `code_dim`.
    Raises `ValueError` for a width that is no multiple of 32 and for counts below 1.
    """

    raw_range = (0.0, 1.0)
    rounding = 0.0

    def __init__(
        self,
        *,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks_per_level: int = 2,
        vocab_size: int = 1024,
        code_dim: int = 256,
    ) -> None:
        super().__init__()
        check_counts(blocks_per_level=blocks_per_level, vocab_size=vocab_size, code_dim=code_dim)
        widths = level_widths(channels, channel_multipliers)
        self.downsampling = 2 ** (len(widths) - 1)
        self.vocab_size, self.code_dim = vocab_size, code_dim
        self.encoder = Encoder([channels, *widths], blocks=blocks_per_level, code_dim=code_dim)
        self.decoder = Decoder([*widths, widths[-1]], blocks=blocks_per_level, code_dim=code_dim)
        self.quantize = Codebook(vocab_size=vocab_size, code_dim=code_dim, unit_length=False)

    def _encode(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels)

    def _decode(self, codes: Tensor) -> Tensor:
        return self.decoder(codes)
