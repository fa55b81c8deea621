"""A VQ tokenizer of a frozen network's maps, as VFMTok is (Zheng et al. 2025, arXiv:2507.08441).

Its codes are clusters of cells: of the maps of a pretrained network and of the colours there, so that they describe
what an image shows. A decoder as LlamaGen's makes pixels of them. Shapes: B batch, C channels, H and W rows and columns
of pixels, h = H / downsampling and w = W / downsampling those of tokens.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from randar_features.tokenizers.base import Codebook, ImageTokenizer, check_counts, level_widths, nearest_code
from randar_features.tokenizers.llamagen import Decoder


class NetworkEncoder(nn.Module):
    """Maps of a timm network on the grid of tokens, and the mean colours of `colors`² parts of each cell.

    Always in evaluation mode and without gradients. `widths`: channels of each stage, and of the colours, which come
    last.
    """

    def __init__(
        self,
        network: str,
        stages: Sequence[int],
        *,
        enlarge: int,
        downsampling: int,
        colors: int,
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        self.network = _network(network, stages, output_stride)
        self.stages, self.enlarge = list(stages), enlarge
        self.downsampling, self.colors = downsampling, colors
        self.widths = [*(self.network.feature_info[stage]["num_chs"] for stage in self.stages), 3 * colors**2]
        self.requires_grad_(False).train(False).to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: the network's statistics are those of its own training."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [−1, 1] to (B, C, h, w)."""
        parts = self.downsampling // self.colors
        cells = F.pixel_unshuffle(F.avg_pool2d(pixels, parts), self.colors)
        large = F.interpolate(pixels, scale_factor=float(self.enlarge), mode="bicubic")
        large = large.contiguous(memory_format=torch.channels_last)
        maps = self.network.forward_intermediates(large, indices=self.stages, intermediates_only=True)
        found = [F.interpolate(each, size=cells.shape[-2:], mode="bilinear") for each in maps]
        return torch.cat([*found, cells], dim=1)


class TiledCodebook(Codebook):
    """k² codebooks in one, each for its place in tiles of k×k locations, of unit length.

    Location (r, c) has codebook g = (r mod k) · k + (c mod k), the codes g · V/k² … (g + 1) · V/k² − 1. It compares
    channels g · C/k² … of the latents alone, and its codes' other channels are 0. So neighbours tell different things
    of what they see, as the parts of product quantisation (Jégou et al. 2011) do of one vector: where neighbours see
    much the same, a tile tells it with k² codes. With k = 1 it is a codebook as any other.

    Args:
        vocab_size: V, of all codebooks together.
        code_dim: C, channels of the latents.
        tile: k.
    """

    def __init__(self, *, vocab_size: int, code_dim: int, tile: int) -> None:
        self.tile, self.number = tile, tile**2
        if vocab_size % self.number or code_dim % self.number:
            raise ValueError(
                f"tile = {tile}: its {self.number} codebooks cannot share {vocab_size} codes of {code_dim} numbers "
                f"equally: give multiples of {self.number}"
            )
        super().__init__(vocab_size=vocab_size, code_dim=code_dim // self.number, unit_length=True)

    def weight(self) -> Tensor:
        """(V, C) float32: the codes as decoded, zero in the channels of other codebooks."""
        return self.lookup(torch.arange(len(self.embedding.weight), device=self.embedding.weight.device)[None])[0]

    def own(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) latents to the channels that each location compares, (B, C/k², h, w), of unit length."""
        parts = latents.unflatten(1, (self.number, -1))
        index = self._codebooks(latents).expand(latents.shape[0], 1, parts.shape[2], -1, -1)
        return self.scale(parts.gather(1, index)[:, 0], dim=1)

    def nearest(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) latents to (B, h·w) int64 tokens, raster order."""
        own = self.own(latents).permute(0, 2, 3, 1)
        tokens = torch.empty_like(own[..., 0], dtype=torch.int64)
        for number, codes in enumerate(self.scale(self.embedding.weight, dim=-1).chunk(self.number)):
            row, column = divmod(number, self.tile)
            place = slice(None), slice(row, None, self.tile), slice(column, None, self.tile)
            found = nearest_code(own[place].flatten(0, 2), codes)
            tokens[place] = found.view(tokens[place].shape) + number * len(codes)
        return tokens.flatten(1)

    def lookup(self, tokens: Tensor) -> Tensor:
        """(B, N) tokens to (B, N, C) float32 vectors, with gradients to the codebook."""
        own = super().lookup(tokens)
        codebook = F.one_hot(tokens // (len(self.embedding.weight) // self.number), self.number)
        return (codebook[..., None] * own[..., None, :]).flatten(-2)

    def compared(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) latents as they are compared, float32: zero in the channels of other codebooks."""
        codebook = F.one_hot(self._codebooks(latents), self.number).permute(2, 0, 1)
        return (codebook[None, :, None] * self.own(latents)[:, None]).flatten(1, 2)

    def _codebooks(self, latents: Tensor) -> Tensor:
        """(h, w) int64: which codebook each location of latents (B, C, h, w) has."""
        rows, columns = (torch.arange(side, device=latents.device) % self.tile for side in latents.shape[-2:])
        return rows[:, None] * self.tile + columns


class NetworkTokenizer(ImageTokenizer):
    """Tokens of a frozen network's maps, a decoder of LlamaGen's kind.

    Args:
        network: a name of timm; its weights are in the tokenizer's file. Pixels reach it in [−1, 1].
        stages: its stages that are read, from 0, as timm counts them; later ones are left out.
        enlarge: factor by which images are enlarged in front of it.
        output_stride: pixels between two places of its deepest maps, 32, or 16 or 8 by dilated convolutions (timm's
            option of that name).
        colors: parts a side of each cell whose mean colour is looked at too.
        channels, channel_multipliers, blocks_per_level, latent_channels, stem_patch, attention: of the decoder, see
            `LlamaGenTokenizer`.
        vocab_size: number of codes V.
        code_dim: numbers a code, of unit length.
        tile: side of the tiles whose places have codebooks of their own, see `TiledCodebook`; 1: one codebook.

    Attributes: `downsampling` = stem_patch · 2^(levels - 1), `vocab_size`, `code_dim`.
    Raises `ValueError` for a network that timm does not have, a stage or stride that it has not, counts below 1,
    `colors` that does not divide `downsampling`, and `tile`² that does not divide `vocab_size` and `code_dim`.
    """

    raw_range = (-1.0, 1.0)
    rounding = 0.5
    quantize: TiledCodebook

    def __init__(
        self,
        *,
        network: str = "tf_efficientnet_lite0",
        stages: Sequence[int] = (3, 4),
        enlarge: int = 2,
        output_stride: int = 32,
        colors: int = 2,
        channels: int = 64,
        channel_multipliers: Sequence[int] = (1, 2),
        blocks_per_level: int = 1,
        latent_channels: int = 64,
        vocab_size: int = 2048,
        code_dim: int = 32,
        tile: int = 1,
        stem_patch: int = 4,
        attention: bool = True,
    ) -> None:
        super().__init__()
        check_counts(blocks_per_level=blocks_per_level, latent_channels=latent_channels, enlarge=enlarge)
        check_counts(vocab_size=vocab_size, code_dim=code_dim, tile=tile, stem_patch=stem_patch, colors=colors)
        widths = level_widths(channels, channel_multipliers)
        self.downsampling = stem_patch * 2 ** (len(widths) - 1)
        if self.downsampling % colors:
            raise ValueError(f"colors = {colors} does not divide the downsampling factor {self.downsampling}")
        self.vocab_size, self.code_dim = vocab_size, code_dim
        self.encoder = NetworkEncoder(
            network,
            stages,
            enlarge=enlarge,
            downsampling=self.downsampling,
            colors=colors,
            output_stride=output_stride,
        )
        self.decoder = Decoder(
            [widths[-1], *reversed(widths)],
            blocks=blocks_per_level + 1,
            latent_channels=latent_channels,
            patch=stem_patch,
            attention=attention,
        )
        self.quantize = TiledCodebook(vocab_size=vocab_size, code_dim=code_dim, tile=tile)
        self.quant_conv = nn.Conv2d(sum(self.encoder.widths), code_dim, 1)
        self.post_quant_conv = nn.Conv2d(code_dim, latent_channels, 1)

    def _encode(self, pixels: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(pixels))

    def _decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(codes))


def _network(name: str, stages: Sequence[int], output_stride: int) -> Any:
    """timm's network with its initial values, cut after the deepest of the stages; ValueError if there is none such."""
    import timm

    if not isinstance(name, str) or not timm.is_model(name):
        raise ValueError(f"network = {name!r}: timm has no model of that name")
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride = {output_stride!r}, expected 8, 16 or 32")
    # Not every network takes the option, so its usual value is left out.
    stride: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        network: Any = timm.create_model(name, num_classes=0, **stride)
    except (TypeError, AssertionError) as error:
        raise ValueError(f"network = {name!r} does not take output_stride = {output_stride}") from error
    if not hasattr(network, "forward_intermediates"):
        raise ValueError(f"network = {name!r}: timm does not give that network's intermediate maps")
    number = len(network.feature_info)
    if not stages or sorted(set(stages)) != list(stages) or not 0 <= stages[0] <= stages[-1] < number:
        raise ValueError(f"stages = {list(stages)}, expected rising numbers of 0 to {number - 1}")
    network.prune_intermediate_layers(list(stages), prune_norm=True, prune_head=True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # No count of training steps, which no file of weights needs; without the flag torch asks for it.
            module.num_batches_tracked, module.track_running_stats = None, False
            # transformers' TimmBackbone resets the statistics of those that lack timm's method of this name.
            module.init_non_persistent_buffers = _nothing  # type: ignore[assignment]
    return network


def _nothing() -> None:
    """There are no buffers beside those in the file."""
