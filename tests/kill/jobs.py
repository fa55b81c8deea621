"""What is killed: how it is begun, how it is run, and what of its folder must be the same in the end."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from randar_features.data.token_store import TokenStore
from randar_features.store import writer
from randar_features.training.distributed import HardwareConfig
from randar_features.training.generator.recipe import TrainingConfig
from randar_features.training.generator.trainer import RandARTrainer
from randar_features.training.loop import UNREPEATABLE, LoopConfig, run
from tests.features.stores import encode, write
from tests.small_models import IMAGE_SIZE, small_tokenizer
from tests.tokens import write_tokens

IMAGES, FIRST = 120, 60
VECTORS, DIM = 2400, 16
PAUSE = 0.01  # seconds an image or batch, so that kills fall into the work
STEPS = 30
TRAINING_IMAGES, VOCAB_SIZE, GRID, CLASSES = 96, 64, 4, 5
LOOP = LoopConfig(log_every=1, evaluate_every=25, checkpoint_every=7, keep_every=50, log_writers=[])
LOCKS = (".lock", ".lock-owner")
Contents = dict[str, bytes]


def contents(folder: Path) -> Contents:
    """All files of a folder but its locks, which stay."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in LOCKS)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@dataclass(frozen=True)
class Job:
    """Work on a folder that may be killed.

    Attributes:
        run: does it, or goes on with it: (the folder with the inputs, the folder that is written).
        begin: what the folder holds before.
        contents: what must be the same in the end, by file; without what no two runs have in common, such as times.
    """

    run: Callable[[Path, Path], object]
    begin: Callable[[Path, Path], object] = lambda inputs, folder: None
    contents: Callable[[Path], Contents] = contents


def make_inputs(folder: Path) -> None:
    """Pictures in two classes (`first` has half of those in `all`), vectors, and tokens."""
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        picture = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        for name in ("all", "first")[: 2 if number < FIRST else 1]:
            place = folder / name / ("cat", "dog")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            picture.save(place / f"{number:03d}.png")
    np.save(folder / "vectors.npy", generator.normal(size=(VECTORS, DIM)).astype(np.float32))
    make_tokens(folder / "tokens")


# Stores


def slowly(pixels: torch.Tensor) -> Any:
    """`encode`, after a pause."""
    time.sleep(PAUSE)
    return encode(pixels)


def extraction(inputs: Path, store: Path) -> None:
    writer.FLUSH_SECONDS = 0.0  # a part goes to disk after every batch
    write(inputs / "all", store, encode=slowly, shard_rows=16)


def begin_append(inputs: Path, store: Path) -> None:
    write(inputs / "first", store, shard_rows=16)


def append(inputs: Path, store: Path) -> None:
    """Content tells the images: those of `first` are in `all` too."""
    writer.FLUSH_SECONDS = 0.0
    write(inputs / "all", store, encode=slowly, shard_rows=16, append=True)


def tokens(inputs: Path, store: Path) -> None:
    from randar_features.training.tokenizing import tokenize

    writer.FLUSH_SECONDS = 0.0
    tokenize(small_tokenizer(), inputs / "all", store, image_size=IMAGE_SIZE, shard_size=16, batch_size=2)


def pixels(inputs: Path, store: Path) -> None:
    from randar_features.data import pixels as stored_pixels

    stored_pixels.SHARD_BYTES = 16 * 3 * 8 * 8
    stored_pixels.cache_pixels(inputs / "all", store, image_size=8)


# Indexes


def index(count: int, pause: float, **options: Any) -> Callable[[Path, Path], None]:
    """The building of an index of the first vectors, block by block."""

    def run(inputs: Path, folder: Path) -> None:
        from probes.index import build_index, choose_settings

        rows = np.load(inputs / "vectors.npy")[:count]

        def blocks(size: int) -> Iterator[tuple[int, np.ndarray]]:
            for start in range(0, count, 100):
                time.sleep(pause)
                yield start, rows[start : start + 100]

        settings = replace(choose_settings(VECTORS // 2, DIM, **options), block_rows=100)
        columns = {"path": [f"{row}.png" for row in range(count)]}
        about: dict[str, Any] = {"settings": settings, "features": {}, "columns": columns, "progress": False}
        build_index(blocks, count, folder, checkpoint_rows=200, **about)

    return run


CODES = {"kind": "ivfpq", "normalization": "standardized", "nlist": 4, "code_bytes": 4}


# Training and benchmarks


def make_tokens(folder: Path) -> None:
    """Random codes of two crops of a few images."""
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, (TRAINING_IMAGES, 2, GRID * GRID))
    settings = {"views": ["centre crop", "mirror image"], "crop_range": 1.0, "image_size": 16, "dtype": "float32"}
    labels = [index % CLASSES for index in range(TRAINING_IMAGES)]
    write_tokens(folder, tokens, labels, tokenizer="0123456789abcdef", vocab_size=VOCAB_SIZE, **settings)


def training(inputs: Path, folder: Path) -> None:
    """Dropout, Muon and accumulation are on, as what they draw must come again."""
    store = TokenStore(inputs / "tokens")
    config = TrainingConfig(
        model={"num_layers": 2, "num_heads": 2, "dim": 32, "ffn_multiple_of": 32},
        total_steps=STEPS,
        batch_size=8,
        warmup_steps=10,
        muon_learning_rate=0.01,
        evaluation_images=8,
        evaluation_orders=2,
        hardware=HardwareConfig(micro_batch_size=4),
    )
    run(RandARTrainer(config, store, store), folder, LOOP)


def read_log(folder: Path) -> list[dict[str, float]]:
    """Lines of the log without time and speed."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in UNREPEATABLE} for line in lines]


def of_training(folder: Path) -> Contents:
    """All files; of the log only what is no time or speed, and of records of the run no times."""
    found = {name: content for name, content in contents(folder).items() if not name.startswith("log")}
    found["log.jsonl"] = json.dumps(read_log(folder)).encode()
    return found


def suite(inputs: Path, folder: Path) -> None:
    from benchmarks.suite import Settings
    from benchmarks.suite import run as run_suite

    about: dict[str, Any] = {"encoder": ("pixels", "histogram"), "probe": ("knn",), "cache": str(folder / "features")}
    run_suite(Settings(data=(str(inputs / "all"),), out=folder / "runs", **about), folder / "runs")


def of_suite(folder: Path) -> Contents:
    """All files by name; of results the rows without seconds; no pages, whose pictures and cards hold times."""
    found = contents(folder)
    for name in found:
        if name.endswith("result.json"):
            rows = json.loads(found[name])["results"]
            timeless = [{key: value for key, value in row.items() if "second" not in key} for row in rows]
            found[name] = json.dumps(timeless).encode()
        elif re.search(r"report\.(html|md)$|results\.csv$|result\.md$", name):
            found[name] = b""
    return found


JOBS: dict[str, Job] = {
    "extraction": Job(extraction),
    "append": Job(append, begin_append),
    "tokenizing": Job(tokens),
    "pixels": Job(pixels),
    "index": Job(index(VECTORS, 0.02, **CODES)),
    "index-graph": Job(index(VECTORS, 0.02, kind="hnsw")),
    "growth": Job(index(VECTORS, 0.02, **CODES), index(VECTORS // 2, 0, **CODES)),
    "training": Job(training, contents=of_training),
    "suite": Job(suite, contents=of_suite),
}


def copy(before: Path, folder: Path) -> None:
    """A folder as it was before, in another place; nothing where there was none."""
    if before.exists():
        shutil.copytree(before, folder, symlinks=True)
