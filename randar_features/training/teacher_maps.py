"""A frozen network's maps of all training images, computed once and stored beside their tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from randar_features.data import open_images
from randar_features.data.token_store import VIEWS, TokenStore
from randar_features.store.files import make_folder, read_object, write_json, written_whole

MAPS, BASIS, ABOUT, PROGRESS = "maps.npy", "basis.npz", "teacher.json", "progress.json"
FLUSH_EVERY = 1024  # images that a kill costs at most
SAMPLED = 2048  # images that the principal components are computed of
AGAIN = "run scripts/teacher_maps.py again"

Network = Callable[[Tensor], Tensor]
"""Pixels (b, 3, S, S) in [0, 1] → (b, g, g, C)."""


class TeacherMaps:
    """Maps (n, g, g, C) float16, memory-mapped, of the centre crop of each image of a token store.

    Attributes:
        about: the teacher's name, weights and image size, and the shape.

    Args:
        folder: as `write_teacher_maps` made it.
        store: the tokens that are trained on.

    Raises:
        FileNotFoundError: there are no maps.
        ValueError: they are not finished, torn, or of other images, or the store has views that are not the centre
            crop and its mirror image.
    """

    def __init__(self, folder: Path, store: TokenStore) -> None:
        if not (folder / ABOUT).exists():
            found = "not finished" if (folder / PROGRESS).exists() else "missing"
            raise FileNotFoundError(f"{folder / ABOUT} is {found}: run scripts/teacher_maps.py for these tokens")
        self.about = read_object(folder / ABOUT, "content", "shape")
        if store.manifest["views"] != VIEWS["two"]:
            raise ValueError(f"{store.folder} has the views {store.manifest['views']}, expected {VIEWS['two']}")
        if self.about["content"] != store.content:
            raise ValueError(f"{folder} holds maps of other images than {store.folder}: {AGAIN}")
        try:
            self._maps = np.load(folder / MAPS, mmap_mode="r")
        except Exception as error:  # NumPy reads the header as Python, which raises nearly anything
            raise ValueError(f"{folder / MAPS} is missing or torn ({error}): {AGAIN}") from error
        if list(self._maps.shape) != self.about["shape"]:
            raise ValueError(f"{folder / MAPS} holds {self._maps.shape}, {ABOUT} says {self.about['shape']}")

    @property
    def channels(self) -> int:
        """C."""
        return self._maps.shape[-1]

    def batch(self, indices: Tensor, views: Tensor) -> Tensor:
        """Maps (b, g, g, C) float16 of some images in some views; a mirror image has the mirror image of the map."""
        maps = torch.from_numpy(self._maps[indices.numpy()])
        return torch.where(views.view(-1, 1, 1, 1) == 1, maps.flip(2), maps)


def write_teacher_maps(
    network: Network,
    about: dict[str, Any],
    images: Any,
    store: TokenStore,
    folder: Path,
    *,
    image_size: int,
    split: str | None = None,
    channels: int = 192,
    batch_size: int = 16,
    num_workers: int = 0,
) -> None:
    """Compute the maps of a store's images, reduced to their first principal components; a killed run continues.

    Args:
        network: in evaluation mode.
        about: its name and weights, as JSON.
        images: those that the store's tokens were made of, as `open_images` takes them, with `split`.
        store: the tokens.
        folder: to write to.
        image_size: pixels a side that the network sees.
        channels: C, at most; of all maps together each has mean 0, and all together mean square 1.
        batch_size: images at a time.
        num_workers: processes that decode.

    Raises:
        ValueError: the images are not those of the store, as far as their number and labels tell.
    """
    if (folder / ABOUT).exists() and read_object(folder / ABOUT, "content")["content"] == store.content:
        return
    source = open_images(images, split=split)
    unreadable = {entry["row"] for entry in store.unreadable}
    rows = [row for row in range(len(source)) if row not in unreadable]
    if len(rows) != len(store):
        raise ValueError(f"{len(rows)} readable images were given, but {store.folder} holds tokens of {len(store)}")
    make_folder(folder)
    read = _Reader(network, source, image_size, batch_size, num_workers)
    basis = _basis(read, rows, folder / BASIS, channels)
    done = read_object(folder / PROGRESS, "done")["done"] if (folder / PROGRESS).exists() else 0
    shape = (len(rows), *basis.map_shape, basis.components.shape[1])
    maps = np.lib.format.open_memmap(folder / MAPS, mode="r+" if done else "w+", dtype=np.float16, shape=shape)
    with tqdm(total=len(rows), initial=done, desc="teacher maps", unit="image", dynamic_ncols=True) as bar:
        for start in range(done, len(rows), FLUSH_EVERY):
            part = rows[start : start + FLUSH_EVERY]
            found, labels = read.maps(part)
            if labels != store.labels[start : start + len(part)].tolist():
                raise ValueError(f"the labels from image {start} on are not those of {store.folder}")
            maps[start : start + len(part)] = basis.reduce(found).numpy()
            maps.flush()
            write_json(folder / PROGRESS, {"done": start + len(part)})
            bar.update(len(part))
    details = {"image_size": image_size, "shape": list(shape), "variance_kept": basis.kept}
    write_json(folder / ABOUT, about | details | {"content": store.content})


class _Reader:
    """Maps of rows of a source."""

    def __init__(self, network: Network, source: Any, image_size: int, batch_size: int, num_workers: int) -> None:
        self.network, self.source = network, source
        self.image_size, self.batch_size, self.num_workers = image_size, batch_size, num_workers

    @torch.no_grad()
    def maps(self, rows: list[int]) -> tuple[Tensor, list[int]]:
        """(n, g, g, C) float32 and the labels, −1 where there is none; ValueError for an image that is unreadable."""
        maps, labels = [], []
        for batch in self.source.batches(self.image_size, self.batch_size, self.num_workers, rows=[rows]):
            if bad := next((status for status in batch.status if status != "ok"), None):
                raise ValueError(f"an image whose tokens are there cannot be read: {bad}")
            maps.append(self.network(batch.pixels).float().cpu())
            labels += [-1 if label is None else label for label in batch.labels]
        return torch.cat(maps), labels


class _Basis:
    """Principal components of cells, scaled so that the mean square of what they give is 1."""

    def __init__(self, mean: Tensor, components: Tensor, map_shape: tuple[int, int], kept: float) -> None:
        self.mean, self.components, self.map_shape, self.kept = mean, components, map_shape, kept

    def reduce(self, maps: Tensor) -> Tensor:
        """(n, g, g, C') → (n, g, g, C) float16."""
        return ((maps - self.mean) @ self.components).half()


def _basis(read: _Reader, rows: list[int], path: Path, channels: int) -> _Basis:
    """Of the file at `path`, or of `SAMPLED` images spread over all, and then written there."""
    if not path.exists():
        picked = [rows[int(place)] for place in np.linspace(0, len(rows) - 1, min(SAMPLED, len(rows)))]
        maps, _ = read.maps(picked)
        cells = maps.flatten(0, 2)
        mean = cells.mean(0)
        covariance = (cells - mean).T @ (cells - mean) / len(cells)
        values, vectors = torch.linalg.eigh(covariance.double())
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)[:, :channels]
        scale = values[:channels].mean().sqrt()
        with written_whole(path) as file:
            np.savez(
                file, mean=mean.numpy(), components=(vectors / scale).float().numpy(),
                grid=maps.shape[1:3], kept=float(values[:channels].sum() / values.sum()),
            )  # fmt: skip
    with np.load(path) as saved:
        mean, components = torch.from_numpy(saved["mean"]), torch.from_numpy(saved["components"])
        height, width = saved["grid"].tolist()
        return _Basis(mean, components, (height, width), float(saved["kept"]))
