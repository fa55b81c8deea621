"""Small stores of small pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from randar_features import FeatureStore
from randar_features.data import open_images
from randar_features.features.store import Content, EncodedImages, write_store

SIZE = 8
ROWS = 3  # a shard


def content(**options: Any) -> Content:
    outputs = {"mean colour": {"layer": 0}, "corner": {"layer": 1}}
    return Content(
        **{"encoder": "e", "weights": "w", "outputs": outputs, "image_size": SIZE, "pooling": "mean", **options}
    )


def encode(pixels: Tensor) -> Mapping[str, Tensor]:
    """Rows that tell which image they are of."""
    return {"mean colour": pixels.mean(dim=(2, 3)), "corner": pixels[:, :, :2, :2].permute(0, 2, 3, 1)}


def write(images: Any, folder: Path, about: Content | None = None, **options: Any) -> FeatureStore:
    function = options.pop("encode", encode)
    reading = {"batch_size": 2} | {n: options.pop(n) for n in ("batch_size", "num_workers") if n in options}
    told = about or content()
    options = {"data": "test", "shard_rows": ROWS, "progress": False, **options}
    return write_store(EncodedImages(open_images(images), function, told, **reading), folder, told, **options)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def expected(images: np.ndarray) -> dict[str, np.ndarray]:
    rows = encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    return {name: value.numpy().astype(np.float16).astype(np.float32) for name, value in rows.items()}


def save(images: np.ndarray, folder: Path, first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images, first):
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".lock")}


class Interrupted(Exception):
    pass


def interrupted_after(calls: int):
    """`encode` that ends the run at a later call than the given number."""
    left = iter(range(calls))

    def function(pixels: Tensor) -> Mapping[str, Tensor]:
        if next(left, None) is None:
            raise Interrupted
        return encode(pixels)

    return function


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


class Stream(IterableDataset[Any]):
    def __init__(self, images: Any) -> None:
        self.images = images

    def __iter__(self) -> Iterator[Any]:
        return iter(self.images)
