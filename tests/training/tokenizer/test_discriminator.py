from __future__ import annotations

import pytest
import torch
from torch import nn

from randar_features.training.tokenizer.discriminator import PatchDiscriminator, adaptive_weight, hinge_loss


def test_the_published_size():
    """pix2pix's 70×70 discriminator, as VQGAN and LlamaGen build it: 2.77 M parameters, 30×30 patches of 256×256."""
    discriminator = PatchDiscriminator()
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_765_633
    with torch.no_grad():
        assert discriminator.eval()(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_first_weights_follow_the_seed():
    a, b = (PatchDiscriminator(channels=8, generator=torch.Generator().manual_seed(3)).state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    weights = torch.cat([value.flatten() for name, value in a.items() if value.dim() == 4])
    assert weights.std().item() == pytest.approx(0.02, rel=0.05)
    assert a["main.3.weight"].mean().item() == pytest.approx(1, abs=0.05)


def test_hinge_loss_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert hinge_loss(real, fake).item() == pytest.approx(0.5 * ((0 + 0.5) / 2 + (0 + 2) / 2))


def test_adaptive_weight_by_hand():
    last = nn.Parameter(torch.tensor([3.0, 4.0]))
    reconstruction, adversarial = (last * torch.tensor([6.0, 8.0])).sum(), -last.sum() * 0.5
    weight = adaptive_weight(reconstruction, adversarial, last)
    assert weight.item() == pytest.approx(10 / (0.5**0.5 + 1e-4))
    assert not weight.requires_grad
    assert adaptive_weight(reconstruction, (last * 0).sum(), last).item() == 1e4
