"""How close reconstructions are to their images, and how evenly a tokenizer uses its codes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from randar_features.tokenizers import ImageTokenizer

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
LEAST_ERROR = 1e-10  # a plain image may come back exactly, whose infinity would be the mean of all: 100 dB instead


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity (B,) of images (B, C, H, W) in [0, 1], at most 1: mean over positions and channels.

    Wang et al. 2004, eq. 13, as published: an 11×11 Gaussian window of standard deviation 1.5, K = (0.01, 0.03),
    no padding. Images of fewer than 11 pixels a side get the largest odd window that fits.
    """
    channels, smallest = first.shape[1], min(first.shape[2:])
    window = min(SSIM_WINDOW, smallest - 1 + smallest % 2)
    offsets = torch.arange(window, dtype=torch.float64, device=first.device) - window // 2
    profile = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    kernel = torch.outer(profile, profile)
    weight = (kernel / kernel.sum()).to(first).expand(channels, 1, window, window)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, weight, groups=channels)

    a, b = mean(first), mean(second)
    variances = mean(first.square()) + mean(second.square()) - a.square() - b.square()
    covariance = mean(first * second) - a * b
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * a * b + c1) * (2 * covariance + c2) / ((a.square() + b.square() + c1) * (variances + c2))
    return score.mean((1, 2, 3))


@torch.no_grad()
def reconstruction_quality(model: ImageTokenizer, images: Tensor, batch_size: int = 128) -> dict[str, float]:
    """Figures of images (n, 3, S, S) in [0, 1] and of what their tokens decode to; see `quality_figures`."""
    sums = sum((quality_sums(model, batch) for batch in images.split(batch_size)), torch.zeros((), device="cpu"))
    return quality_figures(sums)


@torch.no_grad()
def quality_sums(model: ImageTokenizer, images: Tensor) -> Tensor:
    """What `quality_figures` needs, (4 + V,) float64: sums over images, and the uses of each code."""
    codes = model.encode(images)
    decoded = model.decode(codes)
    errors = (decoded - images.to(decoded)).square().mean((1, 2, 3))
    figures = [
        torch.ones_like(errors),
        -10 * errors.clamp_min(LEAST_ERROR).log10(),
        errors,
        ssim(decoded, images.to(decoded)),
    ]
    counts = torch.bincount(codes.flatten(), minlength=model.vocab_size)
    return torch.cat([torch.stack(figures).double().sum(1), counts.double()])


def quality_figures(sums: Tensor) -> dict[str, float]:
    """Means over images of `psnr` (peak signal-to-noise ratio, dB), `ssim` and `mse`; the codes' `usage` and `entropy`.

    `psnr` is at most 100. `usage` is the share of the codes that occur, `entropy` is in nats.
    """
    count, psnr_sum, error_sum, ssim_sum = sums[:4].tolist()
    share = sums[4:] / sums[4:].sum()
    return {
        "psnr": psnr_sum / count,
        "ssim": ssim_sum / count,
        "mse": error_sum / count,
        "usage": (share > 0).double().mean().item(),
        "entropy": torch.special.entr(share).sum().item(),
    }
