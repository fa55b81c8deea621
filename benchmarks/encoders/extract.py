"""Features of an encoder and a data set, computed once and kept; the cache is found by the content of the data."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.datasets import open_data
from benchmarks.encoders.base import Encoder
from probes.pooling import POOLINGS
from randar_features.data.decode.ranges import DEFAULT_READING, Reading
from randar_features.data.stored_images import name_of as name_of_images
from randar_features.features.store import Content, EncodedImages, FeatureStore, read_manifest, write_store
from randar_features.precision import name_of
from randar_features.store.manifest import MANIFEST
from randar_features.store.state import OtherImagesError

LONGEST_NAME = 150  # bytes; a system takes 255, and names of folders have more parts


def extract(
    encoder: Encoder,
    data: Any,
    *,
    split: str | None = None,
    folder: str | Path,
    outputs: Sequence[str] | None = None,
    pooling: str | None = "mean",
    dtype: str = "float16",
    batch_size: int = 32,
    num_workers: int = 0,
    max_images: int | None = None,
    name: str | None = None,
    part: str | None = None,
    progress: bool = True,
    reading: Reading = DEFAULT_READING,
) -> FeatureStore:
    """The features of all images, from `folder` if they are there, else computed in one pass and put there.

    A killed extraction goes on where it was; of changed data only what is new is computed. Entries are the data's, in
    its order; an unreadable image keeps its place, with NaN, and its reason in `status`.

    Args:
        encoder: from `load_encoder`.
        data, split: what `open_data` takes.
        folder: the cache; the store lies in a folder of encoder, weights, data and outputs below it.
        outputs: which ones; None: all.
        pooling: one of `probes.pooling.POOLINGS`, for vectors (P,); None: maps (G, G, D).
        dtype: on disk, "float16" or "float32"; a file's numbers stay as they are.
        batch_size, num_workers, progress: images a pass, processes that decode them, and whether to show a bar.
        max_images: the first images at most, of data in no particular order; None: all.
        name: of the data, in the cache and in the manifest; None: made of `data`.
        part: which file of a `FeatureFile` with {split} in its name; None: that of `split`.
        reading: range of values and largest size of a picture.

    Raises:
        ValueError: an unknown output or pooling.
    """
    wanted, name = encoder.choose(outputs), _named(data, name, split, max_images)
    computed = "" if encoder.dtype == torch.float32 else f"-{name_of(encoder.dtype)}"
    home = Path(folder) / f"{file_name(encoder.name)}-{file_name(encoder.weights)}{computed}" / file_name(name)
    dtype = dtype if encoder.computes else "float32"
    made = _outputs_of_a_store(home, encoder, wanted, (pooling, dtype, reading.content())) or wanted
    content = _content(encoder, made, pooling, dtype, reading)
    digest = hashlib.sha256(json.dumps(content.manifest(), sort_keys=True).encode()).hexdigest()
    place = home / f"{pooling or 'maps'}-{digest[:8]}"
    images = encoder.stored(
        open_data(data, split, encoder.image_size, reading),
        content,
        part=part or split,
        max_images=max_images,
        batch_size=batch_size,
        num_workers=num_workers,
    )

    def write(folder: Path, earlier: Sequence[FeatureStore]) -> object:
        reuse = earlier if encoder.computes else ()
        return write_store(images, folder, content, data=name, reuse=reuse, progress=progress)

    return FeatureStore(_filled(place, write), wanted)


def add_to_store(
    encoder: Encoder,
    data: Any,
    folder: Path,
    outputs: Sequence[str],
    *,
    split: str | None = None,
    pooling: str = "mean",
    reading: Reading = DEFAULT_READING,
    check: Callable[[EncodedImages], None],
    **batches: int,
) -> FeatureStore:
    """The features of all images in one store, `folder` itself; what is there already is not computed again.

    As `extract_to_store` with `append`: images that moved are renamed, those that are gone stay. For an index, whose
    entries must keep their numbers.

    Args:
        encoder, data, outputs, split, pooling, reading: as in `extract`.
        folder: of the store.
        check: is given the images before they are encoded, and may refuse them; not where features are read.
        batches: `batch_size` and `num_workers`.
    """
    content = _content(encoder, encoder.choose(outputs), pooling, "float16" if encoder.computes else "float32", reading)
    source = open_data(data, split, encoder.image_size, reading)
    images = encoder.stored(source, content, part=split, max_images=None, **batches)
    if isinstance(images, EncodedImages):
        check(images)
    there = (folder / MANIFEST).exists()
    return write_store(images, folder, content, data=name_of_images(data, split), append=there)


def _content(encoder: Encoder, outputs: list[str], pooling: str | None, dtype: str, reading: Reading) -> Content:
    """What a store of these outputs holds; ValueError for an unknown pooling."""
    if pooling is not None and pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, or None for maps; got {pooling!r}")
    return Content(
        encoder=encoder.name,
        weights=encoder.weights,
        outputs={output: encoder.outputs[output] for output in outputs},
        image_size=encoder.image_size,
        pooling=pooling,
        dtype=dtype,
        compute_dtype=name_of(encoder.dtype),
        value_range=reading.value_range,
    )


def _filled(place: Path, write: Callable[[Path, Sequence[FeatureStore]], object]) -> Path:
    """The folder of the features of these images: `place`, or one beside it where that is of other images.

    What stores of earlier versions of the data have of these images, by their content, is given to `write`.
    """
    earlier: list[FeatureStore] = []
    for number in count(1):
        folder = place if number == 1 else place.with_name(f"{place.name}-{number}")
        try:
            write(folder, earlier)
            return folder
        except OtherImagesError:
            with suppress(ValueError):  # one that was not finished lends nothing
                earlier.append(FeatureStore(folder))
    raise AssertionError("a folder that is not there takes any images")


def unreadable(*stores: FeatureStore) -> list[str]:
    """A warning for each of the stores that lacks images; one that is given twice is named once."""
    found = []
    for store in dict.fromkeys(stores):
        failed = np.flatnonzero(~store.ok)
        named = "; ".join(f"row {row}: {store.status[row]}" for row in failed[:3])
        found += [f"{len(failed)} of {len(store)} images could not be read: {named}"] if len(failed) else []
    return found


def _outputs_of_a_store(
    home: Path, encoder: Encoder, wanted: list[str], how: tuple[str | None, str, dict[str, Any]]
) -> list[str] | None:
    """All outputs of a store that has those wanted, and was made the same way; None if there is none.

    how: pooling, number format on disk, and how pictures were read.
    """
    for path in sorted(home.glob("*/manifest.json")):
        try:
            held = read_manifest(path.parent)
        except ValueError:  # of an earlier version, or damaged: it is not used
            continue
        outputs = held["outputs"]
        read = {"value_range": held.get("value_range")}
        same = (held["pooling"], held["dtype"], read) == how and held["image_size"] == encoder.image_size
        if same and set(wanted) <= set(outputs) and all(encoder.outputs.get(name) == outputs[name] for name in outputs):
            return list(outputs)
    return None


def _named(data: Any, name: str | None, split: str | None, max_images: int | None) -> str:
    """The name of the data in the cache, with what of it is taken."""
    if name is None:
        name = Path(data).name if isinstance(data, str | Path) else type(data).__name__
    name = name if split is None else f"{name}-{split}"
    return name if max_images is None else f"{name}-first-{max_images}"


def file_name(text: str) -> str:
    """A text with nothing in it that a path could not hold; of a long one the beginning and a hash."""
    name = re.sub(r"[^\w.+@-]+", "-", text).strip("-")
    whole = os.fsencode(name)
    if len(whole) <= LONGEST_NAME:
        return name
    beginning = whole[: LONGEST_NAME - 9].decode(errors="ignore")
    return f"{beginning}-{hashlib.sha256(os.fsencode(text)).hexdigest()[:8]}"
