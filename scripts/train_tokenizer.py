"""Train an image tokenizer: `python scripts/train_tokenizer.py --data FOLDER --out RUN`.

Run it again to continue; `--max-minutes` ends a stage early, with exit status 75. The images are decoded once, into
RUN/pixels or the folder given by `--pixels`, which takes image_size² · 3 bytes each, and time that counts but is not
cut short; `--no-cache` decodes them anew whenever they are needed. Several processes (torchrun, `accelerate launch`)
divide each batch. To polish the reconstructions of a finished tokenizer, whose tokens stay as they are:
`--config scripts/configs/tiny_decoder.yaml initial=FOLDER`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from randar_features.command_line import run_command
from randar_features.data.pixel_cache import PixelCache, cache_pixels
from randar_features.data.pixel_source import PixelSource
from randar_features.training.command_line import train, training_parser
from randar_features.training.config import load_config
from randar_features.training.distributed import make_accelerator
from randar_features.training.tokenizer_trainer import TokenizerTrainer, TokenizerTrainingConfig

DATA = "a folder of images or Parquet files, with the splits train and validation"


def main() -> None:
    parser = training_parser(__doc__, Path(__file__).parent / "configs/tiny_tokenizer.yaml")
    parser.add_argument("--data", required=True, help=DATA)
    parser.add_argument("--splits", nargs=2, default=["train", "validation"], help="names of the splits in the data")
    parser.add_argument("--pixels", type=Path, help="where decoded images are kept; left out: the run's own folder")
    parser.add_argument("--no-cache", action="store_true", help="decode images whenever they are needed")
    parser.add_argument("--num-workers", type=int, default=0, help="with --no-cache: processes that decode ahead")
    args = parser.parse_args()

    config = load_config(TokenizerTrainingConfig, args.config, args.overrides)
    training, validation = (open_pixels(args, split, config.image_size) for split in args.splits)
    torch.set_float32_matmul_precision("high")
    train(TokenizerTrainer(config, training, validation), args)


def open_pixels(args: argparse.Namespace, split: str, image_size: int) -> PixelCache | PixelSource:
    """A split's images, by way of a cache that the first process makes."""
    if args.no_cache:
        return PixelSource(args.data, image_size=image_size, split=split, num_workers=args.num_workers)
    with make_accelerator().main_process_first():
        folder = args.pixels or args.out / "pixels"
        return cache_pixels(args.data, folder / split, image_size=image_size, split=split)


if __name__ == "__main__":
    run_command(main)
