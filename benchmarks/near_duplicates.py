"""Near-duplicates between two splits: `python -m benchmarks.near_duplicates --data FOLDER --split train --other test`.

Candidates are found by an index of the features of one split: for each image of the other its nearest, if their
cosine (standardised) reaches a threshold. Each is then checked by pixels: the correlation of both pictures at
32×32, or of one with the mirror image of the other, must reach another threshold. Brightness, contrast, compression
and small shifts pass, other pictures of the same thing do not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.datasets import open_data
from benchmarks.encoders import DEFAULT_MODEL, extract, load_encoder
from benchmarks.feature_index import images_of_rows, index_stores
from benchmarks.figures import image_grid
from benchmarks.options import from_command_line
from benchmarks.protocol import card, data_hash, write_result
from randar_features.data import ImageSource
from randar_features.encoding.store import FeatureStore
from randar_features.files import write_json

COMPARED_SIDE = 32
SIMILARITY = 0.6  # cosine of standardised features from which on a pair is looked at
CORRELATION = 0.9  # of pixels: of 10 000 CIFAR-10 images all 9 pairs above are one picture, 9 of 11 from 0.88 to 0.9
NEIGHBOURS = 5
SHOWN = 12
SIDE = 64  # pixels of images that a benchmark shows in tiles


@dataclass(frozen=True)
class Pair:
    """Two images that are nearly the same.

    Attributes:
        row, other: rows of the two splits.
        path, other_path: their files, or None.
        similarity: cosine of their standardised features.
        correlation: of their pixels at 32×32, of the better one of the image and its mirror image.
        mirrored: whether that was the mirror image.
        identical: whether all those pixels are equal.
    """

    row: int
    other: int
    path: str | None
    other_path: str | None
    similarity: float
    correlation: float
    mirrored: bool
    identical: bool


def find(
    store: FeatureStore,
    other: FeatureStore,
    output: str,
    images: ImageSource,
    other_images: ImageSource,
    *,
    similarity: float = SIMILARITY,
    correlation: float = CORRELATION,
    neighbours: int = NEIGHBOURS,
    rows: np.ndarray | None = None,
    other_rows: np.ndarray | None = None,
) -> list[Pair]:
    """Pairs of an image of `store` and one of `other`, sorted by the latter's row, then by correlation.

    `other` may be `store` itself: then pairs within it, each once, or those of `rows` with `other_rows`.

    Args:
        store, other: features of both, of which `store` is indexed.
        output: which of their outputs.
        images, other_images: what the stores were made of, for the pixels.
        similarity, correlation: thresholds.
        neighbours: candidates of each image of `other` at most.
        rows, other_rows: those of `store` and of `other` that count; None: all.
    """
    asked = np.flatnonzero(other.ok) if other_rows is None else other_rows[other.ok[other_rows]]
    candidates = _nearest(store, other, output, neighbours, asked)
    if rows is not None:
        candidates = candidates[np.isin(candidates["row"], rows)]
    elif other.folder == store.folder:
        ends = np.stack([candidates["row"], candidates["other"]])
        candidates["row"], candidates["other"] = ends.min(0), ends.max(0)
        candidates = candidates[np.unique(candidates[["row", "other"]], return_index=True)[1]]
    candidates = candidates[candidates["cosine"] >= similarity]
    pixels = images_of_rows(images, candidates["row"], COMPARED_SIDE)
    other_pixels = images_of_rows(other_images, candidates["other"], COMPARED_SIDE)
    compared = [
        _compare(store, other, row, other_row, cosine, pixels[row], other_pixels[other_row])
        for row, other_row, cosine in candidates.tolist()
        if row in pixels and other_row in other_pixels
    ]
    pairs = [pair for pair in compared if pair.correlation >= correlation]
    return sorted(pairs, key=lambda pair: (pair.other, -pair.correlation, pair.row))


def _compare(
    store: FeatureStore,
    other: FeatureStore,
    row: int,
    other_row: int,
    cosine: float,
    pixels: np.ndarray,
    other_pixels: np.ndarray,
) -> Pair:
    straight, mirrored = (pixel_correlation(pixels, each) for each in (other_pixels, other_pixels[:, ::-1]))
    return Pair(
        row=row,
        other=other_row,
        path=store.paths[row],
        other_path=other.paths[other_row],
        similarity=cosine,
        correlation=max(straight, mirrored),
        mirrored=mirrored > straight,
        identical=bool((pixels == other_pixels).all()),
    )


def _nearest(store: FeatureStore, other: FeatureStore, output: str, neighbours: int, asked: np.ndarray) -> np.ndarray:
    """The nearest rows of `store` to the rows `asked` of `other`: row, other and cosine of each pair."""
    same = other.folder == store.folder
    with tempfile.TemporaryDirectory() as folder:
        index = index_stores([store], output, Path(folder), normalization="standardized", progress=False)
        k = max(0, min(neighbours, len(index) - same)) if len(asked) else 0
        found = np.empty(len(asked) * k, [("row", np.int64), ("other", np.int64), ("cosine", np.float64)])
        if k:
            ids, cosines = index.search(other.array(output, asked), k, exclude=asked if same else None)
            found["row"], found["other"], found["cosine"] = ids.ravel(), asked.repeat(k), cosines.ravel()
    return found


def pixel_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of all values of two pictures (S, S, 3); 1 for two plain pictures that are equal."""
    a, b = (picture.astype(np.float64).ravel() for picture in (first, second))
    a, b = a - a.mean(), b - b.mean()
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / scale) if scale > 0 else float((first == second).all())


def warnings(pairs: Sequence[Pair], store: FeatureStore, count: int, output: str) -> list[str]:
    """What a protocol card says of them: nothing if there are none. count: images of the other split."""
    if not pairs:
        return []
    affected, identical = len({pair.other for pair in pairs}), len({pair.other for pair in pairs if pair.identical})
    return [
        f"{affected} of {count} evaluation images have a near-duplicate among those trained on or searched, "
        f"{identical} of them with equal pixels at {COMPARED_SIDE}×{COMPARED_SIDE} (found by "
        f"{store.manifest['encoder']}, {output}: cosine of standardised features ≥ {SIMILARITY}, "
        f"pixel correlation ≥ {CORRELATION})"
    ]


class Part(NamedTuple):
    """Images that a benchmark trains on, searches, or evaluates: what `extract` takes, and which rows of it count."""

    data: Any
    split: str | None = None
    max_rows: int | None = None
    rows: np.ndarray | None = None
    name: str | None = None


def between(part: Part, other: Part, cache: str) -> list[str]:
    """The warnings of a benchmark: images of `other` that have a near-duplicate in `part`.

    Found by one encoder whatever is measured, so that cards of different encoders agree. cache: keeps its features.
    """
    encoder = load_encoder(DEFAULT_MODEL, contexts=("single",), reads=("image",))
    output = list(encoder.outputs)[len(encoder.outputs) // 2]  # finds more changed CIFAR-10 images than others do
    store, other_store = (
        extract(
            encoder,
            each.data,
            split=each.split,
            folder=cache,
            outputs=[output],
            max_rows=each.max_rows,
            name=each.name,
        )
        for each in (part, other)
    )
    images = (open_data(each.data, each.split, encoder.image_size) for each in (part, other))
    pairs = find(store, other_store, output, *images, rows=part.rows, other_rows=other.rows)
    return warnings(pairs, store, len(other_store if other.rows is None else other.rows), output)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is looked for, and where.

    Attributes:
        data: "photo-digits", a folder, or Parquet files.
        split: of the data, what is indexed, such as what is trained on.
        other: of the data, the split whose images are looked up; None: pairs within `split`.
        encoder: as `load_encoder` takes it.
        output: of the encoder; None: its first.
        similarity: cosine of standardised features from which on a pair is looked at.
        correlation: of pixels, from which on it counts.
        neighbours: candidates of each image at most.
        cache: folder that keeps features.
    """

    data: str
    split: str | None = None
    other: str | None = None
    encoder: str = "randar-tiny"
    output: str | None = None
    similarity: float = SIMILARITY
    correlation: float = CORRELATION
    neighbours: int = NEIGHBOURS
    cache: str = "runs/features"


def run(config: Config, out: Path) -> Path:
    """Write result.json, all pairs as pairs.json, and a picture of some."""
    encoder = load_encoder(config.encoder)
    output = config.output or next(iter(encoder.outputs))
    splits = [config.split, config.split if config.other is None else config.other]
    store, other = (
        extract(encoder, config.data, split=split, folder=config.cache, outputs=[output]) for split in splits
    )
    images, other_images = (open_data(config.data, split, encoder.image_size) for split in splits)
    thresholds = {name: getattr(config, name) for name in ("similarity", "correlation", "neighbours")}
    pairs = find(store, other, output, images, other_images, **thresholds)
    write_json(out / "pairs.json", [asdict(pair) for pair in pairs])
    artifacts = {"all pairs": "pairs.json"}
    if pairs:
        (out / "pairs.png").write_bytes(picture(pairs, images, other_images, encoder.image_size))
        artifacts["Near-duplicates, the least alike first (↔: mirrored)"] = "pairs.png"
    content = data_hash(config.data)
    made = card(
        f"Near-duplicates, {config.neighbours} candidates by cosine of standardised features ≥ {config.similarity}, "
        f"pixel correlation ≥ {config.correlation} at {COMPARED_SIDE}×{COMPARED_SIDE}, mirror images included",
        axes={"threshold_basis": None, "selection": None},
        data={"indexed": f"{content} {splits[0]}", "looked up": f"{content} {splits[1]}"},
        weights={encoder.name: encoder.weights},
        config=config,
    )
    return write_result(out, made, [summary(pairs, other, encoder.outputs[output], output)], artifacts=artifacts)


def summary(pairs: Sequence[Pair], other: FeatureStore, details: dict[str, Any], output: str) -> dict[str, Any]:
    """The row of the result."""
    affected = {pair.other for pair in pairs}
    return {
        "encoder": other.manifest["encoder"],
        "output": output,
        **{name: details[name] for name in ("layer", "context", "read", "orders")},
        "pooling": other.manifest["pooling"],
        "normalization": "standardized",
        "resolution": other.manifest["image_size"],
        "share_with_near_duplicate": len(affected) / len(other),
        "with_near_duplicate": len(affected),
        "with_identical": len({pair.other for pair in pairs if pair.identical}),
        "pairs": len(pairs),
        "looked_up": len(other),
    }


def picture(pairs: Sequence[Pair], images: ImageSource, other_images: ImageSource, size: int) -> bytes:
    """Some of the pairs, one below the other, those with the lowest correlation first."""
    shown = sorted(pairs, key=lambda pair: pair.correlation)[:SHOWN]
    left = images_of_rows(other_images, (pair.other for pair in shown), size)
    right = images_of_rows(images, (pair.row for pair in shown), size)
    return image_grid(
        [[left[pair.other] for pair in shown], [right[pair.row] for pair in shown]],
        column_titles=[f"{'↔ ' if pair.mirrored else ''}{pair.correlation:.3f}" for pair in shown],
        row_titles=["looked up", "indexed"],
        height=96,
    )


def main() -> None:
    """Parse, run, print."""
    config, out = from_command_line(Config, __doc__, Path("runs/near-duplicates"))
    path = run(config, out)
    print(path.read_text(encoding="utf-8"))
    print(path)


if __name__ == "__main__":
    main()
