"""What the commands that train have in common: their options, and the run itself."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from randar_features.data.pixels import PixelCache, PixelSource
from randar_features.data.token_store import TokenStore
from randar_features.hub.registry import MODEL_FOLDER
from randar_features.options.command import UNFINISHED, run
from randar_features.options.parse import Options, as_option
from randar_features.options.shared import TimeLimit
from randar_features.store.records import printable
from randar_features.store.writer import rank_and_ranks
from randar_features.training.distributed import keep_freed_memory
from randar_features.training.loop import Trainer
from randar_features.training.loop import run as run_training
from randar_features.training.recipes import RECIPES, recipe_file


@dataclass(frozen=True, kw_only=True)
class RunOptions(TimeLimit):
    """Where a training writes, and when it stops.

    Attributes:
        out: folder of the run; an existing run is continued.
        allow_changes: continue a run even if its model, recipe or data have changed.
    """

    out: Path
    allow_changes: bool = False


def train(trainer: Trainer, options: RunOptions, deadline: float | None) -> int:
    """Run the trainer; status 75 if the time was up first. `deadline` as `TimeLimit.deadline` gives it."""
    if not torch.accelerator.is_available():
        keep_freed_memory()
    seconds = None if deadline is None else deadline - time.monotonic()
    loop = trainer.config.loop
    done = run_training(trainer, options.out, loop, max_seconds=seconds, allow_changes=options.allow_changes)
    model = options.out / MODEL_FOLDER
    if model.exists():
        print(f"{model}: the model" if done else f"{model}: the model so far; run it again to continue")
    return 0 if done else UNFINISHED


def tell_left_out(*stores: TokenStore | PixelCache | PixelSource) -> None:
    """Print how many images could not be read, and why the first could not; a source of pixels tells as it meets them.

    Of several processes the first one prints.
    """
    unreadable = [entry for store in stores if not isinstance(store, PixelSource) for entry in store.unreadable]
    if unreadable and rank_and_ranks()[0] == 0:
        print(f"images left out, as they cannot be read: {len(unreadable)} ({printable(unreadable[0]['reason'])})")


def run_stage(
    command: Callable[[Options], int], options: type[Options], arguments: Sequence[str] | None = None, *,
    stage: str, recipe: str,
) -> int:  # fmt: skip
    """The command line of `randar train STAGE`; the shipped `recipe` is read where --config is not given."""
    given = as_options(sys.argv[1:] if arguments is None else arguments)
    return run(command, options, given, program=f"randar train {stage}", recipe=RECIPES / recipe)


def as_options(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `key=value` as `--key=value`, and the name of a shipped recipe as its path."""
    words: list[str] = []
    for word in arguments:
        words.append(str(recipe_file(word)) if words[-1:] == ["--config"] else as_option(word))
    return words
