"""What is explored: a model, images by their number, and the index that finds similar images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from randar_features.data import ImageSource, open_images
from randar_features.data.decode.ranges import DEFAULT_READING, Reading
from randar_features.features.store import FeatureStore, is_store
from randar_features.generation.classes import short_name
from randar_features.hub import Model, load_model
from randar_features.retrieval import Index, build_index, open_index
from randar_features.retrieval.encoders import encoder_of


class Collection:
    """Images that are explored.

    Args:
        index: of their features.
        source: the images, by the same numbers; None: the files that the index names.
        model: where the index's model is now, if it has moved.
        device: that computes.
        reading: how images are read, dropped ones too; where it states no range, in that of the index.

    Attributes:
        index, reading: as given.
        model: that the index is of.
        spec: the feature that the index is of.
        encoder: that encodes queries as the index was.

    Raises:
        ValueError: the images have no files of their own, or the source has another number of them.
        IndexFilesError: the model is not the one that the index was built with.
    """

    def __init__(
        self,
        index: Index,
        source: ImageSource | None = None,
        *,
        model: str | Model | None = None,
        device: str | None = None,
        reading: Reading = DEFAULT_READING,
    ) -> None:
        self.index = index
        self.reading = Reading(reading.value_range or index.features.get("value_range"), reading.max_pixels)
        if source is None:
            if missing := [path for path in index.paths if path is None or not os.path.isfile(path)]:
                raise ValueError(
                    f"{len(missing)} of the {len(index.paths)} images have no file of their own, such as {missing[0]}: "
                    "name the data by --data to show them"
                )
            source = open_images(index.paths)
        if source.length != len(index.paths):
            raise ValueError(f"the index is of {len(index.paths)} images, and the data hold {source.length}")
        self.source = source.read_with(self.reading)
        self.encoder = encoder_of(index.vectors, model, device=device)
        self.model: Model = self.encoder.model  # type: ignore[attr-defined]
        self.spec: str = index.features["output"]

    def __len__(self) -> int:
        return len(self.index.paths)

    def pictures(self, numbers: Sequence[int], side: int) -> dict[int, Image.Image]:
        """The middle squares of images by number; those that cannot be read are left out."""
        found = self.source.pictures(numbers, side)
        return {number: Image.fromarray(picture) for number, picture in found.items()}

    def caption(self, number: int) -> str:
        """Number and class of an image."""
        label = int(self.index.labels[number])
        names = self.index.label_names
        return f"image {number}" + ("" if label < 0 else f", {short_name(names[label]) if names else label}")

    def neighbours(self, image: Image.Image, number: int | None, k: int) -> list[dict[str, Any]]:
        """The `k` images most like one, as `Hits.to_dicts` has them: of the collection, then its `number`, or any."""
        k = min(k, len(self.index) - (number is not None))
        if k < 1:
            return []  # it is the only one
        if number is not None:
            return self.index.search_own([number], k).to_dicts()
        return self.index.search([image], k, encoder=self.encoder, max_pixels=self.reading.max_pixels).to_dicts()


def open_collection(
    folder: str,
    scratch: Path,
    *,
    spec: str | None = None,
    model: str | Model | None = None,
    data: str | None = None,
    split: str | None = None,
    most: int = 500,
    device: str | None = None,
    dtype: Any = "float32",
    batch_size: int = 32,
    progress: bool = True,
    reading: Reading = DEFAULT_READING,
) -> Collection:
    """The collection in a folder: an index, a table of features, or images.

    Args:
        folder: that `build_index`, `extract_features` or `extract_to_store` wrote; or images, as `open_images` takes
            them.
        scratch: folder for the index of a table or of images, which nobody keeps.
        spec: which feature; None: the first of a table, or the one that the model recommends.
        model: of images, by default randar-tiny; of an index or a table, where its model is now if it has moved.
        data: the images of an index or a table, where they have no files of their own.
        split: of the images.
        most: the largest number of images to take, evenly spread; an index and a table are taken whole.
        device, dtype, batch_size, progress: as in `extract_to_store`, for images.
        reading: the range of values and the largest size of images.

    Raises:
        FileNotFoundError, ValueError: nothing is there that can be explored.
    """
    is_index = (Path(folder) / "manifest.json").is_file() and not is_store(folder)
    if not is_index and not is_store(folder) and data is not None:
        raise ValueError(f"data={data!r} is of an index or a table, and {folder} holds images: leave it out")
    if is_index and spec is not None:
        raise ValueError(
            f"spec={spec!r} is for images or a table, and {folder} is an index of one feature: leave it out"
        )
    source = None if data is None else open_images(data, split=split)
    if is_index:
        return Collection(open_index(folder), source, model=model, device=device, reading=reading)
    if is_store(folder):
        table = FeatureStore(folder)
        index = build_index(table, scratch / "index", spec or table.names[0], "flat", progress=progress)
        return Collection(index, source, model=model, device=device, reading=reading)
    images = open_images(folder, split=split).read_with(reading)
    if len(images) > most:
        images = images.take(np.unique(np.linspace(0, len(images) - 1, most).round().astype(int)))
    loaded, settings = load_model(model or "randar-tiny", device=device), {"batch_size": batch_size, "dtype": dtype}
    index = build_index(images, scratch / "index", spec, "flat", model=loaded, progress=progress, **settings)
    return Collection(index, images, model=loaded, device=device, reading=reading)
