"""What all image tokenizers have in common: the contract, its checks, and the codebook.

Shapes: B batch, N = h·w image tokens in raster order, V codes, C = code_dim numbers a code,
H x W pixels, h = H / downsampling, w = W / downsampling.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from randar_features import sequence
from randar_features.precision import computing_in

NORM_GROUPS = 32
NORM_EPS = 1e-6
# More levels, blocks, channels or codes than this are a damaged configuration, which is refused before it is built.
MOST_LEVELS = 16
MOST = 10_000_000
# Far above what rounding in float32 or half precision leaves, far below what a bicubic resize overshoots.
RANGE_TOLERANCE = 1e-3
# Scores held at once by the codebook search: 64 MiB of float32.
SEARCH_ELEMENTS = 1 << 24


class TokenizerOutput(NamedTuple):
    """What `ImageTokenizer.forward` gives to a trainer.

    The codes themselves, with gradients to the codebook, are `tokenizer.codes(output.tokens)`.
    """

    reconstruction: Tensor
    """(B, 3, H, W) float32 in the tokenizer's `raw_range`, not clamped."""
    latents: Tensor
    """(B, C, h, w) float32 as compared with the codebook (LlamaGen: unit length)."""
    quantized: Tensor
    """(B, C, h, w) float32, the nearest codes in value, `latents` in gradient (straight-through)."""
    tokens: Tensor
    """(B, N) int64, raster order."""


@torch.no_grad()
def nearest_code(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the Euclidean-nearest code of `codebook` (V, C) for each of the vectors (n, C).

    Returns (n,) int64. Always computed in float32, whatever the inputs' dtype and the autocast state, in
    chunks of vectors, so that it never holds more than 2**24 scores.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        codebook = codebook.float()
        # |z - e|^2 = |z|^2 - 2 (z.e - |e|^2 / 2), and |z|^2 is the same for every code.
        offsets = codebook.square().sum(dim=1).mul(-0.5)
        count = max(1, SEARCH_ELEMENTS // len(codebook))
        chunks = vectors.float().split(count)
        return torch.cat([torch.addmm(offsets, chunk, codebook.T).argmax(dim=1) for chunk in chunks])


class Codebook(nn.Module):
    """V vectors of C numbers; `unit_length` compares and returns directions only.

    The vectors stay as trained; scaling to unit length happens at use, in float32.
    """

    def __init__(self, *, vocab_size: int, code_dim: int, unit_length: bool) -> None:
        super().__init__()
        self.unit_length = unit_length
        self.embedding = nn.Embedding(vocab_size, code_dim)
        if unit_length:
            with torch.no_grad():
                self.embedding.weight.copy_(F.normalize(self.embedding.weight, dim=-1))

    def scale(self, vectors: Tensor, dim: int) -> Tensor:
        """`vectors` in float32 as they are compared: unit length along `dim`, or as they are."""
        vectors = vectors.float()
        return F.normalize(vectors, dim=dim) if self.unit_length else vectors

    def compared(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) latents as they are compared, float32."""
        return self.scale(latents, dim=1)

    def weight(self) -> Tensor:
        """(V, C) float32: the codes as compared and decoded."""
        return self.scale(self.embedding.weight, dim=-1)

    def nearest(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) latents to (B, h·w) int64 tokens, raster order."""
        batch, code_dim, height, width = latents.shape
        vectors = self.compared(latents).permute(0, 2, 3, 1).reshape(-1, code_dim)
        return nearest_code(vectors, self.weight()).view(batch, height * width)

    def lookup(self, tokens: Tensor) -> Tensor:
        """(B, N) tokens to (B, N, C) float32 vectors, with gradients to the codebook."""
        return self.scale(F.embedding(tokens, self.embedding.weight), dim=-1)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w) latents to (latents as compared, straight-through codes, tokens).

        The first two are (B, C, h, w) float32, the tokens (B, h·w) int64. The straight-through codes have the
        codes' values and pass their gradient to the latents unchanged (van den Oord et al. 2017, eq. 3).
        """
        compared = self.compared(latents)
        tokens = self.nearest(latents)
        codes = self.lookup(tokens).mT.reshape(latents.shape)
        return compared, compared + (codes - compared).detach(), tokens


class ImageTokenizer(nn.Module):
    """Pixels to discrete tokens and back; the contract that every tokenizer keeps.

    Any H and W that `downsampling` divides will do, also H different from W. Weights may be float32,
    bfloat16 or float16; images are moved to the weights' dtype and device, the codebook search is in
    float32, and images, codes and raw output come back as float32.
    """

    raw_range: ClassVar[tuple[float, float]]
    """Values of black and white before the encoder and after the decoder."""
    rounding: ClassVar[float]
    """Added to 255·x before the fraction is cut off."""

    downsampling: int
    vocab_size: int
    code_dim: int
    quantize: Codebook

    def _encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in `raw_range` to (B, C, h, w), both in the weights' dtype."""
        raise NotImplementedError

    def _decode(self, codes: Tensor) -> Tensor:
        """(B, C, h, w) to (B, 3, H, W) in `raw_range`, both in the weights' dtype."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), float in [0, 1], to tokens (B, N), int64 in raster order.

        The tokens are the same inside a `torch.autocast`, which does not reach the networks here.

        Raises `TypeError` for images that are not floating-point tensors and `ValueError` for a wrong
        shape, a side that `downsampling` does not divide, or (of images on the CPU) values outside [0, 1].
        """
        with self._without_autocast():
            return self.quantize_latents(self.latents(images))

    @torch.no_grad()
    def decode(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Tokens (B, N) in raster order to images (B, 3, H, W), float32, clamped to [0, 1].

        As in `encode`, a `torch.autocast` around it changes nothing.

        `grid` is (rows, columns) of tokens; left out, the grid is taken to be square. Raises `TypeError`
        for tokens that are not integers and `ValueError` for a wrong shape, a token outside
        0 … vocab_size - 1, or a grid that does not hold N tokens.
        """
        low, high = self.raw_range
        with self._without_autocast():
            return ((self.decode_raw(tokens, grid) - low) / (high - low)).clamp(0, 1)

    def latents(self, images: Tensor) -> Tensor:
        """Images as for `encode` to (B, C, h, w), in front of the codebook, in the weights' dtype."""
        self._check_images(images)
        return self._encode(self.to_raw_range(images).to(self._reference()))

    def quantize_latents(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to the tokens (B, h·w) of their nearest codes, raster order."""
        if latents.ndim != 4 or latents.shape[1] != self.code_dim:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}, expected (B, {self.code_dim}, h, w): "
                "pass what `latents(images)` gives"
            )
        return self.quantize.nearest(latents)

    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N) to their codebook vectors (B, N, C), float32 (LlamaGen: of unit length)."""
        self._check_tokens(tokens)
        return self.quantize.lookup(tokens.to(self.quantize.embedding.weight.device, torch.long))

    def decode_raw(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """As `decode`, but float32 in `raw_range` without clamping, and with gradients."""
        codes = self.codes(tokens)
        rows, columns = self._grid(codes.shape[1], grid)
        codes = codes.mT.reshape(len(codes), self.code_dim, rows, columns)
        return self._decode(codes.to(self._reference())).float()

    def forward(self, images: Tensor) -> TokenizerOutput:
        """Images as for `encode` through encoder, codebook and decoder, with straight-through gradients."""
        latents, quantized, tokens = self.quantize(self.latents(images))
        reconstruction = self._decode(quantized.to(self._reference())).float()
        return TokenizerOutput(reconstruction, latents, quantized, tokens)

    def to_raw_range(self, images: Tensor) -> Tensor:
        """Images in [0, 1] to float32 in `raw_range`: the encoder's input, a trainer's target."""
        low, high = self.raw_range
        return images.float() * (high - low) + low

    def to_uint8(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], as `decode` gives them, to uint8 (B, H, W, 3).

        Values are converted as the tokenizer's authors do: 255·x + `rounding`, clamped to 0 … 255, the
        fraction cut off (LlamaGen: x·127.5 + 128 on the raw output, the same thing).
        """
        self._check_channels(images)
        scaled = images.float() * 255 + self.rounding
        return scaled.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _reference(self) -> Tensor:
        """A weight, for the dtype and device that inputs have to take."""
        return next(self.parameters())

    def _without_autocast(self) -> AbstractContextManager[object]:
        return computing_in(torch.float32, self._reference().device)

    def _check_channels(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise TypeError(
                f"images are of type {type(images).__name__}, expected a floating-point tensor (B, 3, H, W) in [0, 1]: "
                "randar_features.data.open_images reads paths, Pillow images and arrays into such"
            )
        if not images.is_floating_point():
            raise TypeError(
                f"images have dtype {images.dtype}, expected floating point in [0, 1]: divide 8-bit pixels by 255"
            )
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images have shape {tuple(images.shape)}, expected (B, 3, H, W): RGB channels first, "
                "with a batch dimension"
            )

    def _check_images(self, images: Tensor) -> None:
        self._check_channels(images)
        if not images.shape[0]:
            raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, 3, H, W) with at least one image")
        height, width = images.shape[2:]
        factor = self.downsampling
        if height % factor or width % factor or not height or not width:
            raise ValueError(
                f"images are {height}x{width} pixels, but both sides must be multiples of the tokenizer's "
                f"downsampling factor {factor}: crop or resize them, for example to "
                f"{_nearest_multiple(height, factor)}x{_nearest_multiple(width, factor)}"
            )
        _check_range(images)

    def _check_tokens(self, tokens: Tensor) -> None:
        if not isinstance(tokens, Tensor):
            raise TypeError(f"tokens are of type {type(tokens).__name__}, expected a tensor of integers (int64)")
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise TypeError(f"tokens have dtype {tokens.dtype}, expected integers (int64)")
        if tokens.ndim != 2:
            raise ValueError(f"tokens have shape {tuple(tokens.shape)}, expected (B, N)")
        if not tokens.numel() or torch.compiler.is_compiling():
            return
        low, high = (int(bound) for bound in torch.aminmax(tokens.long()))
        if low < 0 or high >= self.vocab_size:
            raise ValueError(
                f"tokens range from {low} to {high}, but this tokenizer's codes are 0 to "
                f"{self.vocab_size - 1}: were they made by another tokenizer?"
            )

    def _grid(self, num_tokens: int, grid: tuple[int, int] | None) -> tuple[int, int]:
        side = math.isqrt(num_tokens)
        if grid is None and side * side != num_tokens:
            raise ValueError(
                f"{num_tokens} tokens are no square grid: give `grid=(rows, columns)`, "
                f"pixels divided by {self.downsampling}"
            )
        rows, columns = grid or (side, side)
        if rows < 1 or columns < 1 or rows * columns != num_tokens:
            raise ValueError(
                f"a grid of {rows}x{columns} does not hold {num_tokens} tokens: rows times columns must be "
                f"{num_tokens}, and both at least 1"
            )
        return rows, columns


def group_norm(channels: int) -> nn.GroupNorm:
    """The normalisation of both networks: 32 groups, eps 1e-6."""
    return nn.GroupNorm(NORM_GROUPS, channels, eps=NORM_EPS)


def level_widths(channels: int, multipliers: Sequence[int]) -> list[int]:
    """Channels of each level, finest first.

    Raises `ValueError` for a width that group normalisation cannot split.
    """
    check_counts(channels=channels)
    if not isinstance(multipliers, Sequence) or not 1 <= len(multipliers) <= MOST_LEVELS:
        raise ValueError(
            f"channel_multipliers={str(multipliers)[:80]}, expected one number a level, 1 to {MOST_LEVELS} of them, "
            "such as (1, 1, 2, 2, 4)"
        )
    for multiplier in multipliers:
        check_counts(channel_multipliers=multiplier)
    widths = [channels * multiplier for multiplier in multipliers]
    for width in {channels, *widths}:
        if width <= 0 or width % NORM_GROUPS:
            raise ValueError(
                f"channels={channels} with channel_multipliers={tuple(multipliers)} gives a width of "
                f"{width}, but every width must be a multiple of the {NORM_GROUPS} normalisation groups"
            )
    return widths


def check_counts(**counts: int) -> None:
    """Raise `ValueError` for the first of the named constructor arguments that is no integer, 1 to `MOST`."""
    for name, count in counts.items():
        if type(count) is not int or not 1 <= count <= MOST:
            raise ValueError(f"{name}={count!r}, expected an integer, 1 to {MOST}")


def _check_range(images: Tensor) -> None:
    if not sequence.can_look_at(images):
        return
    low, high = (float(bound) for bound in torch.aminmax(images.detach().float()))
    if math.isnan(low):
        raise ValueError("the images hold NaN, expected values in [0, 1]")
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ValueError(
            f"images range from {low:.4g} to {high:.4g}, expected [0, 1]: divide 8-bit values by 255, leave out "
            "normalisation, and after a resize that overshoots, as bicubic does, use `images.clamp(0, 1)`"
        )


def _nearest_multiple(side: int, factor: int) -> int:
    return max(factor, round(side / factor) * factor)
