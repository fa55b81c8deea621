"""Images decoded once into one memory-mapped array, for training that sees them many times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randar_features.data.readable import check_made_of, readable_batches
from randar_features.data.sources import open_images
from randar_features.store.files import read_json, write_json, written_whole


class PixelCache:
    """`pixels` (n, 3, S, S) uint8, `labels` (n,) int64 (−1: none), `label_names` or None.

    Raises FileNotFoundError without its files, and ValueError, naming the file, if one is torn.
    """

    def __init__(self, folder: Path) -> None:
        self.about: dict[str, Any] = read_json(folder / "about.json")
        size = self.about["image_size"]
        shape = (self.about["count"], 3, size, size)
        path = folder / "pixels.u8"
        if (held := path.stat().st_size) != math.prod(shape):
            raise ValueError(f"{path} holds {held} bytes, expected {shape}: remove {folder} and start again")
        self.pixels = np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
        self.labels = torch.from_numpy(np.load(folder / "labels.npy"))
        self.label_names: list[str] | None = self.about["label_names"]

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, indices: Tensor) -> Tensor:
        """Float images (b, 3, S, S) in [0, 1]."""
        return torch.from_numpy(self.pixels[indices.numpy()]).float() / 255

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """`images` of each of those batches of indices."""
        return map(self.images, batches)


def cache_pixels(images: Any, folder: Path, *, image_size: int, split: str | None = None) -> PixelCache:
    """Decode everything that `open_images` takes into `folder`, unless it was done before.

    Unreadable images are left out, and named in `about.json`, which is written last: a killed run starts anew.
    Raises ValueError if `folder` holds other images, or none can be read.
    """
    source = open_images(images, split=split)
    if (folder / "about.json").exists():
        cache = PixelCache(folder)
        check_made_of(cache.about, source, count=len(cache), image_size=image_size, folder=folder)
        return cache
    labels: list[int] = []
    unreadable: list[dict[str, Any]] = []
    batches = readable_batches(
        source, image_size=image_size, batch_size=256, description=f"decoding {split or ''}", unreadable=unreadable
    )
    with written_whole(folder / "pixels.u8") as file:
        for pixels, batch_labels in batches:
            file.write((pixels * 255).round().byte().numpy().tobytes())
            labels += batch_labels
    with written_whole(folder / "labels.npy") as file:
        np.save(file, np.asarray(labels, dtype=np.int64))
    about = {
        "count": len(labels),
        "image_size": image_size,
        "label_names": source.label_names,
        "unreadable": len(unreadable),
        "unreadable_images": unreadable,
    }
    write_json(folder / "about.json", about)
    return PixelCache(folder)
