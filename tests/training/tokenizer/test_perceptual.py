from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from randar_features.training.tokenizer.perceptual import lpips

# torchvision's VGG-16: widths of its convolutions, "M" where the maps are halved.
LAYOUT = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision publishes it, with random weights and without the classifier's size."""
    generator, state, index, width = torch.Generator().manual_seed(0), {}, 0, 3
    for entry in LAYOUT:
        if isinstance(entry, int):
            scale = (2 / (9 * width)) ** 0.5
            state[f"features.{index}.weight"] = torch.randn(entry, width, 3, 3, generator=generator) * scale
            state[f"features.{index}.bias"] = torch.randn(entry, generator=generator) * 0.1
            index, width = index + 2, entry
        else:
            index += 1
    state["classifier.0.weight"] = torch.zeros(1)
    path = tmp_path_factory.mktemp("vgg") / "vgg16-397923af.pth"
    torch.save(state, path)
    return path


def plain_distance(vgg: Path, first: Tensor, second: Tensor, linear: dict[str, Tensor] | None) -> Tensor:
    """The paper's equation 1, written out."""
    state = torch.load(vgg, weights_only=True)
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    a, b = (first - shift) / scale, (second - shift) / scale
    total, index, level = torch.zeros(len(first)), 0, 0
    for position, entry in enumerate(LAYOUT):
        if entry == "M":
            a, b, index = F.max_pool2d(a, 2), F.max_pool2d(b, 2), index + 1
            continue
        weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
        a, b = (F.conv2d(x, weight, bias, padding=1).relu() for x in (a, b))
        index += 2
        if position + 1 == len(LAYOUT) or LAYOUT[position + 1] == "M":
            squared = (a / (a.norm(dim=1, keepdim=True) + 1e-10) - b / (b.norm(dim=1, keepdim=True) + 1e-10)) ** 2
            if linear is None:
                total += squared.sum(1).mean((1, 2))
            else:
                total += F.conv2d(squared, linear[f"lin{level}.model.1.weight"]).mean((1, 2, 3))
            level += 1
    assert level == 5
    return total


def images(seed: int) -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("calibrated", [False, True])
def test_equals_the_plain_equation(vgg: Path, tmp_path: Path, calibrated: bool):
    linear = None
    if calibrated:
        generator = torch.Generator().manual_seed(1)
        widths = (64, 128, 256, 512, 512)
        linear = {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1, generator=generator) for i, w in enumerate(widths)}
        torch.save(linear, tmp_path / "vgg.pth")
    distance = lpips(vgg=str(vgg), linear=str(tmp_path / "vgg.pth") if calibrated else None)
    first, second = images(0), images(1)
    expected = plain_distance(vgg, first, second, linear)
    torch.testing.assert_close(distance(first, second), expected, rtol=1e-4, atol=1e-6)
    assert distance(first, first).tolist() == [0, 0]


def test_gradients_reach_the_image_alone(vgg: Path):
    distance = lpips(vgg=str(vgg))
    first = images(0).requires_grad_()
    distance(first, images(1)).sum().backward()
    assert first.grad is not None and first.grad.abs().sum() > 0
    assert all(not parameter.requires_grad for parameter in distance.parameters())


def test_weights_where_torch_hub_keeps_them(vgg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"/vgg16-397923af\.pth is not there: put .*perceptual_weight=0"):
        lpips()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / vgg.name).symlink_to(vgg)
    assert lpips()(images(0), images(1)).shape == (2,)


def test_files_of_something_else(vgg: Path, tmp_path: Path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not hold torchvision's VGG-16"):
        lpips(vgg=str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match="does not hold LPIPS's channel weights of VGG-16: lin0"):
        lpips(vgg=str(vgg), linear=str(tmp_path / "other.pth"))
