"""Point matching with frozen maps: `python -m benchmarks.correspondence --data photographs --encoder randar-tiny`.

The match of a point is the pixel of the other image whose feature has the largest cosine with the feature of the
point; both maps are up-sampled to their images (DIFT, `eval_spair.py`). The threshold of PCK is a share of the
object's box or of the image; PCK is over all points, or the mean over image pairs. Intervals are over pairs.

Data: "digits" (two placements of one scanned digit) and "photographs" (crops, moved and recoloured; or a folder of
images, "photographs:FOLDER"), both with exact truth; or the folder of SPair-71k.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.comparisons import differences_of
from benchmarks.datasets import point_pairs
from benchmarks.datasets.point_pairs import PairSet
from benchmarks.datasets.spair import load_spair
from benchmarks.encoders import Encoder, load_encoders
from benchmarks.encoders.extract import file_name
from benchmarks.options import EncoderOptions, check_own
from benchmarks.report.match_pictures import is_right, match_lines
from benchmarks.result import Result, data_hash
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.tasks.dense.feature_maps import DenseFeatures, Layout, check_tiling, dense_features
from probes import match_points, paired_interval, pck, pck_table, positional_basis, remove_basis
from randar_features.options.types import Count, Natural
from randar_features.store.files import write_bytes

LOG = logging.getLogger(__name__)
DIGITS, PHOTOGRAPHS = "digits", "photographs"
SIZES = {DIGITS: 64, PHOTOGRAPHS: 256}  # pixels a side
PRIMARY = "box_per_image"
SAME_PLACE = "same place"
FEW_CATEGORIES = 4
PLACELESS = 64  # images of random codes that a positional basis is made of


@dataclass(frozen=True, kw_only=True)
class Config(EncoderOptions):
    """Point matching with frozen maps.

    Attributes:
        data: "digits", "photographs", "photographs:FOLDER", or the folder of SPair-71k.
        components: number of components of the positional basis to remove from the features; several numbers give one
            result each.
        pairs: number of pairs; none: all of SPair-71k, 120 of the others.
        validation_pairs: number of other pairs, which choose the best feature; for SPair-71k pairs of "val".
        points: points in each pair of digits or photographs.
        split: split of SPair-71k.
        size: side in pixels of digits (none: 64) or photographs (none: 256).
        resolution: show images in tiles, at this shorter side in pixels; none: squash them to the input.
        stride: pixels from tile to tile; none: about 3/8 of the input, an odd number of cells of the grid.
    """

    data: str
    components: tuple[Natural, ...] = (0, 8)
    pairs: Count | None = None
    validation_pairs: Count = 60
    points: Count = 20
    split: str = "test"
    size: Count | None = None
    resolution: Count | None = None
    stride: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tiling(self.resolution, self.stride)
        made = self.data.partition(":")[0] in SIZES
        if self.data.startswith(f"{DIGITS}:"):
            raise ValueError(f"--data {self.data}: digits are built in, without a folder; expected {DIGITS}")
        if self.split == "val":
            raise ValueError("--split val holds the pairs that choose the best output: evaluate on test or trn")
        if made and self.split != "test":
            raise ValueError(f"--split {self.split} is for SPair-71k, and {self.data} has no splits: leave it out")
        if not made:
            check_own(self, dict.fromkeys(("size", "points"), tuple(SIZES)), self.data, "data")


def load_pairs(config: Config, split: str, count: int | None) -> PairSet:
    """Pairs of "validation" or "test", the latter `config.split` of SPair-71k."""
    kind, _, folder = config.data.partition(":")
    if kind not in SIZES:
        name = "val" if split == "validation" else config.split
        return load_spair(config.data, name, count=count, seed=config.seed)
    options: dict[str, Any] = {"size": config.size or SIZES[kind], "points": config.points, "seed": config.seed}
    options["count"] = 120 if count is None else count
    if kind == DIGITS:
        return point_pairs.digits(split, **options)
    return point_pairs.photographs(split, folder=folder or None, reading=config.reading, **options)


def content_free(encoder: Encoder, outputs: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Maps (n, G, G, D) of images without content: random codes, decoded, of a generator, else noise."""
    generator = torch.Generator().manual_seed(seed)
    model: Any = getattr(encoder, "model", None)
    if hasattr(model, "tokenizer"):
        config = model.transformer.config
        codes = torch.randint(config.vocab_size, (PLACELESS, config.num_tokens), generator=generator, device="cpu")
        images = torch.cat([model.tokenizer.decode(part.to(encoder.device)).cpu() for part in codes.split(16)])
    else:
        images = torch.rand(PLACELESS, 3, encoder.image_size, encoder.image_size, generator=generator, device="cpu")
    maps = [encoder.encode(part.clamp(0, 1), outputs) for part in images.split(16)]
    return {name: torch.cat([part[name].cpu() for part in maps]) for name in outputs}


def matched_points(features: DenseFeatures, output: str, basis: Tensor | None, data: PairSet) -> list[np.ndarray]:
    """Pixels (K, 2) of the target of each pair, by one output of an encoder, less a positional basis if given."""
    maps = features.of(output)

    def map_of(image: int) -> Tensor:
        own = torch.from_numpy(maps[image])
        return own if basis is None else remove_basis(own, basis)

    return [
        match_points(
            map_of(pair.source),
            map_of(pair.target),
            pair.points,
            source_size=data.sizes[pair.source],
            target_size=data.sizes[pair.target],
        )
        for pair in data.pairs
    ]


def same_place(data: PairSet) -> list[np.ndarray]:
    """Every point is sought where it was in the source, scaled to the target: what no feature at all achieves."""
    found = []
    for pair in data.pairs:
        (old_height, old_width), (height, width) = data.sizes[pair.source], data.sizes[pair.target]
        found.append((pair.points + 0.5) * (width / old_width, height / old_height) - 0.5)
    return found


def stacked(found: Sequence[np.ndarray], data: PairSet, pairs: Sequence[int] | None = None) -> dict[str, Any]:
    """The arguments of `pck` for these pairs, None: all."""
    rows = range(len(data.pairs)) if pairs is None else pairs
    chosen = [data.pairs[row] for row in rows]
    return {
        "predicted": np.concatenate([found[row] for row in rows]).astype(np.float64),
        "target": np.concatenate([pair.targets for pair in chosen]),
        "pairs": np.repeat(np.arange(len(chosen)), [len(pair.points) for pair in chosen]),
        "box_sizes": np.array([pair.box for pair in chosen], dtype=np.float64),
        "image_sizes": np.array([data.sizes[pair.target] for pair in chosen], dtype=np.float64),
    }


def scores(found: Sequence[np.ndarray], data: PairSet, seed: int) -> dict[str, Any]:
    """All variants of PCK, `PRIMARY` at 0.1 first, with intervals; and by category if there are some.

    Few categories, such as the photographs, are metrics of their own, with intervals.
    """
    values, intervals = pck_table(**stacked(found, data), seed=seed)
    main = f"{PRIMARY}@0.1"
    result: dict[str, Any] = {main: values[main], "interval": intervals[main], **values, "intervals": intervals}
    names = sorted({pair.category for pair in data.pairs if pair.category is not None})
    members = {name: [n for n, pair in enumerate(data.pairs) if pair.category == name] for name in names}
    if names:
        result["categories"] = {name: pck(**stacked(found, data, own)) for name, own in members.items()}
    for name in names if 1 < len(names) <= FEW_CATEGORIES else []:
        of_name, bounds = pck_table(**stacked(found, data, members[name]), alphas=(0.1,), seed=seed)
        result[f"{main} of {name}"], intervals[f"{main} of {name}"] = of_name[main], bounds[main]
    return result


@dataclass(frozen=True)
class Matched:
    """One row of a result, and the pixels (K, 2) that it found in the target of each test pair."""

    row: Result
    points: list[np.ndarray]

    def shares(self, data: PairSet) -> np.ndarray:
        """The share of each pair's points found within a tenth of the box's longer side: float64 (pairs,)."""
        return np.array([is_right(own, pair).mean() for own, pair in zip(self.points, data.pairs, strict=True)])

    def __str__(self) -> str:
        """The output, and what was taken out of it."""
        removed = self.row["components"]
        return f"{self.row['output']}, {removed} directions removed" if removed else self.row["output"]


def evaluate(encoder: Encoder, config: Config, sets: Sequence[PairSet]) -> list[Matched]:
    """One for each output and number of components; `sets`: the pairs that choose a variant, and those that count."""
    grids = encoder.grids(config.chosen(encoder))
    layout = Layout(encoder.image_size, encoder.image_size // min(grids.values()), config.resolution, config.stride)
    options: dict[str, Any] = {"outputs": list(grids), "layout": layout, **config.store}
    features = [dense_features(encoder, data.load, data.sizes, name=file_name(data.name), **options) for data in sets]
    empty = content_free(encoder, list(grids), config.seed) if any(config.components) else {}
    found = []
    for output in tqdm(grids, desc=f"match {encoder.name}", unit="output"):
        for components in _removable(config.components, output, grids[output] ** 2):
            basis = positional_basis(empty[output], components) if components else None
            removed = f", {components} positional directions removed" if components else ""
            about = {"encoder": encoder.name, "output": output, **encoder.outputs[output], "components": components}
            about |= {"normalization": f"cosine{removed}", "resolution": str(layout)}
            both = [matched_points(each, output, basis, data) for each, data in zip(features, sets, strict=True)]
            found.append(matched(about, both, sets, config.seed))
    return found


def matched(about: dict[str, Any], found: Sequence[list[np.ndarray]], sets: Sequence[PairSet], seed: int) -> Matched:
    """A row with the scores of points found in the pairs of both sets, those that choose a variant first."""
    (tuned, points), (validation, test) = found, sets
    metrics = {**scores(points, test, seed), "components": about["components"]}
    return Matched(Result.of({**metrics, **about, "validation": pck(**stacked(tuned, validation))[PRIMARY]}), points)


def _removable(components: Sequence[int], output: str, places: int) -> list[int]:
    """The numbers of directions below that of a map's places, so that something is left; the log names the others."""
    left = [count for count in components if count < places]
    if dropped := [count for count in components if count not in left]:
        LOG.warning("%s has %d places: no result with %s directions removed", output, places, dropped)
    return left


def measure(config: Config, out: Path) -> Measurement:
    """Every output of every encoder; writes a picture to `out`."""
    test = load_pairs(config, "test", config.pairs)
    sets = load_pairs(config, "validation", config.validation_pairs), test
    plain = {"encoder": SAME_PLACE, "output": SAME_PLACE, "components": 0}
    plain |= dict.fromkeys(("layer", "context", "read", "orders", "normalization", "resolution"))
    every = [matched(plain, [same_place(data) for data in sets], sets, config.seed)]
    best, weights = [], {SAME_PLACE: "none"}
    for encoder in load_encoders(config.encoder, **config.loading):
        found = evaluate(encoder, config, sets)
        every += found
        best.append(max(found, key=lambda each: each.row["validation"]))
        weights[encoder.name] = encoder.described_weights
    rows, shares = [each.row for each in every], [each.shares(test) for each in every]
    differences = differences_of(rows, lambda one, other: paired_interval(shares[one], shares[other], seed=config.seed))
    pictured = {each.row["encoder"]: each.points for each in best}
    write_bytes(out / "matches.png", match_lines(pictured, test))
    shown = ", ".join(f"{each.row['encoder']} ({each})" for each in best)
    caption = f"Matched points, green within a tenth of the longer side of the target's box: {shown}"
    return Measurement(
        protocol="point matching: arg-max of the cosine over all pixels, maps up-sampled (DIFT)",
        axes={
            "pooling": None,
            "threshold_basis": "longer side of the target's box (box_…) and of the target image (image_…)",
            "selection": f"none; `validation` is {PRIMARY}@0.1 of {len(sets[0].pairs)} other pairs",
        },
        data=data_parts(config, {"evaluation": test, "validation": sets[0]}),
        weights=weights,
        warnings=warnings_of(config, sets[::-1]),
        results=rows,
        differences=differences,
        interval="percentile bootstrap over image pairs",
        artifacts={caption: "matches.png"},
    )


def data_parts(config: Config, parts: Mapping[str, PairSet]) -> dict[str, str]:
    """What the pairs were made of, and how many there are."""
    kind, _, folder = config.data.partition(":")
    content = data_hash(folder if kind in SIZES and folder else config.data)
    return {part: f"{content}, {data.name}, {len(data.pairs)} pairs" for part, data in parts.items()}


def warnings_of(config: Config, sets: Sequence[PairSet]) -> list[str]:
    """Pairs or images left out; that the box of photographs is the image."""
    found = [f"{len(data.unreadable)} left out: {data.unreadable[0]['reason']}" for data in sets if data.unreadable]
    if config.data.startswith(PHOTOGRAPHS):
        found.append("photographs have no object: the box is the whole image")
    if config.data == PHOTOGRAPHS:
        found.append("four photographs: see each; intervals are over pairs of these and say nothing of others")
    return found


run = Task("correspondence", Config, measure)

if __name__ == "__main__":
    run_as_command("correspondence")
