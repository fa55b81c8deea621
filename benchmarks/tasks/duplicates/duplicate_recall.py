"""How many near-duplicates are found: `python -m benchmarks.duplicate_recall --data FOLDER --split train`.

Some images of a data set are copied with a change, such as a shift by 1/32 of the width, and searched for among its
first images. The share that is found is the recall that warnings of near-duplicates state. Later images of the data set
are searched for too: they show how often another picture is taken for a near-duplicate.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.datasets import open_data
from benchmarks.encoders import extract, load_encoder
from benchmarks.options import ComputeOptions
from benchmarks.result import Result, data_hash
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.tasks.duplicates.duplicate_pairs import Pair, find, middle_output
from probes import bootstrap_interval
from randar_features.data import open_images
from randar_features.features.store import FeatureStore
from randar_features.options.types import Count

OTHERS = "other images"
Change = Callable[[Image.Image], Image.Image]


def shifted(image: Image.Image, share: float) -> Image.Image:
    """Moved to the right by a share of the width; the left edge is repeated."""
    pixels, by = np.asarray(image), round(share * image.width)
    return Image.fromarray(np.pad(pixels, ((0, 0), (by, 0), (0, 0)), mode="edge")[:, : image.width])


def cropped(image: Image.Image, share: float, place: float = 0.5) -> Image.Image:
    """A part of each side, enlarged; place: 0 from the upper left corner, 0.5 from the middle."""
    width, height = image.size
    left, top = place * (1 - share) * width, place * (1 - share) * height
    box = (left, top, left + share * width, top + share * height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


def turned(image: Image.Image, degrees: float) -> Image.Image:
    """Rotated about its centre; beyond the edges the picture is reflected."""
    pad = image.width // 4
    wide = Image.fromarray(np.pad(np.asarray(image), ((pad, pad), (pad, pad), (0, 0)), mode="reflect"))
    box = (pad, pad, pad + image.width, pad + image.height)
    return wide.rotate(degrees, Image.Resampling.BICUBIC).crop(box)


def compressed(image: Image.Image) -> Image.Image:
    """The image after it was saved as JPEG of quality 60."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=60)
    return Image.open(buffer).convert("RGB")


CHANGES: dict[str, Change] = {
    "copied": lambda image: image,
    "15 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "JPEG, quality 60": compressed,
    "mirrored": ImageOps.mirror,
    "shifted by 1/32": lambda image: shifted(image, 1 / 32),
    "shifted by 2/32": lambda image: shifted(image, 2 / 32),
    "mirrored, shifted by 1/32": lambda image: shifted(ImageOps.mirror(image), 1 / 32),
    "90 % crop, middle": lambda image: cropped(image, 0.9),
    "90 % crop, corner": lambda image: cropped(image, 0.9, place=0),
    "80 % crop, middle": lambda image: cropped(image, 0.8),
    "rotated by 3 degrees": lambda image: turned(image, 3),
}


@dataclass(frozen=True, kw_only=True)
class Config(ComputeOptions):
    """How many near-duplicates of each kind are found, and how many other pictures are mistaken for one.

    Attributes:
        data: "photo-digits", a folder, or Parquet files.
        split: split of the data.
        gallery: number of indexed images, the first ones.
        images: number of indexed images that are changed and searched for.
        others: number of images after the indexed ones that are searched for.
    """

    data: str
    split: str | None = None
    gallery: Count = 2000
    images: Count = 200
    others: Count = 1000


def measure(config: Config, out: Path) -> Measurement:
    """A result for each change, and one for other images."""
    encoder = load_encoder("randar-tiny", device=config.device, dtype=config.dtype)
    source = open_data(config.data, config.split, encoder.image_size, config.reading)
    indexed = range(min(config.gallery, len(source)))
    beyond = range(len(indexed), min(len(indexed) + config.others, len(source)))
    pictures = source.pictures([*indexed, *beyond], encoder.image_size)
    gallery = [row for row in indexed if row in pictures]
    count = min(config.images, len(gallery))
    places = np.sort(np.random.default_rng(config.seed).choice(len(gallery), count, replace=False))
    output = middle_output(encoder)

    def stored(arrays: list[np.ndarray], name: str) -> FeatureStore:
        options: dict[str, Any] = {"folder": config.cache, "outputs": [output], "batch_size": config.batch_size}
        return extract(encoder, arrays, name=f"{data_hash(config.data)[-8:]}-{name}", **options)

    arrays = [pictures[row] for row in gallery]
    store, images = stored(arrays, "gallery"), open_images(arrays)

    def found(changed: list[np.ndarray], name: str) -> list[Pair]:
        return find(store, stored(changed, name), output, images, open_images(changed))

    results = []
    for name, change in CHANGES.items():
        pairs = found([np.asarray(change(Image.fromarray(arrays[place]))) for place in places], name)
        own = {pair.other for pair in pairs if pair.row == places[pair.other]}
        results.append(_result(name, np.isin(np.arange(count), list(own)), config.seed))
    others = [pictures[row] for row in beyond if row in pictures]
    if others:
        pairs = found(others, OTHERS)
        results.append(_result(OTHERS, np.isin(np.arange(len(others)), [p.other for p in pairs]), config.seed))
    return Measurement(
        protocol=f"near-duplicates found among {len(gallery)} images, of images that were changed; of other images, "
        "what is found are near-duplicates that the data hold, or errors",
        axes={"encoder": encoder.name, "output": output, "resolution": encoder.image_size}
        | dict.fromkeys(("layer", "context", "read", "orders", "threshold_basis", "selection"))
        | {"pooling": "mean", "normalization": "standardized"},
        data={"images": f"{data_hash(config.data)} {config.split or ''}".strip()},
        weights={encoder.name: encoder.described_weights},
        interval="percentile bootstrap over images",
        results=results,
    )


def _result(name: str, hits: np.ndarray, seed: int) -> Result:
    scores = hits.astype(float)
    entries = {"change": name, "found": float(scores.mean()), "images": len(hits)}
    return Result.of(entries | {"interval": bootstrap_interval(scores, seed=seed)})


run = Task("duplicate_recall", Config, measure)

if __name__ == "__main__":
    run_as_command("duplicate_recall")
