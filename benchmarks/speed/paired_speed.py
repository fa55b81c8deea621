"""Processor time compared with another checkout: `python -m benchmarks.paired_speed --other CHECKOUT --out OUT`.

One process of each checkout takes its turn, A B A B …, on one thread, so that both meet the same machine. The result is
the median of the ratios, with its 95 % interval by bootstrap over the pairs.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.options import RunOptions, check_own
from benchmarks.result import NO_AXES, Result
from benchmarks.run import Measurement, Task, run_as_command
from randar_features.options.types import Count

THIS = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("paired_worker.py")

Work = Literal["features", "generation", "training step"]


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions):
    """Processor time compared with another checkout.

    Attributes:
        other: folder of the other checkout.
        works: what is measured. A training step has randar-tiny's size and 16 images. Features (2 images, context
            reverse, last layer) and generation (1 image) use the sizes that the other options give.
        pairs: number of pairs of runs, one of each checkout, after one pair to warm up.
        layers: number of blocks of the model, which has random weights.
        heads: number of attention heads.
        dim: width of the model.
        vocab_size: number of codes.
        tokens: number of tokens of an image, a square number.
        steps: number of decoding steps of generation.
    """

    other: Path
    works: tuple[Work, ...] = ("features", "generation", "training step")
    pairs: Count = 25
    layers: Count = 6
    heads: Count = 8
    dim: Count = 512
    vocab_size: Count = 4096
    tokens: Count = 256
    steps: Count = 88

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.other / "randar_features").is_dir():
            raise ValueError(f"--other {self.other}: expected a checkout, a folder that holds randar_features")
        sizes = dict.fromkeys(("layers", "heads", "dim", "vocab_size", "tokens"), ("features", "generation"))
        check_own(self, {**sizes, "steps": ("generation",)}, self.works, "works")


def measure(config: Config, out: Path) -> Measurement:
    """A result for each work."""
    processes = [started(checkout, config) for checkout in (THIS, config.other.resolve())]
    try:
        results = [compare(work, processes, config.pairs) for work in config.works]
    finally:
        for process in processes:
            process.kill()
    return Measurement(
        protocol="processor seconds of one thread, this checkout and another in turn",
        axes=NO_AXES,
        data={"other": commit_of(config.other)},
        results=results,
        interval="bootstrap over pairs, of the median of the ratios",
    )


def commit_of(checkout: Path) -> str:
    """Its commit, or "unknown"."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def started(checkout: Path, config: Config) -> subprocess.Popen[str]:
    """A process that answers with the packages of a checkout."""
    sizes = {"num_layers": config.layers, "num_heads": config.heads, "dim": config.dim}
    sizes |= {"vocab_size": config.vocab_size, "num_tokens": config.tokens, "num_classes": 1000}
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), json.dumps(sizes), str(config.steps)]
    return subprocess.Popen(
        command, env=environment, cwd=checkout, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def seconds_of(process: subprocess.Popen[str], work: str) -> float:
    """Processor seconds of one run.

    Raises:
        RuntimeError: the process ended.
    """
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{work}\n")
    process.stdin.flush()
    if not (answer := process.stdout.readline()):
        raise RuntimeError(f"the process for {work} in {process.args!r} ended; its error stands above")
    return float(answer)


def compare(work: str, processes: list[subprocess.Popen[str]], count: int) -> Result:
    """The median of the ratios, this over other, with its interval if there are several, and the medians of both."""
    pairs = np.array([[seconds_of(process, work) for process in processes] for _ in range(count + 1)])[1:]
    ratios = pairs[:, 0] / pairs[:, 1]
    medians = np.median(np.random.default_rng(0).choice(ratios, (2000, count)), axis=1)
    this, other = np.median(pairs, axis=0).round(4)
    found = {"work": work, "ratio": round(float(np.median(ratios)), 4), "this seconds": this, "other seconds": other}
    return Result.of({**found, "interval": np.quantile(medians, [0.025, 0.975]).round(4) if count > 1 else None})


run = Task("paired_speed", Config, measure)

if __name__ == "__main__":
    run_as_command("paired_speed")
