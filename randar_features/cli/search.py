"""`randar search`: the images of an index that are most similar to given images."""

import csv
import io
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from randar_features import open_index
from randar_features.data import ImageSource, labelled_sheet, open_images, to_tensor
from randar_features.data.containers.lists import spreadsheet_safe
from randar_features.data.decode.ranges import Reading
from randar_features.options.command import run
from randar_features.options.parse import option, positional
from randar_features.options.shared import DeviceOptions, one_or_several
from randar_features.options.types import Count, Natural
from randar_features.retrieval import Hits, Index
from randar_features.store.files import file_to_write, write_bytes, write_json, written_whole
from randar_features.store.identity import hash_image
from randar_features.store.records import printable

PICTURE = 128  # pixels that each picture is read at


@dataclass(frozen=True, kw_only=True)
class SearchOptions(DeviceOptions, Reading):
    """Find the images of an index that are most similar to given images.

    Queries are image files, or images of the index by number. A query that is in the index does not find itself. The
    results are printed as a table; --json, --csv and --grid also write files.

    Attributes:
        index: folder that `randar index` wrote.
        images: image files or a folder, as queries.
        numbers: numbers of images of the index, as queries.
        k: number of images to find for each query; none: 10, or all if there are fewer.
        nprobe: for ivfpq, number of lists to search, more find more and take longer; none: a 32nd of the lists,
            at least 8.
        efSearch: for hnsw, size of the list of candidates, a longer list finds more and takes longer; none: 128.
        candidates: for ivfpq, smallest number of images to compare exactly; none: 200.
        encoder: name or folder of the model of the index, if it has moved; none: as the index recorded it.
        json: JSON file for the results.
        csv: CSV file for the results.
        grid: PNG file with the pictures of the queries and of the images found.
        data: the indexed images, if they have no files of their own (Parquet), or these have moved.
        split: split of --data.
        verify: compare the checksums of the index's files.
    """

    index: Path = positional()
    images: tuple[str, ...] | None = None
    numbers: tuple[Natural, ...] | None = option("--rows", default=None)
    k: Count | None = option("-k", default=None)
    nprobe: Count | None = None
    efSearch: Count | None = None
    candidates: Count | None = None
    encoder: str | None = option("--model", default=None)
    json: Path | None = None
    csv: Path | None = None
    grid: Path | None = None
    data: str | None = None
    split: str | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.images is None) == (self.numbers is None):
            raise ValueError("give --images or --numbers, one of them")
        if self.numbers is not None and self.encoder is not None:
            raise ValueError(f"--encoder {self.encoder} is for --images: --numbers have their vectors in the index")
        if self.grid is None and (self.data is not None or self.split is not None):
            raise ValueError("--data and --split are for the pictures of --grid: give it too, or leave them out")
        files = [file_to_write(path) for path in (self.json, self.csv, self.grid) if path is not None]
        if len(set(files)) < len(files):
            raise ValueError("--json, --csv and --grid write one file each: give them different names")


def search(options: SearchOptions) -> None:
    """Print what was found, and write the files."""
    from benchmarks.tasks.whole_images.feature_index import encoder_of, warn_of_classes

    index = open_index(options.index, verify=options.verify)
    warn_of_classes(index.features)
    options = replace(options, value_range=options.value_range or index.features.get("value_range"))
    effort = {name: getattr(options, name) for name in ("nprobe", "efSearch", "candidates")}
    if options.numbers is not None:
        if (highest := max(options.numbers)) >= index.vectors.rows:
            raise ValueError(f"--numbers: expected numbers from 0 to {index.vectors.rows - 1}, got {highest}")
        hits = index.search_own(list(options.numbers), options.k, **effort)
    else:
        encoder = encoder_of(index, options.encoder, options.device)
        hits = index.search(
            one_or_several(options.images or ()), options.k, encoder=encoder, **effort, **vars(options.reading)
        )
    for path, status in zip(hits.queries, hits.status, strict=True):
        if status != "ok":
            print(f"could not be read: {printable(path or '')}: {printable(status)}")
    results = described(index, hits)
    print_table(results)
    if options.json:
        write_json(options.json, {"index": str(options.index), "features": index.features, "queries": results})
    if options.csv:
        write_csv(options.csv, results)
    if options.grid:
        with written_whole(options.grid) as file:
            grid(index, results, options, hits.ids.shape[1]).save(file, "PNG")


def described(index: Index, hits: Hits) -> list[dict[str, Any]]:
    """Each query that could be read, and what was found for it, best first."""
    found: dict[int, list[dict[str, Any]]] = {}
    for one in hits.to_dicts():
        about = {"rank": one["rank"], "similarity": one["score"], "row": one["id"]}
        found.setdefault(one["query"], []).append(about | {"path": one["path"], "label": one["label"]})
    return [{"query": told(index, hits, number), "found": found[number]} for number in found]


def told(index: Index, hits: Hits, number: int) -> dict[str, Any]:
    """What is known of a query: its path, and, where it is indexed, its number and label."""
    own = int(hits.own[number])
    label = {"label": hits.label_of(int(index.labels[own]))} if own >= 0 else {}
    return {"row": own if own >= 0 else None, "path": hits.queries[number], **label}


def print_table(results: list[dict[str, Any]]) -> None:
    """Each query, and below it what was found."""
    for result in results:
        query = result["query"]
        row = "" if query["row"] is None else f"row {query['row']}"
        print(f"\n{printable(query['path'] or '')} {row}".rstrip())
        for one in result["found"]:
            label = "" if one["label"] is None else printable(str(one["label"]))
            path = printable(one["path"] or "")
            print(f"{one['rank']:5d}  {one['similarity']:7.4f}  row {one['row']:<9d} {label:28.28s} {path}")


def write_csv(path: Path, results: list[dict[str, Any]]) -> None:
    """A line for each image that was found. Names that are not UTF-8 stay the bytes that they are."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["query", "query_row", "rank", "similarity", "row", "label", "path"])
    for result in results:
        query = (result["query"]["path"], result["query"]["row"])
        for one in result["found"]:
            cells = [*query, *(one[name] for name in ("rank", "similarity", "row", "label", "path"))]
            writer.writerow(map(spreadsheet_safe, cells))
    write_bytes(path, text.getvalue().encode(errors="surrogateescape"))


def grid(index: Index, results: list[dict[str, Any]], options: SearchOptions, k: int) -> Image.Image:
    """A row of pictures for each query: itself, then what was found; grey for a file that is gone."""
    wanted = [one for result in results for one in (result["query"], *result["found"])]
    pictures = read_pictures(index, wanted, options)
    missing = np.full((PICTURE, PICTURE, 3), 235, np.uint8)
    shown = [to_tensor(Image.fromarray(pictures.get(key(one), missing))) for one in wanted]
    return labelled_sheet(shown, 1 + k, column_labels=["query", *map(str, range(1, k + 1))])


def key(one: dict[str, Any]) -> str | int:
    """The file of an image, where it has one that is there, else its number."""
    path = one["path"]
    return path if path is not None and Path(path).exists() else one["row"]


def read_pictures(index: Index, wanted: list[dict[str, Any]], options: SearchOptions) -> dict[str | int, np.ndarray]:
    """Pictures by file; by number where the images have none, or it is gone: then of --data."""
    from benchmarks.datasets import PHOTO_DIGITS, open_data

    keys = {key(one) for one in wanted}
    paths, numbers = sorted(k for k in keys if isinstance(k, str)), sorted(k for k in keys if isinstance(k, int))
    pictures: dict[str | int, np.ndarray] = {}
    if paths:
        read = open_images(paths).read_with(options.reading).pictures(range(len(paths)), PICTURE)
        pictures.update((paths[place], picture) for place, picture in read.items())
    if numbers and options.data is None and not any(Path(path or "").is_absolute() for path in index.paths):
        raise ValueError("the indexed images have no files of their own: name the data by --data to show them")
    if numbers and options.data is not None:
        source = open_data(options.data, options.split, PICTURE, options.reading)
        if options.data != PHOTO_DIGITS:  # which is composed at any size
            check_same(index, source, numbers)
        pictures.update(source.pictures(numbers, PICTURE).items())
    return pictures


def check_same(index: Index, source: ImageSource, numbers: list[int]) -> None:
    """ValueError unless the images of these numbers are those that were indexed."""
    for number, item in zip(numbers, source.take(numbers).items(), strict=True):
        now = item.hash if item.image is None else hash_image(item.image)
        if index.content[number] not in ("", now):
            raise ValueError(f"--data: image {number} is not the one that was indexed: give the data of the index")


main = partial(run, search, SearchOptions, program="randar search")
