"""Feature maps and edits of scikit-learn's two photographs."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor

from benchmarks.encoders import Encoder
from probes import pca_colours
from randar_features.data import to_tensor
from randar_features.features import tiled_maps

NAMES = ("china.jpg", "flower.jpg")


def load_photograph(name: str, short_side: int, multiple: int) -> Tensor:
    """A photograph (3, H, W) in [0, 1], its shorter side `short_side` pixels, the longer cut to a multiple."""
    image = Image.fromarray(load_sample_image(name))
    scale = short_side / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    pixels = to_tensor(image.resize((width, height), Image.Resampling.LANCZOS))
    return pixels[:, : height // multiple * multiple, : width // multiple * multiple]


def feature_colours(photographs: Sequence[Tensor], encoder: Encoder, output: str) -> list[np.ndarray]:
    """First three principal components of the features of photographs of one size, in one basis: (h, w, 3) each.

    Tiles of the encoder's size overlap by half. Sides must be multiples of half of it.

    Raises:
        ValueError: the output has no map, or sides that do not fit.
    """
    size = encoder.image_size
    grid = encoder.grid_sides([output])[output]
    if grid == 1:
        raise ValueError(f"{output} of {encoder.name} is one vector an image: a picture needs a map")

    def encode(batch: Tensor) -> Tensor:
        return encoder.encode(batch, [output])[output].cpu()

    sizes = {"size": size, "patch": size // grid, "stride": size // 2}
    maps = [tiled_maps(encode, photograph, **sizes) for photograph in photographs]
    return list(pca_colours(torch.stack(maps)))
