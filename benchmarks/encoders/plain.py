"""Encoders without weights, as baselines: pixels and histograms."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.encoders.base import Encoder

IMAGE_SIZE = 64
PIXEL_SIDE = 32
PATCH_SIDE = 8
BINS = 8


class PixelsEncoder(Encoder):
    """The image at 32×32 as one vector, and its patches of 8×8 pixels on their grid."""

    def __init__(self) -> None:
        super().__init__(name="pixels", image_size=IMAGE_SIZE, weights="none", outputs={"32x32": {}, "patches": {}})

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        small = F.adaptive_avg_pool2d(images, PIXEL_SIDE).flatten(1)
        patches = F.pixel_unshuffle(images, PATCH_SIDE).permute(0, 2, 3, 1)
        return {"32x32": small[:, None, None], "patches": patches}


class HistogramEncoder(Encoder):
    """The share of pixels in each of 8×8×8 bins of RGB colour."""

    def __init__(self) -> None:
        super().__init__(name="histogram", image_size=IMAGE_SIZE, weights="none", outputs={"8x8x8": {}})

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        red, green, blue = (images * BINS).long().clamp(0, BINS - 1).flatten(2).unbind(1)
        bins = (red * BINS + green) * BINS + blue
        ones = torch.ones_like(bins, dtype=torch.float32)
        counts = torch.zeros(len(images), BINS**3, device="cpu").scatter_add_(1, bins, ones)
        return {"8x8x8": (counts / bins.shape[1])[:, None, None]}
