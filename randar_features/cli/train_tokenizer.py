"""`randar train tokenizer`: an image tokenizer."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from randar_features.cli.training import RunOptions, run_stage, tell_left_out, train
from randar_features.data.decode.ranges import Reading
from randar_features.data.pixels import PixelCache, PixelSource, cache_pixels
from randar_features.options.command import UNFINISHED
from randar_features.options.parse import part
from randar_features.options.types import Natural
from randar_features.training.distributed import make_accelerator
from randar_features.training.tokenizer.recipe import TokenizerTrainingConfig
from randar_features.training.tokenizer.trainer import TokenizerTrainer


@dataclass(frozen=True, kw_only=True)
class TokenizerOptions(RunOptions, TokenizerTrainingConfig, Reading):
    """Train an image tokenizer.

    Run it again to continue. Images are decoded once and stored with image_size² · 3 bytes each; the time limit holds
    for this step too. Several processes (torchrun, `accelerate launch`) divide each batch. Settings of the recipe may
    also be given as key=value. To improve the reconstructions of a finished tokenizer without changing its tokens:
    --config tiny_decoder.yaml initial=FOLDER.

    Attributes:
        data: a folder of images or Parquet files, with the splits in it.
        splits: names of the splits to train and to evaluate on.
        pixels: folder that keeps the decoded images; none: OUT/pixels.
        cache: keep the decoded images; --no-cache decodes them each time they are needed.
        num_workers: processes that decode ahead, with --no-cache.
    """

    data: str
    splits: tuple[str, str] = ("train", "validation")
    pixels: Path | None = None
    cache: bool = True
    num_workers: Natural = 0


def train_tokenizer(options: TokenizerOptions) -> int:
    """Train to the end, or until the time is up."""
    deadline = options.deadline()
    config = part(options, TokenizerTrainingConfig)
    training, validation = (open_pixels(options, split, deadline) for split in options.splits)
    if training is None or validation is None:
        return UNFINISHED
    tell_left_out(training, validation)
    torch.set_float32_matmul_precision("high")
    return train(TokenizerTrainer(config, training, validation), options, deadline)


def open_pixels(options: TokenizerOptions, split: str, deadline: float | None) -> PixelCache | PixelSource | None:
    """The images of a split, by way of a cache that the first process makes; None if the time was up before."""
    how: dict[str, Any] = {"image_size": options.image_size, "split": split, "reading": options.reading}
    with make_accelerator().main_process_first():  # which decodes, or hashes the files, for all
        if not options.cache:
            return PixelSource(options.data, num_workers=options.num_workers, **how)
        folder = options.pixels or options.out / "pixels"
        return cache_pixels(options.data, folder / split, deadline=deadline, **how)


main = partial(run_stage, train_tokenizer, TokenizerOptions, stage="tokenizer", recipe="tiny_tokenizer.yaml")
