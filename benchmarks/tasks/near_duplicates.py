"""Near-duplicates between two splits: `python -m benchmarks.near_duplicates --data FOLDER --split train --other test`.

What counts as one is said in `benchmarks.duplicate_pairs`. All pairs, and a picture of the least alike, are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.datasets import open_data
from benchmarks.encoders import extract, load_encoder
from benchmarks.options import from_command_line
from benchmarks.report.figures import image_grid
from benchmarks.result import card, data_hash, write_result
from benchmarks.tasks.duplicate_pairs import COMPARED_SIDE, CORRELATION, NEIGHBOURS, SIMILARITY, Pair, concerned, find
from benchmarks.tasks.feature_index import images_of_rows
from randar_features.command_line import run_command
from randar_features.data import ImageSource
from randar_features.features.store import FeatureStore
from randar_features.store.files import write_json

SHOWN = 12


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
        correlation: of detail, from which on it counts.
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
        f"correlation of detail ≥ {config.correlation} at {COMPARED_SIDE}×{COMPARED_SIDE}, mirror images included",
        axes={"threshold_basis": None, "selection": None},
        data={"indexed": f"{content} {splits[0]}", "looked up": f"{content} {splits[1]}"},
        weights={encoder.name: encoder.weights},
        config=config,
    )
    row = summary(pairs, other, encoder.outputs[output], output, within=splits[0] == splits[1])
    return write_result(out, made, [row], artifacts=artifacts)


def summary(
    pairs: Sequence[Pair], other: FeatureStore, details: dict[str, Any], output: str, *, within: bool
) -> dict[str, Any]:
    """The row of the result; `within`: the pairs are of one split."""
    affected = concerned(pairs, within=within)
    return {
        "encoder": other.manifest["encoder"],
        "output": output,
        **{name: details[name] for name in ("layer", "context", "read", "orders")},
        "pooling": other.manifest["pooling"],
        "normalization": "standardized",
        "resolution": other.manifest["image_size"],
        "share_with_near_duplicate": len(affected) / len(other),
        "with_near_duplicate": len(affected),
        "with_identical": len(concerned([pair for pair in pairs if pair.identical], within=within)),
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
    run_command(main)
