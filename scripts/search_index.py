"""Find the images most like others: `python scripts/search_index.py INDEX --images PHOTO.jpg … --grid FOUND.png`.

Queries are image files, encoded as the index was, or rows of the index (--rows). A query that is in the index is
not found itself. Results are a table, and with --json, --csv or --grid files.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import open_data
from benchmarks.report.figures import image_grid
from benchmarks.tasks.feature_index import encoder_of, images_of_rows, warn_of_classes
from randar_features import open_index
from randar_features.command_line import run_command
from randar_features.data import open_images
from randar_features.retrieval import Hits, Index
from randar_features.store.files import write_json

PICTURE = 128  # pixels that each picture is read at


def main() -> None:
    args = parser().parse_args()
    index = open_index(args.index, verify=not args.no_verify)
    warn_of_classes(index.features)
    effort = {name: getattr(args, name) for name in ("nprobe", "efSearch", "candidates")}
    if args.rows:
        hits = index.search_own(args.rows, args.k, **effort)
    else:
        encoder = encoder_of(index, args.encoder, args.device)
        hits = index.search(args.images, args.k, encoder=encoder, **effort)
    args.k = hits.ids.shape[1]
    for path, status in zip(hits.queries, hits.status, strict=True):
        if status != "ok":
            print(f"could not be read: {path}: {status}")
    results = described(index, hits)
    print_table(results)
    if args.json:
        write_json(args.json, {"index": str(args.index), "features": index.features, "queries": results})
    if args.csv:
        write_csv(args.csv, results)
    if args.grid:
        args.grid.parent.mkdir(parents=True, exist_ok=True)
        args.grid.write_bytes(grid(results, args))


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
    for result in results:
        query = result["query"]
        print(f"\n{query['path'] or ''} {'' if query['row'] is None else 'row ' + str(query['row'])}".rstrip())
        for one in result["found"]:
            label = "" if one["label"] is None else str(one["label"])
            print(
                f"{one['rank']:5d}  {one['similarity']:7.4f}  row {one['row']:<9d} {label:28.28s} {one['path'] or ''}"
            )


def write_csv(path: Path, results: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "query_row", "rank", "similarity", "row", "label", "path"])
        for result in results:
            query = (result["query"]["path"], result["query"]["row"])
            for one in result["found"]:
                writer.writerow([*query, *(one[name] for name in ("rank", "similarity", "row", "label", "path"))])


def grid(results: list[dict[str, Any]], args: argparse.Namespace) -> bytes:
    """A row of pictures for each query: itself, then what was found."""
    rows = [[result["query"], *result["found"]] for result in results]
    pictures = read_pictures([one for row in rows for one in row], args)
    missing = np.full((PICTURE, PICTURE, 3), 235, np.uint8)
    shown = [[pictures.get(key(one), missing) for one in row] for row in rows]
    return image_grid(shown, column_titles=["query", *map(str, range(1, args.k + 1))], height=PICTURE)


def key(one: dict[str, Any]) -> str | int:
    """The file of an image, where it has one, else its row."""
    path = one["path"]
    return path if path is not None and Path(path).exists() else one["row"]


def read_pictures(wanted: list[dict[str, Any]], args: argparse.Namespace) -> dict[str | int, np.ndarray]:
    """Pictures by file, or by row where the images have none: then of --data."""
    keys = {key(one) for one in wanted}
    paths, rows = sorted(k for k in keys if isinstance(k, str)), [k for k in keys if isinstance(k, int)]
    pictures: dict[str | int, np.ndarray] = {}
    if paths:
        read = images_of_rows(open_images(paths), range(len(paths)), PICTURE)
        pictures.update((paths[place], picture) for place, picture in read.items())
    if rows and args.data is None:
        raise ValueError("the indexed images have no files of their own: name the data by --data to show them")
    if rows:
        pictures.update(images_of_rows(open_data(args.data, args.split, PICTURE), rows, PICTURE).items())
    return pictures


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = described.add_argument
    add("index", type=Path, help="folder that scripts/build_index.py wrote")
    asked = described.add_mutually_exclusive_group(required=True)
    asked.add_argument("--images", nargs="+", help="image files, or a folder")
    asked.add_argument("--rows", nargs="+", type=int, help="rows of the index")
    add("-k", type=int, help="how many to find for each query, 10 or all")
    add("--nprobe", type=int, help="ivfpq: lists looked into; more find more and take longer")
    add("--efSearch", type=int, help="hnsw: rows that the walk keeps at least")
    add("--candidates", type=int, help="ivfpq: rows compared at least")
    add("--encoder", "--model", help="where the index's model is now, if it has moved")
    add("--device")
    add("--json", type=Path, help="write the results there")
    add("--csv", type=Path, help="write the results there")
    add("--grid", type=Path, help="a PNG file of pictures: queries, and what was found for them")
    add("--data", help="the indexed images, where they have no files of their own (Parquet)")
    add("--split", help="of --data")
    add("--no-verify", action="store_true", help="do not compare the checksums of the index's files")
    return described


if __name__ == "__main__":
    run_command(main)
