"""LPIPS (Zhang et al. 2018, arXiv:1801.03924): a distance of images by the features of a frozen network."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from randar_features.baselines import Network
from randar_features.hub.weights import read_state_dict

# Statistics of ImageNet's pixels, for images in [−1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# The modules of torchvision's vgg16().features that give the five maps: relu1_2 … relu5_3.
READ_AT = (3, 8, 15, 22, 29)
VGG_FILE = "vgg16-397923af.pth"


class PerceptualDistance(nn.Module):
    """Squared differences of unit-length features, weighted by channel, averaged over positions, summed over maps.

    Args:
        maps: a frozen network: images (B, 3, H, W) in [−1, 1] → a list of maps (B, C, h, w).
        weights: one vector of C numbers a map; empty: every channel counts 1.
    """

    def __init__(self, maps: nn.Module, weights: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.maps, self.weights = maps.requires_grad_(False).eval(), list(weights)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances (B,) of images (B, 3, H, W) in [−1, 1]."""
        return self.between(self.maps(first), self.maps(second))

    def between(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """Distances (B,) of the maps of two images."""
        total = torch.zeros(len(first[0]), device=first[0].device)
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            squared = (F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)).square()
            weighted = squared if not self.weights else squared * self.weights[index].view(1, -1, 1, 1).to(squared)
            total = total + weighted.sum(1).mean((1, 2)).float()
        return total


class VGGMaps(nn.Module):
    """The five maps of torchvision's VGG-16 that LPIPS compares, of images of at least 16 pixels a side.

    Args:
        file: of the weights; None: where `torch.hub` keeps them.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: the file holds other tensors.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, file: str | None = None) -> None:
        super().__init__()
        from torchvision.models import vgg16  # slow to import

        path = Path(file) if file else Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"the perceptual loss needs the weights of torchvision's VGG-16, and {path} is not there: put "
                f"{VGG_FILE} there or name it as perceptual_vgg=FILE, or train without (perceptual_weight=0)"
            )
        with torch.device("meta"):  # fresh weights would not be used, least of all the classifier's half a gigabyte
            network = vgg16(weights=None).features
        state = read_state_dict(path)
        prefix = "features."
        own = {name.removeprefix(prefix): value.float() for name, value in state.items() if name.startswith(prefix)}
        try:
            network.load_state_dict(own, assign=True)
        except RuntimeError as error:
            raise ValueError(f"{path} does not hold torchvision's VGG-16: {str(error)[:200]}") from error
        for module in network:
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.network = network[: READ_AT[-1] + 1]
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [−1, 1] → five maps, the finest first."""
        x = (images - self.shift) / self.scale
        maps = []
        for index, module in enumerate(self.network):
            x = module(x)
            if index in READ_AT:
                maps.append(x)
        return maps


class NetworkMaps(nn.Module):
    """The maps of a timm network, one of each resolution, the finest first.

    Args:
        network: as `baselines.load_network` gives it; images are brought to its size.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module, self.size, self.scale = network.module, network.image_size, network.scale

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [−1, 1] → maps (B, C, h, w); the last is what the network pools."""
        if images.shape[-1] != self.size:
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        module: Any = self.module  # a network of timm
        return module.forward_intermediates(self.scale((images + 1) / 2), intermediates_only=True)


def lpips(vgg: str | None = None, linear: str | None = None) -> PerceptualDistance:
    """The paper's distance, by VGG-16; errors as of `VGGMaps`, and ValueError for a file without channel weights.

    vgg: see `VGGMaps`. linear: file of LPIPS's channel weights (its `weights/v0.1/vgg.pth`); None: those of an
    installed `lpips` package, else every channel counts 1, the uncalibrated form of the paper.
    """
    return PerceptualDistance(VGGMaps(vgg), _channel_weights(linear))


def _channel_weights(given: str | None) -> list[Tensor]:
    """One vector a map; none where there is no calibration."""
    if given is None:
        found = importlib.util.find_spec("lpips")
        given = str(Path(found.origin).parent / "weights/v0.1/vgg.pth") if found and found.origin else None
        if given is None or not Path(given).is_file():
            return []
    path = Path(given)
    state = read_state_dict(path)
    names = [f"lin{index}.model.1.weight" for index in range(len(READ_AT))]
    if absent := [name for name in names if name not in state]:
        raise ValueError(f"{path} does not hold LPIPS's channel weights of VGG-16: {absent[0]} is not in it")
    return [state[name].flatten().float() for name in names]
