"""Seconds to identify files by their content, the first and the second time: `python -m benchmarks.hashing_speed`.

Files of random bytes are written, then hashed as a store does it. The second time their hashes come from the cache of
`randar_features.store.identity` where size, times and inode are unchanged. The file system has the files in memory
both times, so that this is the cost of hashing, not of the disk.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np

from benchmarks.options import RunOptions
from benchmarks.result import NO_AXES, Result
from benchmarks.run import Measurement, Task, run_as_command
from randar_features.options.types import Count, Natural
from randar_features.store.identity import RACY_NS, hash_files

CACHE = "RANDAR_CACHE"


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions):
    """Seconds to identify files by their content.

    Attributes:
        files: number of files.
        size: bytes of each file.
        seed: seed of the content of the files.
    """

    files: Count = 10_000
    size: Count = 100_000
    seed: Natural = 0


def measure(config: Config, out: Path) -> Measurement:
    """A result for the first and for the second time."""
    with TemporaryDirectory() as folder:
        paths = write_files(config, Path(folder) / "files")
        # Files that were written just now are not remembered: they may change again without another time.
        time.sleep(RACY_NS / 1e9)
        with patch.dict(os.environ, {CACHE: f"{folder}/cache"}):
            (first, hashes), (second, same) = (timed(paths) for _ in range(2))
    assert hashes == same
    results = [
        Result.of(
            {"pass": name, "files": config.files, "bytes": config.files * config.size, "seconds": round(seconds, 3)}
        )
        for name, seconds in (("first", first), ("second", second))
    ]
    return Measurement(protocol="files known by their content, one process", axes=NO_AXES, results=results)


def write_files(config: Config, folder: Path) -> list[str]:
    """Files of random bytes."""
    folder.mkdir()
    generator = np.random.default_rng(config.seed)
    paths = [folder / f"{number:06d}" for number in range(config.files)]
    for path in paths:
        path.write_bytes(generator.bytes(config.size))
    return list(map(str, paths))


def timed(paths: list[str]) -> tuple[float, list[str]]:
    """Seconds, and the hashes."""
    start = time.perf_counter()
    hashes = hash_files(paths)
    return time.perf_counter() - start, hashes


run = Task("hashing_speed", Config, measure)

if __name__ == "__main__":
    run_as_command("hashing_speed")
