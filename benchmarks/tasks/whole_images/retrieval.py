"""Retrieval by cosine: `python -m benchmarks.retrieval --data FOLDER --split validation --encoder pixels randar-tiny`.

Images of the class of the query are relevant. Without --query-split each image is a query, and is searched among all
others of its split. Every output of every encoder is searched exactly, and the best of each encoder also by indexes;
OUT/index compares these results with the exact ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from benchmarks.comparisons import best_of, differences_of
from benchmarks.datasets import open_data
from benchmarks.encoders import Encoder, extract, load_encoders, unreadable
from benchmarks.encoders.extract import file_name
from benchmarks.options import EncoderOptions
from benchmarks.report.figures import RIGHT, WRONG, image_grid
from benchmarks.result import Result, data_hash
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.tasks.duplicates.duplicate_pairs import Part, between
from benchmarks.tasks.whole_images.retrieval_task import (
    DEPTH,
    Found,
    chosen_way,
    exact_scores,
    index_scores,
    make_task,
    tuning_score,
)
from probes import paired_interval
from probes.index.settings import CODES
from probes.transforms import AUTO, fitted_transform
from randar_features.features.store import FeatureStore
from randar_features.options.parse import option
from randar_features.options.shared import Normalization, VectorPooling
from randar_features.options.types import Count
from randar_features.store.files import write_bytes

INTERVAL = "percentile bootstrap over queries"
SHOWN, SHOWN_NEIGHBOURS, PICTURE = 8, 8, 64
NOT_HERE = {"threshold_basis": None, "selection": "mAP of other queries, which are not evaluated"}


@dataclass(frozen=True, kw_only=True)
class Config(EncoderOptions):
    """Retrieval by cosine: images of the query's class are relevant.

    Attributes:
        data: labelled images: "photo-digits", a folder of class folders, or Parquet files.
        split: the split that is searched.
        query_split: the split of the queries; none, or the same as --split: each of its images is searched among the
            others.
        pooling: how maps become vectors, one or several of mean, 1x1+2x2, mean+deviation, max, flat.
        normalization: what is done to vectors before cosines, by the gallery's statistics: unit (only length 1),
            standardized, whitened (all axes), auto (other queries than the evaluated ones choose one of these, and
            the number of axes); several give one result each.
        queries: largest number of queries, a seeded random choice.
        index_kind: indexes to compare with exact search: flat, hnsw, ivfpq (for 256 vectors or more); or "none".
        max_images: read only this many images of each split, the first ones; none: all.
        duplicates: search near-duplicates of the queries in the gallery, and warn of them.
    """

    data: str
    split: str | None = None
    query_split: str | None = None
    encoder: tuple[str, ...] = option("--encoders", default=("pixels", "histogram", "codes", "randar-tiny"))
    pooling: tuple[VectorPooling, ...] = ("mean",)
    normalization: tuple[Normalization, ...] = ("unit",)
    queries: Count = 1000
    index_kind: tuple[Literal["flat", "hnsw", "ivfpq", "none"], ...] = ("hnsw", "ivfpq")
    max_images: Count | None = option("--max-rows", default=None)
    duplicates: bool = True


def evaluate(encoder: Encoder, config: Config) -> Iterator[Found]:
    """Exact search with every output, pooling and normalization."""
    for pooling in config.pooling:
        gallery, queries = stores(encoder, config, pooling)
        for output in tqdm(gallery.names, desc=encoder.name, unit="output", leave=False):
            plain = make_task(gallery, queries, output, count=config.queries, seed=config.seed)
            for normalization in config.normalization:
                about: dict[str, Any] = {"normalization": normalization}
                if normalization == AUTO:
                    fitted, about = chosen_way(plain)
                else:
                    fitted = fitted_transform(normalization, None, plain.gallery)
                task = plain.transformed(fitted)
                scored, neighbours, precisions = exact_scores(task, config.seed)
                about |= {"pooling": pooling, "resolution": encoder.image_size}
                row = {"encoder": encoder.name, "output": output, **encoder.axes(output), **about, **scored}
                row |= {"dimensions": task.gallery.shape[1], "tuning": tuning_score(plain.tuning, fitted)}
                yield Found(Result.of(row), task, neighbours, precisions)


def stores(encoder: Encoder, config: Config, pooling: str) -> tuple[FeatureStore, FeatureStore]:
    """Features of what is searched and of the queries, which are one if there is no split of queries."""
    about: dict[str, Any] = {**config.store, "outputs": config.chosen(encoder), "pooling": pooling}

    def of(split: str | None) -> FeatureStore:
        return extract(encoder, config.data, split=split, max_images=config.max_images, **about)

    gallery = of(config.split)
    return gallery, gallery if config.query_split is None else of(config.query_split)


def measure(config: Config, out: Path) -> Measurement:
    """Exact search with every output of every encoder, indexes for the best of each by tuning queries, pictures."""
    config = replace(config, query_split=None) if config.query_split == config.split else config
    rows: list[Result] = []
    precisions: list[np.ndarray] = []
    indexed: list[Result] = []
    weights: dict[str, str] = {}
    artifacts: dict[str, str] = {}
    warnings: list[str] = []
    shown: tuple[np.ndarray, np.ndarray] | None = None
    for encoder in load_encoders(config.encoder, **config.loading):
        weights[encoder.name] = encoder.described_weights
        own = list(evaluate(encoder, config))
        best = own[best_of([each.row for each in own], range(len(own))) or 0]
        images = best.task.query_rows, best.task.gallery_rows
        if shown is not None and not all(map(np.array_equal, shown, images)):
            raise ValueError(f"{encoder.name} was given other images than {config.encoder[0]}: run it on its own")
        shown = images
        indexed += [index_scores(best, kind, config.seed) for kind in possible_kinds(config, len(best.task.gallery))]
        artifacts |= draw(best, encoder.name, config, out)
        warnings += unreadable(*stores(encoder, config, best.row["pooling"]))
        rows += [each.row for each in own]
        precisions += [each.precisions for each in own]
    assert shown is not None  # one encoder is named at least
    if alone := int(np.isnan(precisions[0]).sum()):
        warnings.append(f"{alone} of {len(shown[0])} queries have no other image of their class, and are not scored")
    warnings += duplicates(config, shown[0])
    shared: dict[str, Any] = {"axes": NOT_HERE, "data": data_parts(config), "weights": weights, "interval": INTERVAL}
    shared |= {"warnings": warnings}
    if indexed:
        words = f"{protocol(config)}; {DEPTH} neighbours by an index beside exact search"
        part = Measurement(protocol=words, results=indexed, **shared)
        searched = tuple(dict.fromkeys(row["output"] for row in indexed))  # of the outputs that were asked for
        own_options = replace(config, outputs=config.outputs and searched)
        Task("retrieval", Config, lambda *_: part)(own_options, out / "index")
    scored = [each[np.isfinite(each)] for each in precisions]  # of the same queries
    differences = differences_of(rows, lambda one, other: paired_interval(scored[one], scored[other], seed=config.seed))
    return Measurement(protocol=protocol(config), results=rows, artifacts=artifacts, differences=differences, **shared)


def possible_kinds(config: Config, vectors: int) -> list[str]:
    """The indexes of the options, but for those that need more vectors to learn from, which it names."""
    kinds: list[str] = [kind for kind in config.index_kind if kind != "none"]
    if "ivfpq" in kinds and vectors < CODES:
        tqdm.write(f"ivfpq is left out: it learns {CODES} codes, from as many vectors, and there are {vectors}")
        kinds.remove("ivfpq")
    return kinds


def protocol(config: Config) -> str:
    """The protocol in words."""
    among = (
        "leave-one-out, the query excluded by its id" if config.query_split is None else "queries from another split"
    )
    return (
        f"Retrieval, exact cosine search over the whole gallery, {among}, up to {config.queries} queries "
        f"(seed {config.seed}), relevant: the query's class, ties by lowest id"
    )


def data_parts(config: Config) -> dict[str, str]:
    """The data's hash for each split."""
    first = f" first {config.max_images} of each split," if config.max_images else ""
    content = data_hash(config.data) + first
    parts = {"gallery": f"{content} {config.split or ''}".strip()}
    return parts if config.query_split is None else parts | {"queries": f"{content} {config.query_split}"}


def duplicates(config: Config, query_rows: np.ndarray) -> list[str]:
    """A warning of queries that have a near-duplicate in what is searched, unless it is switched off."""
    if not config.duplicates:
        return []
    searched = Part(config.data, config.split, config.max_images, reading=config.reading)
    return between(searched, searched._replace(split=config.query_split or config.split, rows=query_rows), config.cache)


def draw(best: Found, name: str, config: Config, out: Path) -> dict[str, str]:
    """A grid of queries and their neighbours, framed by whether they are of the same class; its file by its title."""
    task = best.task
    places = np.unique(np.linspace(0, len(task.queries) - 1, SHOWN).astype(int))
    found = best.neighbours[places, :SHOWN_NEIGHBOURS]
    gallery = open_data(config.data, config.split, PICTURE, config.reading)
    shown = (
        gallery if config.query_split is None else open_data(config.data, config.query_split, PICTURE, config.reading)
    )
    queries = shown.pictures(task.query_rows[places], PICTURE)
    pictures = gallery.pictures(task.gallery_rows[found].ravel(), PICTURE)
    right = task.gallery_labels[found] == task.query_labels[places][:, None]
    png = image_grid(
        [
            [queries[task.query_rows[place]], *(pictures[row] for row in task.gallery_rows[ids])]
            for place, ids in zip(places, found, strict=True)
        ],
        column_titles=["query", *map(str, range(1, found.shape[1] + 1))],
        frames=[[None, *np.where(row, RIGHT, WRONG)] for row in right],
        height=96,
    )
    file = f"neighbours-{file_name(name)}.png"
    write_bytes(out / file, png)
    return {f"Nearest by {name}, {best.row['output']} (thick frame: the query's class)": file}


run = Task("retrieval", Config, measure)

if __name__ == "__main__":
    run_as_command("retrieval")
