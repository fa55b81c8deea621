"""Images decoded once into one memory-mapped array, for training that sees them many times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from randar_features.data.images import OK, open_images


class PixelCache:
    """`pixels` (n, 3, S, S) uint8, `labels` (n,) int64 (−1: none), `label_names` or None."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "about.json").read_text())
        shape = (about["count"], 3, about["image_size"], about["image_size"])
        self.pixels = np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="r", shape=shape)
        self.labels = torch.from_numpy(np.load(folder / "labels.npy"))
        self.label_names: list[str] | None = about["label_names"]

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, indices: Tensor) -> Tensor:
        """Float images (b, 3, S, S) in [0, 1]."""
        return torch.from_numpy(self.pixels[indices.numpy()]).float() / 255


def cache_pixels(images: Any, folder: Path, *, image_size: int, split: str | None = None) -> PixelCache:
    """Decode everything that `open_images` takes into `folder`, unless it was done before.

    Unreadable images are left out and counted. `about.json` is written last, so a killed run starts anew.
    """
    if not (folder / "about.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = open_images(images, split=split)
        count, labels = 0, []
        with (folder / "pixels.u8").open("wb") as file, tqdm(total=source.length, desc="decoding") as bar:
            for batch in source.batches(image_size, 256):
                good = [row for row, status in enumerate(batch.status) if status == OK]
                file.write((batch.pixels[good] * 255).round().byte().numpy().tobytes())
                labels += [-1 if (label := batch.labels[row]) is None else label for row in good]
                count += len(good)
                bar.update(len(batch.status))
        np.save(folder / "labels.npy", np.asarray(labels, dtype=np.int64))
        about = {"count": count, "image_size": image_size, "label_names": source.label_names}
        (folder / "about.json").write_text(json.dumps(about))
    return PixelCache(folder)
