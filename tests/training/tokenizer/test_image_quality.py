from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from randar_features.training.tokenizer.image_quality import reconstruction_quality, ssim
from tests.small_models import VOCAB_SIZE, small_tokenizer
from tests.training.small import random_images


def test_ssim_equals_scikit_images():
    """structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False) of scikit-image 0.26."""
    rng = np.random.default_rng(0)
    first = rng.random((20, 24, 3))
    second = np.clip(first + 0.2 * rng.standard_normal((20, 24, 3)), 0, 1)
    pair = [torch.from_numpy(each).permute(2, 0, 1)[None] for each in (first, second)]
    assert ssim(*pair).item() == pytest.approx(0.8090383078964148, abs=1e-9)
    assert ssim(*(each.float() for each in pair)).item() == pytest.approx(0.8090383, abs=1e-5)


def test_ssim_of_one_window_by_hand():
    first, second = random_images(2, side=11).double().split(1)
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    scores = []
    for a, b in zip(first[0].numpy(), second[0].numpy(), strict=True):
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        variances = (weights * (a - mean_a) ** 2).sum() + (weights * (b - mean_b) ** 2).sum()
        covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
        luminance = (2 * mean_a * mean_b + 0.0001) / (mean_a**2 + mean_b**2 + 0.0001)
        scores.append(luminance * (2 * covariance + 0.0009) / (variances + 0.0009))
    assert ssim(first, second).item() == pytest.approx(np.mean(scores), abs=1e-12)


def test_ssim_of_equal_and_of_flat_images():
    images = random_images(3, side=16)
    torch.testing.assert_close(ssim(images, images), torch.ones(3))
    dark, bright = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    assert ssim(dark, bright).item() == pytest.approx(0.0001 / 1.0001, abs=1e-6)
    small = images[:, :, :8, :6]  # than a window
    assert ssim(small, small).tolist() == pytest.approx([1, 1, 1])


def test_quality_by_hand():
    model, images = small_tokenizer(), random_images(count=5, side=16)
    tokens = model.encode(images)
    decoded = model.decode(tokens)
    errors = [(new - image).square().mean().item() for new, image in zip(decoded, images, strict=True)]
    shares = [count / tokens.numel() for count in tokens.flatten().bincount().tolist() if count]
    assert reconstruction_quality(model, images, batch_size=2) == pytest.approx(
        {
            "psnr": sum(-10 * math.log10(error) for error in errors) / 5,
            "ssim": ssim(decoded, images).mean().item(),
            "mse": sum(errors) / 5,
            "usage": len(shares) / VOCAB_SIZE,
            "entropy": -sum(share * math.log(share) for share in shares),
        },
        rel=1e-5,
    )


def test_an_image_that_comes_back_exactly_does_not_make_the_mean_infinite(monkeypatch: pytest.MonkeyPatch):
    model, images = small_tokenizer(), torch.zeros(2, 3, 16, 16)
    images[1] = 0.1
    monkeypatch.setattr(model, "decode", lambda tokens: torch.zeros(len(tokens), 3, 16, 16))
    quality = reconstruction_quality(model, images)
    assert quality["psnr"] == pytest.approx((100 + 20) / 2)
    assert quality["mse"] == pytest.approx(0.01 / 2)
