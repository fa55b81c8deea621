"""Features of images into a store: `python scripts/extract_features.py IMAGES --model randar-tiny --out FOLDER`.

Run it again after a kill: it goes on at the first shard that is missing. An image that cannot be read keeps its
row, and is named at the end; above --max-unreadable of them the exit status is 1. Several processes share the
images under torchrun: `torchrun --nproc-per-node 8 scripts/extract_features.py …`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from randar_features import sequence
from randar_features.command_line import run_command
from randar_features.encoding.store import FeatureStore
from randar_features.encoding.store_writer import DTYPES
from randar_features.encoding.to_store import extract_to_store

SHOWN = 20


def main() -> None:
    args = _parser().parse_args()
    store = extract_to_store(
        args.images if len(args.images) > 1 else args.images[0],
        args.out,
        args.model,
        layers=args.layers,
        context=args.contexts,
        read=args.reads,
        norm=args.norm,
        orders=args.orders,
        seed=args.seed,
        pool=None if args.pool == "none" else args.pool,
        store_dtype=args.dtype,
        append=args.append,
        batch_size=args.batch_size,
        shard_rows=args.shard_rows,
        device=args.device,
        num_workers=args.workers,
        split=args.split,
    )
    print(store)
    for name in store.names:
        print(f"  {name}: {store.shape(name)}")
    raise SystemExit(_report_unreadable(store, args.max_unreadable))


def _report_unreadable(store: FeatureStore, limit: float) -> int:
    """Name the images that could not be read; 1 if they are more than the share `limit`, else 0."""
    failed = np.flatnonzero(~store.ok)
    if len(failed):
        print(f"{len(failed)} of {len(store)} images could not be read; their rows are NaN:")
    for row in failed[:SHOWN]:
        print(f"  row {row} ({store.paths[row] or 'no path'}): {store.status[row]}")
    if len(failed) > SHOWN:
        print(f"  and {len(failed) - SHOWN} more: `status` of the store has all")
    return int(len(failed) > limit * len(store))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", help="a folder, image files, or a Parquet file")
    parser.add_argument("--model", default="randar-tiny", help="a name or a folder, as load_model takes it")
    parser.add_argument("--out", type=Path, required=True, help="the store's folder")
    parser.add_argument("--layers", type=int, nargs="+", help="from 0, negative from the end; the recommended ones")
    parser.add_argument("--contexts", nargs="+", choices=sequence.CONTEXTS, help="the recommended one")
    parser.add_argument("--reads", nargs="+", default=["image"], help="image, instruction (RandAR), query (ARPG) …")
    parser.add_argument("--norm", action="store_true", help="apply the model's final norm")
    parser.add_argument("--orders", type=int, help="mean over so many random orders instead of one raster order")
    parser.add_argument("--seed", type=int, default=0, help="of the random orders")
    parser.add_argument("--pool", default="mean", choices=["mean", "none"], help="none: keep the maps")
    parser.add_argument("--dtype", default="float16", choices=DTYPES, help="on disk")
    parser.add_argument("--append", action="store_true", help="add the images that the store does not have yet")
    parser.add_argument("--split", help="of Parquet files, or a subfolder")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shard-rows", type=int, help="rows a file, as many as a kill can cost; 1024 or 64 MiB")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; CUDA where there is one")
    parser.add_argument("--max-unreadable", type=float, default=0.01, help="share of images; more is exit status 1")
    return parser


if __name__ == "__main__":
    run_command(main)
