"""Processor time of features, generation and training beside another checkout's: `paired_speed.py --other CHECKOUT`.

One process of each checkout takes its turn, A B A B …, on one thread, so that both meet the same machine. Prints the
medians and the median of the ratios with its 95 % interval. Features and generation are of 6 blocks of 512 channels,
with 88 steps; training is of randar-tiny's size.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import randar_features as rf
from randar_features.models import RandAR, RandARConfig

SIZES = {"num_layers": 6, "num_heads": 8, "dim": 512, "vocab_size": 4096, "num_tokens": 256, "num_classes": 1000}
PAIRS = 25


def works() -> dict[str, Callable[[], object]]:
    """What is measured, by public names that older checkouts have too."""
    model = RandAR(RandARConfig(**SIZES)).eval().requires_grad_(False)
    model.initialize(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.output.weight, std=0.02, generator=torch.Generator().manual_seed(1))
    tokens = torch.randint(4096, (2, 256), generator=torch.Generator().manual_seed(2))
    speed = "benchmarks.speed.training_speed" if Path("benchmarks/speed").exists() else "benchmarks.training_speed"
    training: Any = import_module(speed)
    step = training.our_step(training.Config(model="randar-tiny", batch_size=16).resolved())
    return {
        "features": lambda: rf.encode_tokens(model, tokens, layers=[5], context="reverse"),
        "generation": lambda: rf.generate(model, [1], steps=88, generator=0),
        "training step": lambda: step(0),
    }


def answer() -> None:
    """Do the works that standard input names, a line each; print the processor seconds of each."""
    torch.set_num_threads(1)
    jobs = works()
    for line in sys.stdin:
        start = time.process_time()
        jobs[line.strip()]()
        print(time.process_time() - start, flush=True)


def started(checkout: Path) -> subprocess.Popen[str]:
    """A process of a checkout that answers."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--answer"]
    return subprocess.Popen(
        command, env=environment, cwd=checkout, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def seconds_of(process: subprocess.Popen[str], work: str) -> float:
    """Processor seconds of one run."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{work}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def compare(other: Path, work: str, processes: list[subprocess.Popen[str]]) -> dict[str, object]:
    """Medians of this checkout and the other, and the median of the ratios, this over other, with its interval."""
    pairs = np.array([[seconds_of(process, work) for process in processes] for _ in range(PAIRS + 1)])[1:]
    ratios = np.sort(pairs[:, 0] / pairs[:, 1])
    low, high = np.quantile(np.median(np.random.default_rng(0).choice(ratios, (2000, PAIRS)), axis=1), [0.025, 0.975])
    seconds = dict(zip(("this", str(other)), np.median(pairs, axis=0).round(4).tolist(), strict=True))
    ratio = {"ratio": round(float(np.median(ratios)), 4), "interval": [round(low, 4), round(high, 4)]}
    return {"work": work, "processor_seconds": seconds, "least": pairs.min(axis=0).round(4).tolist(), **ratio}


@dataclass(frozen=True, kw_only=True)
class PairedOptions:
    """Compare the processor time of this checkout and another.

    Attributes:
        other: folder of the other checkout.
        works: what is measured.
    """

    other: Path
    works: tuple[Literal["features", "generation", "training step"], ...] = ("features", "generation", "training step")


def measure(options: PairedOptions) -> None:
    """Print a line of JSON for each work."""
    if not (options.other / "randar_features").is_dir():
        raise ValueError(f"--other {options.other}: expected a checkout, a folder that holds randar_features")
    processes = [started(Path(__file__).resolve().parents[1]), started(options.other.resolve())]
    for work in options.works:
        print(json.dumps(compare(options.other, work, processes)), flush=True)
    for process in processes:
        process.kill()


def main() -> int:
    """The command line, or a process that answers."""
    if sys.argv[1:] == ["--answer"]:
        answer()
        return 0
    from randar_features.cli.parse import run  # an older checkout, in which this file answers, has no such module

    return run(measure, PairedOptions)


if __name__ == "__main__":
    raise SystemExit(main())
