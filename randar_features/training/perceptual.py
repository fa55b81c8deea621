"""LPIPS (Zhang et al. 2018, arXiv:1801.03924), a distance of images by a VGG-16, where its weights are at hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from randar_features.hub.weights import read_state_dict

# Statistics of ImageNet's pixels, for images in [−1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# Behind which modules of torchvision's vgg16().features each of the five maps is read: relu1_2 … relu5_3.
READ_AT = (3, 8, 15, 22, 29)
VGG_FILE = "vgg16-397923af.pth"


class PerceptualDistance(nn.Module):
    """Squared differences of unit-length VGG-16 features, weighted by channel, averaged over positions, summed.

    Args:
        vgg: file of torchvision's VGG-16 weights; None: where `torch.hub` keeps it.
        linear: file of LPIPS's channel weights (its `weights/v0.1/vgg.pth`); None: those of an installed `lpips`
            package, else every channel counts 1, the uncalibrated form of the paper.

    Raises:
        FileNotFoundError: there are no VGG-16 weights.
        ValueError: a file holds other tensors.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, *, vgg: str | None = None, linear: str | None = None) -> None:
        super().__init__()
        from torchvision.models import vgg16  # slow to import

        network = vgg16(weights=None).features
        state = read_state_dict(_find_vgg(vgg))
        prefix = "features."
        kept = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        try:
            network.load_state_dict(kept)
        except RuntimeError as error:
            raise ValueError(f"{_find_vgg(vgg)} does not hold torchvision's VGG-16: {str(error)[:200]}") from error
        for module in network:
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.network = network[: READ_AT[-1] + 1]
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.weights = _channel_weights(linear)
        self.requires_grad_(False).eval()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances (B,) of images (B, 3, H, W) in [−1, 1], of at least 16 pixels a side."""
        total = torch.zeros(len(first), device=first.device)
        for index, (a, b) in enumerate(zip(self._maps(first), self._maps(second), strict=True)):
            squared = (F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)).square()
            weighted = squared if not self.weights else squared * self.weights[index].view(1, -1, 1, 1).to(squared)
            total = total + weighted.sum(1).mean((1, 2)).float()
        return total

    def _maps(self, images: Tensor) -> list[Tensor]:
        x = (images - self.shift) / self.scale
        maps = []
        for index, module in enumerate(self.network):
            x = module(x)
            if index in READ_AT:
                maps.append(x)
        return maps


def _find_vgg(given: str | None) -> Path:
    path = Path(given) if given else Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"the perceptual loss needs the weights of torchvision's VGG-16, and {path} is not there: put "
            f"{VGG_FILE} there or name it as perceptual_vgg=FILE, or train without (perceptual_weight=0)"
        )
    return path


def _channel_weights(given: str | None) -> list[Tensor]:
    """One vector a map; none where there is no calibration."""
    path = Path(given) if given else _of_package()
    if path is None:
        return []
    state = read_state_dict(path)
    names = [f"lin{index}.model.1.weight" for index in range(len(READ_AT))]
    if absent := [name for name in names if name not in state]:
        raise ValueError(f"{path} does not hold LPIPS's channel weights of VGG-16: {absent[0]} is not in it")
    return [state[name].flatten().float() for name in names]


def _of_package() -> Path | None:
    found = importlib.util.find_spec("lpips")
    path = Path(found.origin).parent / "weights/v0.1/vgg.pth" if found and found.origin else None
    return path if path and path.is_file() else None
