"""A frozen network's maps of all training images, computed once and stored beside their tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from randar_features.data import ImageBatch, ImageSource, open_images
from randar_features.data.decode.ranges import DEFAULT_READING, Reading
from randar_features.data.stored_images import StoredImages, name_of
from randar_features.data.token_store import CROPS, CROPS_ENTRY, TokenStore
from randar_features.store.files import written_whole
from randar_features.store.records import OK
from randar_features.store.store import Store
from randar_features.store.writer import StoreWriter

MAPS, BASIS = "maps", "basis.npz"
SAMPLED = 2048  # images that the principal components are computed of
SHARD_BYTES = 64 << 20

Network = Callable[[Tensor], Tensor]
"""Pixels (b, 3, S, S) in [0, 1] → (b, g, g, C)."""


class _Maps(Store):
    kind: ClassVar[str] = "teacher maps"
    made_by: ClassVar[str] = "scripts/teacher_maps.py"


class TeacherMaps:
    """Maps (n, g, g, C) float16, memory-mapped, of the centre crop of each image of a token store.

    Attributes:
        about: the teacher's name, weights and image size, and the shape.

    Args:
        folder: as `write_teacher_maps` made it.
        store: the tokens that are trained on.

    Raises:
        FileNotFoundError: there are no maps.
        ValueError: they are not finished, torn, or of other images, or the store has crops that are not the centre
            crop and its mirror image.
    """

    def __init__(self, folder: Path, store: TokenStore) -> None:
        self.store = _Maps(folder)
        self.about: dict[str, Any] = self.store.manifest["teacher"]
        if store.manifest[CROPS_ENTRY] != CROPS["two"]:
            raise ValueError(f"{store.folder} has the crops {store.manifest[CROPS_ENTRY]}, expected {CROPS['two']}")
        self._rows = self.store.readable_rows()
        if self.store.manifest["tokens"] != store.content or len(self._rows) != len(store):
            raise ValueError(f"{folder} holds maps of other images than {store.folder}: run {_Maps.made_by} again")

    @property
    def channels(self) -> int:
        """C."""
        return self.store.shape(MAPS)[-1]

    def batch(self, indices: Tensor, crops: Tensor) -> Tensor:
        """Maps (b, g, g, C) float16 of some crops of some images; a mirror image has the mirror image of the map."""
        maps = torch.from_numpy(self.store.take(MAPS, self._rows[indices.numpy()]))
        return torch.where(crops.view(-1, 1, 1, 1) == 1, maps.flip(2), maps)


@torch.no_grad()
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
    reading: Reading = DEFAULT_READING,
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
        reading: range of values and largest size of a picture, as for the tokens.

    Raises:
        ValueError: the images are not those of the store, as far as their number and labels tell; or the folder holds
            maps of another network or of other images.
    """
    source = open_images(images, split=split).read_with(reading)
    unreadable = {entry["row"] for entry in store.unreadable}
    rows = [row for row in range(len(source)) if row not in unreadable]
    if len(rows) != len(store):
        raise ValueError(f"{len(rows)} readable images were given, but {store.folder} holds tokens of {len(store)}")

    def values(batch: ImageBatch) -> dict[str, np.ndarray]:
        return {MAPS: basis.reduce(network(batch.pixels).float().cpu()).numpy()}

    stored = StoredImages(source, values, image_size=image_size, batch_size=batch_size, num_workers=num_workers)
    records = stored.records()
    if [records[row].label for row in rows] != store.labels.tolist():
        raise ValueError(f"the labels of the images are not those of {store.folder}")
    made_of = json.dumps([about, image_size, channels, store.content], sort_keys=True)
    basis = _basis(network, source, rows, folder / BASIS, channels, image_size, batch_size, made_of)
    shape = (*basis.grid, basis.components.shape[1])
    teacher = about | {"image_size": image_size, "shape": [len(rows), *shape], "variance_kept": basis.kept}
    writer = StoreWriter(
        folder=folder,
        kind=_Maps,
        content={"teacher": teacher, "tokens": store.content},
        shard_rows=max(1, SHARD_BYTES // (2 * int(np.prod(shape)))),
        data=name_of(images, split),
        progress="teacher maps",
    )
    writer.fill(stored)
    TeacherMaps(folder, store)  # an image whose tokens are there may have become unreadable


class _Basis(NamedTuple):
    """Principal components of cells, scaled so that the mean square of what they give is 1."""

    mean: Tensor
    components: Tensor
    grid: tuple[int, int]
    kept: float

    def reduce(self, maps: Tensor) -> Tensor:
        """(n, g, g, C') → (n, g, g, C) float16."""
        return ((maps - self.mean) @ self.components).half()


def _basis(
    network: Network,
    source: ImageSource,
    rows: list[int],
    path: Path,
    channels: int,
    image_size: int,
    batch_size: int,
    made_of: str,
) -> _Basis:
    """The basis in the file at `path`; without one, that of `SAMPLED` images spread over all, which is written there.

    ValueError if the file is of something else than `made_of` says.
    """
    if not path.exists():
        picked = [rows[int(place)] for place in np.linspace(0, len(rows) - 1, min(SAMPLED, len(rows)))]
        batches = list(source.batches(image_size, batch_size, rows=[picked]))
        if bad := next((status for batch in batches for status in batch.status if status != OK), None):
            raise ValueError(f"an image whose tokens are there cannot be read: {bad}")
        maps = torch.cat([network(batch.pixels).float().cpu() for batch in batches])
        cells = maps.flatten(0, 2)
        mean = cells.mean(0)
        covariance = (cells - mean).T @ (cells - mean) / len(cells)
        values, vectors = torch.linalg.eigh(covariance.double())
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)[:, :channels]
        scale = values[:channels].mean().sqrt()
        with written_whole(path) as file:
            np.savez(
                file, mean=mean.numpy(), components=(vectors / scale).float().numpy(),
                grid=maps.shape[1:3], kept=float(values[:channels].sum() / values.sum()), made_of=made_of,
            )  # fmt: skip
    with np.load(path) as saved:
        if "made_of" in saved and str(saved["made_of"]) != made_of:  # earlier versions did not tell
            raise ValueError(
                f"{path} is of another network or other images, {saved['made_of']}, now {made_of}: "
                "give another folder, or remove that one"
            )
        mean, components = torch.from_numpy(saved["mean"]), torch.from_numpy(saved["components"])
        height, width = saved["grid"].tolist()
        return _Basis(mean, components, (height, width), float(saved["kept"]))
