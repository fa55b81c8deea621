"""LlamaGen's VQ tokenizer (Sun et al. 2024, arXiv:2406.06525): 16384 codes of 8 numbers, 256 to 16 a side.

The default arguments of `LlamaGenTokenizer` are the published network, and its state dict has the
published names. Shapes: B batch, D channels, H and W rows and columns of pixels or latents.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from randar_features.tokenizers.base import Codebook, ImageTokenizer, check_counts, group_norm, level_widths

# The published checkpoint's ring buffer of recently used codes: training state, never read here.
USAGE_HISTORY = 65536


class ResidualBlock(nn.Module):
    """Twice group normalisation, SiLU and a 3x3 convolution, added to the input."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = group_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) to (B, channels_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttentionBlock(nn.Module):
    """Self-attention over all positions: one head of all channels, 1x1 projections, residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) to (B, D, H, W)."""
        h = self.norm(x)
        # (B, D, H, W) -> (B, 1, H·W, D)
        q, k, v = (projection(h).flatten(2).mT.unsqueeze(1) for projection in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)
        # (B, 1, H·W, D) -> (B, D, H, W)
        return x + self.proj_out(attended.squeeze(1).mT.unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """3x3 convolution of stride 2, padded on the right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) to (B, D, H/2, W/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Each position repeated 2x2, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) to (B, D, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """One resolution: residual blocks, each followed by attention if wanted, then a change of scale."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        blocks: int,
        attention: bool,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * blocks
        self.res = nn.ModuleList(ResidualBlock(before, after) for before, after in pairwise(widths))
        self.attn = nn.ModuleList(AttentionBlock(channels_out) for _ in range(blocks if attention else 0))
        self.downsample = Downsample(channels_out) if downsample else None
        self.upsample = Upsample(channels_out) if upsample else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) to (B, channels_out, H', W'), sides as they are, halved or doubled."""
        for index, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        if self.downsample is not None:
            x = self.downsample(x)
        return x if self.upsample is None else self.upsample(x)


def _middle(channels: int, attention: bool) -> nn.ModuleList:
    between = [AttentionBlock(channels)] if attention else []
    return nn.ModuleList([ResidualBlock(channels, channels), *between, ResidualBlock(channels, channels)])


class Encoder(nn.Module):
    """Pixels to latents; `widths` are those of the stem and of each level, finest first."""

    def __init__(
        self, widths: Sequence[int], *, blocks: int, latent_channels: int, patch: int, attention: bool
    ) -> None:
        super().__init__()
        self.patch = patch
        self.conv_in = nn.Conv2d(3 * patch**2, widths[0], 3, padding=1)
        deepest = len(widths) - 2
        self.conv_blocks = nn.ModuleList(
            Level(before, after, blocks=blocks, attention=attention and i == deepest, downsample=i < deepest)
            for i, (before, after) in enumerate(pairwise(widths))
        )
        self.mid = _middle(widths[-1], attention)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], latent_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, latent_channels, H / downsampling, W / downsampling)."""
        x = self.conv_in(F.pixel_unshuffle(pixels, self.patch))
        for block in (*self.conv_blocks, *self.mid):
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Latents to pixels; `widths` are those of the middle and of each level, deepest first."""

    def __init__(
        self, widths: Sequence[int], *, blocks: int, latent_channels: int, patch: int, attention: bool
    ) -> None:
        super().__init__()
        self.patch = patch
        self.conv_in = nn.Conv2d(latent_channels, widths[0], 3, padding=1)
        self.mid = _middle(widths[0], attention)
        finest = len(widths) - 2
        self.conv_blocks = nn.ModuleList(
            Level(before, after, blocks=blocks, attention=attention and i == 0, upsample=i < finest)
            for i, (before, after) in enumerate(pairwise(widths))
        )
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3 * patch**2, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """(B, latent_channels, h, w) to (B, 3, h · downsampling, w · downsampling)."""
        x = self.conv_in(latents)
        for block in (*self.mid, *self.conv_blocks):
            x = block(x)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.patch)


class LlamaGenTokenizer(ImageTokenizer):
    """LlamaGen's VQ-16 with its published sizes, or a smaller network of the same kind.

    Args:
        channels: width in front of the first level.
        channel_multipliers: width of each level, finest first, in units of `channels`; every width must be
            a multiple of 32 (group normalisation). Each level but the last halves both sides.
        blocks_per_level: residual blocks a level of the encoder; the decoder has one more.
        latent_channels: channels between encoder or decoder and the 1x1 convolutions around the codebook.
        vocab_size: number of codes V.
        code_dim: numbers a code.
        stem_patch: the networks work on patches of this many pixels a side, laid into channels
            (`pixel_unshuffle`), which multiplies `downsampling`; 1 is the published network.
        attention: attention blocks after each residual block of the deepest level and in the middle.

    Attributes: `downsampling` = stem_patch · 2^(levels - 1), `vocab_size`, `code_dim`.
    Raises `ValueError` for a width that is no multiple of 32 and for counts below 1.
    """

    raw_range = (-1.0, 1.0)
    rounding = 0.5

    def __init__(
        self,
        *,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks_per_level: int = 2,
        latent_channels: int = 256,
        vocab_size: int = 16384,
        code_dim: int = 8,
        stem_patch: int = 1,
        attention: bool = True,
    ) -> None:
        super().__init__()
        check_counts(blocks_per_level=blocks_per_level, latent_channels=latent_channels)
        check_counts(vocab_size=vocab_size, code_dim=code_dim, stem_patch=stem_patch)
        widths = level_widths(channels, channel_multipliers)
        self.downsampling = stem_patch * 2 ** (len(widths) - 1)
        self.vocab_size, self.code_dim = vocab_size, code_dim
        shape: dict[str, Any] = {"latent_channels": latent_channels, "patch": stem_patch, "attention": attention}
        self.encoder = Encoder([channels, *widths], blocks=blocks_per_level, **shape)
        self.decoder = Decoder([widths[-1], *reversed(widths)], blocks=blocks_per_level + 1, **shape)
        self.quantize = Codebook(vocab_size=vocab_size, code_dim=code_dim, unit_length=True)
        self.quantize.register_buffer("codebook_used", torch.zeros(USAGE_HISTORY))
        self.quant_conv = nn.Conv2d(latent_channels, code_dim, 1)
        self.post_quant_conv = nn.Conv2d(code_dim, latent_channels, 1)

    def _encode(self, pixels: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(pixels))

    def _decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(codes))
