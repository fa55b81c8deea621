"""Kill a training at random moments, resume it each time, and compare it with one that was left alone.

`python scripts/kill_and_resume.py [--kills 20]` trains a small RandAR on made-up tokens in a process that dies of
`kill -9` again and again, in the middle of steps, of checkpoints and of resuming. Losses and all files of the last
checkpoint (weights, their average, the optimizer's state, the exported model) must be equal to the bit to those
of an uninterrupted run. Exit status 1 if they are not.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from randar_features.cli import parse
from randar_features.cli.parse import Count, Seed
from randar_features.data.token_store import TokenStore, write_tokens
from randar_features.store.files import read_json
from randar_features.training.checkpoint import MANIFEST, list_checkpoints
from randar_features.training.distributed import HardwareConfig
from randar_features.training.loop import UNREPEATABLE, LoopConfig, run
from randar_features.training.trainer import RandARTrainer, TrainingConfig

IMAGES, VOCAB_SIZE, GRID, CLASSES = 96, 64, 4, 5
LOOP = LoopConfig(log_every=1, evaluate_every=25, checkpoint_every=7, keep_every=50, log_writers=[])


@dataclass(frozen=True, kw_only=True)
class KillOptions:
    """Kill a training at random moments, resume it each time, and compare it with one that was left alone.

    Attributes:
        kills: how many.
        steps: of the training.
        seed: of the moments.
        out: keep the runs in this folder, which must not hold any; none: they are removed.
    """

    kills: Count = 20
    steps: Count = 200
    seed: Seed = 0
    out: Path | None = None


def make_tokens(folder: Path) -> None:
    """Random codes of two crops of a few images."""
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, (IMAGES, 2, GRID * GRID))
    settings = {"views": ["centre crop", "mirror image"], "crop_range": 1.0, "image_size": 16, "dtype": "float32"}
    labels = [index % CLASSES for index in range(IMAGES)]
    write_tokens(folder, tokens, labels, tokenizer="0123456789abcdef", vocab_size=VOCAB_SIZE, **settings)


def train(tokens: Path, folder: Path, steps: int) -> None:
    """The training that is killed; dropout, Muon and accumulation are on, as what they draw must come again."""
    torch.set_num_threads(1)
    store = TokenStore(tokens)
    config = TrainingConfig(
        model={"num_layers": 2, "num_heads": 2, "dim": 32, "ffn_multiple_of": 32},
        total_steps=steps,
        batch_size=8,
        warmup_steps=10,
        muon_learning_rate=0.01,
        evaluation_images=8,
        evaluation_orders=2,
        hardware=HardwareConfig(micro_batch_size=4),
    )
    run(RandARTrainer(config, store, store), folder, LOOP)


def start(tokens: Path, folder: Path, steps: int) -> multiprocessing.process.BaseProcess:
    """The training in a process of its own; forked, since twenty imports of PyTorch would take minutes."""
    process = multiprocessing.get_context("fork").Process(target=train, args=(tokens, folder, steps))
    process.start()
    return process


def kill_at(process: multiprocessing.process.BaseProcess, log: Path, step: int, delay: float) -> None:
    """Kill it `delay` seconds after its log has reached `step`."""
    while process.is_alive() and not (log.exists() and log.read_bytes().count(b'"loss"') >= step):
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()  # SIGKILL; nothing if it has ended by itself
    process.join()


def read_log(folder: Path) -> list[dict[str, float]]:
    """Lines of the log without time and speed."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in UNREPEATABLE} for line in lines]


def check(killed: Path, whole: Path) -> list[str]:
    """What differs between two finished runs."""
    found = [] if read_log(killed) == read_log(whole) else ["log.jsonl"]
    sums = [read_json(list_checkpoints(folder / "checkpoints")[-1] / MANIFEST)["sha256"] for folder in (killed, whole)]
    found += [name for name in sums[0].keys() | sums[1].keys() if sums[0].get(name) != sums[1].get(name)]
    for name in ("model.safetensors", "config.json"):
        if (killed / "model" / name).read_bytes() != (whole / "model" / name).read_bytes():
            found.append(f"model/{name}")
    return found


def kill(options: KillOptions) -> int:
    """Train twice, and say whether the runs are equal; status 1 if not."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        tokens, killed, whole = folder / "tokens", folder / "killed", folder / "whole"
        if killed.exists():
            raise ValueError(f"--out: {killed} is there already: name another folder")
        make_tokens(tokens)
        start(tokens, whole, options.steps).join()
        moments = random.Random(options.seed)
        steps = sorted(moments.randrange(options.steps) for _ in range(options.kills))
        for number, step in enumerate(steps, start=1):
            kill_at(start(tokens, killed, options.steps), killed / "log.jsonl", step, delay=moments.uniform(0, 0.1))
            saved = [path.name for path in list_checkpoints(killed / "checkpoints")]
            newest = saved[-1] if saved else "none"
            print(f"kill {number} of {options.kills} after step {step}; newest checkpoint: {newest}")
        start(tokens, killed, options.steps).join()
        differing = check(killed, whole)
        lines = len(read_log(whole))
    if differing:
        print(f"DIFFERENT after {options.kills} kills: {', '.join(sorted(differing))}")
        return 1
    print(f"EQUAL to the bit after {options.kills} kills: {lines} lines of log and every file of the last checkpoint")
    return 0


def main() -> int:
    """The command line."""
    return parse.run(kill, KillOptions)


if __name__ == "__main__":
    raise SystemExit(main())
