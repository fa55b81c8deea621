"""What the training scripts have in common: their arguments, and the run behind them."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch

from randar_features.command_line import add_time_limit, stop_unfinished
from randar_features.training.allocator import keep_freed_memory
from randar_features.training.loop import Trainer, run


def training_parser(description: str | None, config: Path) -> argparse.ArgumentParser:
    """Arguments of every trainer's script: where to write, the recipe, what overrides it, and when to stop."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the run's folder; one that is there is continued")
    parser.add_argument("--config", type=Path, default=config, help=f"the recipe, by default {config.name}")
    add_time_limit(parser)
    parser.add_argument(
        "--allow-changes", action="store_true", help="continue a run though its model, recipe or data have changed"
    )
    parser.add_argument("overrides", nargs="*", help="key=value, for example total_steps=100 loop.log_every=5")
    return parser


def show_log() -> None:
    """Print what the package logs, progress among it, to stderr."""
    package = logging.getLogger("randar_features")
    package.setLevel(logging.INFO)
    if not package.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        package.addHandler(handler)


def train(trainer: Trainer, args: argparse.Namespace) -> None:
    """Run the trainer as the arguments say; SystemExit with status `UNFINISHED` if it was stopped in time.

    What was done since the arguments were parsed, such as decoding images, counts.
    """
    show_log()
    if not torch.accelerator.is_available():
        keep_freed_memory()
    seconds = None if args.deadline is None else args.deadline - time.monotonic()
    if not run(trainer, args.out, trainer.config.loop, max_seconds=seconds, allow_changes=args.allow_changes):
        stop_unfinished()
