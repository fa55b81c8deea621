"""Find the images most like others: `python scripts/search_index.py INDEX --images PHOTO.jpg … --grid FOUND.png`.

Queries are image files, encoded as the index was, or rows of the index (--rows). A query that is in the index is
not found itself. Results are a table, and with --json, --csv or --grid files.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import open_data
from benchmarks.report.figures import image_grid
from benchmarks.tasks.feature_index import encode_images, encoder_of, images_of_rows, warn_of_classes
from probes import Neighbours
from probes.index import VectorIndex
from randar_features.command_line import run_command
from randar_features.data import open_images
from randar_features.store.files import write_json

PICTURE = 128  # pixels that each picture is read at


def main() -> None:
    args = parser().parse_args()
    index = VectorIndex(args.index, verify=not args.no_verify)
    warn_of_classes(index.features)
    args.k = max(1, min(10, len(index) - 1)) if args.k is None else args.k
    search = by_rows if args.rows else by_images
    queries, found = search(index, args)
    results = described(index, queries, found)
    print_table(results)
    if args.json:
        write_json(args.json, {"index": str(args.index), "features": index.features, "queries": results})
    if args.csv:
        write_csv(args.csv, results)
    if args.grid:
        args.grid.parent.mkdir(parents=True, exist_ok=True)
        args.grid.write_bytes(grid(results, args))


def by_rows(index: VectorIndex, args: argparse.Namespace) -> tuple[list[dict[str, Any]], Neighbours]:
    found = index.search_rows(args.rows, args.k, nprobe=args.nprobe, efSearch=args.efSearch, candidates=args.candidates)
    return [told(index, row) for row in args.rows], found


def by_images(index: VectorIndex, args: argparse.Namespace) -> tuple[list[dict[str, Any]], Neighbours]:
    encoder = encoder_of(index, args.encoder, args.device)
    vectors, paths, unreadable = encode_images(encoder, index, open_images(args.images))
    for reason in unreadable:
        print(f"could not be read: {reason}")
    if not paths:
        raise ValueError("not one of the query images could be read")
    own = rows_of_paths(index, paths)
    found = index.search(vectors, args.k, own, nprobe=args.nprobe, efSearch=args.efSearch, candidates=args.candidates)
    return [{"row": int(row) if row >= 0 else None, "path": path} for row, path in zip(own, paths, strict=True)], found


def rows_of_paths(index: VectorIndex, paths: Iterable[str | None]) -> np.ndarray:
    """Which row of the index each file is, -1 for none."""
    rows = {resolved(path): row for row, path in enumerate(index.columns["path"].to_pylist()) if path is not None}
    return np.array([-1 if path is None else rows.get(resolved(path), -1) for path in paths])


def resolved(path: str) -> str:
    return str(Path(path).resolve())


def told(index: VectorIndex, row: int) -> dict[str, Any]:
    """What the index knows of a row: its path, and its label by name."""
    known = index.columns.slice(row, 1).to_pylist()[0]
    names, label = index.features.get("label_names"), known.pop("label", -1)
    shown = None if label is None or label < 0 else names[label] if names else label
    return known | {"label": shown}


def described(index: VectorIndex, queries: list[dict[str, Any]], found: Neighbours) -> list[dict[str, Any]]:
    """Each query, and what was found for it, best first."""
    return [
        {
            "query": query,
            "found": [
                {"rank": rank, "similarity": float(similarity), **told(index, int(row))}
                for rank, (row, similarity) in enumerate(zip(ids, similarities, strict=True), 1)
            ],
        }
        for query, ids, similarities in zip(queries, *found, strict=True)
    ]


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
