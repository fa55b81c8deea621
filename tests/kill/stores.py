"""Kill the filling of stores at random moments, go on, and compare with stores that were left alone.

`python -m tests.kill.stores [--kills 20]` kills extraction, an append, tokenizing and the pixel cache that many times
each, with SIGKILL. Every store must hold the same bytes as one that was never killed, and no file more. Exit status 1
if one does not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from randar_features.data import pixel_cache
from randar_features.data.pixel_cache import cache_pixels
from randar_features.data.tokenizing import tokenize
from randar_features.store import open_shard
from tests.features.stores import encode, write
from tests.small_models import IMAGE_SIZE, small_tokenizer

IMAGES, FIRST = 120, 60
PAUSE = 0.01  # seconds an image or batch, so that kills fall into the work
Fill = Callable[[Path, Path], None]


def make_images(folder: Path) -> None:
    """Pictures in two folders; `first` has half of those in `all`."""
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        picture = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        for name in ("all", "first")[: 2 if number < FIRST else 1]:
            (folder / name).mkdir(parents=True, exist_ok=True)
            picture.save(folder / name / f"{number:03d}.png")


def slowly(pixels: torch.Tensor):  # type: ignore[no-untyped-def]
    """`encode`, after a pause."""
    time.sleep(PAUSE)
    return encode(pixels)


def extraction(images: Path, store: Path) -> None:
    write(images / "all", store, encode=slowly, shard_rows=16)


def append(images: Path, store: Path) -> None:
    """The store of half of the images was there before; see `prepare`."""
    write(images / "all", store, encode=slowly, shard_rows=16, append=True, root=images / "all")


def tokens(images: Path, store: Path) -> None:
    tokenize(small_tokenizer(), images / "all", store, image_size=IMAGE_SIZE, shard_size=16, batch_size=2)


def pixels(images: Path, store: Path) -> None:
    pixel_cache.SHARD_BYTES = 16 * 3 * 8 * 8
    cache_pixels(images / "all", store, image_size=8)


FILLS: dict[str, Fill] = {"extraction": extraction, "append": append, "tokens": tokens, "pixels": pixels}


def prepare(name: str, images: Path, store: Path) -> None:
    """What a store holds before the run that is killed."""
    if name == "append":
        for path in (images / "all").iterdir():
            path.rename(images / "kept" / path.name) if int(path.stem) >= FIRST else None
        write(images / "all", store, shard_rows=16, root=images / "all")
        for path in (images / "kept").iterdir():
            path.rename(images / "all" / path.name)


def run(fill: Fill, images: Path, store: Path) -> None:
    """In a process of its own: a part goes to disk after every batch."""
    torch.set_num_threads(1)
    open_shard.FLUSH_SECONDS = 0.0
    fill(images, store)


def start(fill: Fill, images: Path, store: Path) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=run, args=(fill, images, store))
    process.start()
    return process


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def kill_and_compare(name: str, folder: Path, kills: int, moments: random.Random) -> tuple[int, int]:
    """Number of kills of a process at work, and of stores that differ from one that was left alone."""
    images, fill = folder / "images", FILLS[name]
    (images / "kept").mkdir(exist_ok=True)
    whole = folder / f"{name}-whole"
    prepare(name, images, whole)
    began = time.monotonic()
    start(fill, images, whole).join()
    seconds, done, differing, number = time.monotonic() - began, 0, 0, 0
    while done < kills:
        store = folder / f"{name}-{number}"
        prepare(name, images, store)
        number += 1
        for _ in range(4):
            process = start(fill, images, store)
            process.join(moments.uniform(0, seconds))
            done += process.is_alive()
            process.kill()
            process.join()
        start(fill, images, store).join()
        differing += contents(store) != contents(whole)
    return done, differing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        make_images(Path(temporary) / "images")
        for name in FILLS:
            kills, differing = kill_and_compare(name, Path(temporary), args.kills, random.Random(args.seed))
            print(f"{name}: {kills} kills, {differing} stores that differ", flush=True)
            failed += differing
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
