"""Near-duplicates between two splits: `python -m benchmarks.near_duplicates --data FOLDER --split train --other test`.

`duplicate_pairs.py` says what counts as a near-duplicate. All pairs are written, and a picture of the
least similar pairs.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.datasets import open_data
from benchmarks.encoders import extract, load_encoder, unreadable
from benchmarks.options import ComputeOptions
from benchmarks.report.figures import image_grid
from benchmarks.result import Result, data_hash
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.tasks.duplicates.duplicate_pairs import (
    ALIGNED,
    COMPARED_SIDE,
    CORRELATION,
    NEIGHBOURS,
    RECALL,
    SIMILARITY,
    Pair,
    concerned,
    find,
)
from randar_features.data import ImageSource
from randar_features.features.store import FeatureStore
from randar_features.options.types import Count, Share
from randar_features.store.files import write_bytes, write_json

SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Config(ComputeOptions):
    """Near-duplicates of images: pairs that show the same picture.

    Attributes:
        data: "photo-digits", a folder, or Parquet files.
        split: the split that is indexed, such as the training images.
        other: the split whose images are searched for; none: pairs within --split.
        encoder: name of one encoder, see `randar bench classification --help`.
        output: feature of the encoder; none: its first.
        similarity: smallest cosine of standardised features for a pair to be compared.
        correlation: smallest correlation of detail for a pair to count as near-duplicates.
        aligned: smallest correlation of detail if one picture had to be shifted, cropped or turned first.
        neighbours: largest number of candidates for each image.
    """

    data: str
    split: str | None = None
    other: str | None = None
    encoder: str = "randar-tiny"
    output: str | None = None
    similarity: Share = SIMILARITY
    correlation: Share = CORRELATION
    aligned: Share = ALIGNED
    neighbours: Count = NEIGHBOURS


def measure(config: Config, out: Path) -> Measurement:
    """Writes all pairs as pairs.json to `out`, and a picture of some."""
    encoder = load_encoder(config.encoder, device=config.device, dtype=config.dtype)
    output = config.output or next(iter(encoder.outputs))
    splits = [config.split, config.split if config.other is None else config.other]
    options: dict[str, Any] = {"folder": config.cache, "batch_size": config.batch_size, "reading": config.reading}
    store, other = (extract(encoder, config.data, split=split, outputs=[output], **options) for split in splits)
    images, other_images = (open_data(config.data, split, encoder.image_size, config.reading) for split in splits)
    thresholds = {name: getattr(config, name) for name in ("similarity", "correlation", "aligned", "neighbours")}
    pairs = find(store, other, output, images, other_images, **thresholds)
    write_json(out / "pairs.json", [asdict(pair) for pair in pairs])
    artifacts = {"all pairs": "pairs.json"}
    if pairs:
        write_bytes(out / "pairs.png", picture(pairs, images, other_images, encoder.image_size))
        artifacts["Near-duplicates, the least alike first (↔: mirrored)"] = "pairs.png"
    content = data_hash(config.data)
    row = summary(pairs, other, {"output": output, **encoder.axes(output)}, within=splits[0] == splits[1])
    return Measurement(
        protocol=f"Near-duplicates, {config.neighbours} candidates by cosine of standardised features ≥ "
        f"{config.similarity}, correlation of detail at {COMPARED_SIDE}×{COMPARED_SIDE} ≥ {config.correlation}, or "
        f"≥ {config.aligned} after a shift, a 90 % crop or a rotation by 3 degrees, mirror images included",
        axes={"threshold_basis": None, "selection": None},
        data={"indexed": f"{content} {splits[0]}", "looked up": f"{content} {splits[1]}"},
        weights={encoder.name: encoder.described_weights},
        results=[Result.of(row)],
        warnings=[RECALL, *unreadable(store, other)],
        artifacts=artifacts,
    )


def summary(pairs: Sequence[Pair], other: FeatureStore, axes: dict[str, Any], *, within: bool) -> dict[str, Any]:
    """The row of the result; `within`: the pairs are of one split."""
    affected, readable = concerned(pairs, within=within), int(other.ok.sum())
    return {
        "encoder": other.manifest["encoder"],
        **axes,
        "pooling": other.manifest["pooling"],
        "normalization": "standardized",
        "resolution": other.manifest["image_size"],
        "share_with_near_duplicate": len(affected) / max(1, readable),
        "with_near_duplicate": len(affected),
        "with_identical": len(concerned([pair for pair in pairs if pair.identical], within=within)),
        "pairs": len(pairs),
        "looked_up": readable,
    }


def picture(pairs: Sequence[Pair], images: ImageSource, other_images: ImageSource, size: int) -> bytes:
    """Some of the pairs, one below the other, those with the lowest correlation first."""
    shown = sorted(pairs, key=lambda pair: pair.correlation)[:SHOWN]
    left = other_images.pictures((pair.other for pair in shown), size)
    right = images.pictures((pair.row for pair in shown), size)
    return image_grid(
        [[left[pair.other] for pair in shown], [right[pair.row] for pair in shown]],
        column_titles=[f"{'↔ ' if pair.mirrored else ''}{pair.correlation:.3f}" for pair in shown],
        row_titles=["looked up", "indexed"],
        height=96,
    )


run = Task("near_duplicates", Config, measure)

if __name__ == "__main__":
    run_as_command("near_duplicates")
