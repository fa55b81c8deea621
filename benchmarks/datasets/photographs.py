"""The photographs that scikit-learn and scikit-image ship, and their feature maps as colours."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image
from torch import Tensor

from benchmarks.encoders import Encoder
from probes import pca_colours
from randar_features.data import to_tensor
from randar_features.features import tiled_maps
from randar_features.features.tiling import usual_stride

PHOTOGRAPHS = {"validation": ("flower", "coffee", "rocket"), "test": ("china", "astronaut", "chelsea", "motorcycle")}
OF_SCIKIT_LEARN = ("china", "flower")
SHOWN = ("china", "chelsea", "coffee")
SHAPE = (2, 3)  # height to width of those shown, roughly


def photograph(name: str) -> Image.Image:
    """One of `PHOTOGRAPHS`, in its own size, 300 to 512 pixels high.

    Raises:
        ModuleNotFoundError: scikit-image, which ships most of them, is not installed.
    """
    if name in OF_SCIKIT_LEARN:
        return Image.fromarray(load_sample_image(f"{name}.jpg"))
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the photograph {name!r} is in scikit-image, which is not installed: pip install scikit-image, "
            'or pip install "randar-features[benchmarks]"'
        ) from error
    return Image.fromarray(data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)())


def load_photograph(name: str, short_side: int, multiple: int) -> Tensor:
    """A photograph cut to `SHAPE`, (3, H, W) in [0, 1], H = `short_side`, W the nearest multiple of `multiple`."""
    size = round(short_side * SHAPE[1] / SHAPE[0] / multiple) * multiple, short_side
    return to_tensor(ImageOps.fit(photograph(name), size, Image.Resampling.LANCZOS))


def feature_colours(
    photographs: Sequence[Tensor], encoder: Encoder, outputs: Sequence[str]
) -> dict[str, list[np.ndarray]]:
    """First three principal components of the features of photographs of one size, in one basis: (h, w, 3) each.

    By output. Tiles of the encoder's size overlap. Sides must be multiples of the encoder's patch.

    Raises:
        ValueError: an output has no map, or sides that do not fit.
    """
    size, grids = encoder.image_size, encoder.grids(outputs)
    found: dict[str, list[np.ndarray]] = {}
    for grid in sorted(set(grids.values())):
        alike = [output for output in outputs if grids[output] == grid]
        sizes = {"size": size, "patch": size // grid, "stride": usual_stride(size, size // grid)}

        def encode(tiles: Tensor, alike: list[str] = alike) -> Tensor:
            return torch.cat(list(encoder.encode(tiles, alike).values()), dim=-1).cpu()

        maps = torch.stack([tiled_maps(encode, photograph, **sizes) for photograph in photographs])
        tile = photographs[0][None, :, :size, :size]
        widths = [each.shape[-1] for each in encoder.encode(tile, alike).values()]
        found |= {name: list(pca_colours(own)) for name, own in zip(alike, maps.split(widths, -1), strict=True)}
    return {output: found[output] for output in outputs}
