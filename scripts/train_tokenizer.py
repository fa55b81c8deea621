"""Train an image tokenizer: `python scripts/train_tokenizer.py --data FOLDER --out RUN`.

Run it again to continue; `--max-minutes` ends a stage early, with exit status 75.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from randar_features.data.pixel_cache import cache_pixels
from randar_features.training.config import load_config
from randar_features.training.loop import UNFINISHED, LoopConfig, run
from randar_features.training.tokenizer_trainer import TokenizerTrainer, TokenizerTrainingConfig

DATA = "a folder of images or Parquet files, with the splits train and validation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help=DATA)
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "configs/tiny_tokenizer.yaml")
    parser.add_argument("--max-minutes", type=float, help="stop at a checkpoint after this long")
    parser.add_argument("overrides", nargs="*", help="key=value, for example total_steps=100")
    args = parser.parse_args()

    config = load_config(TokenizerTrainingConfig, args.config, args.overrides)
    caches = [
        cache_pixels(args.data, args.out / f"pixels/{split}", image_size=config.image_size, split=split)
        for split in ("train", "validation")
    ]
    torch.set_float32_matmul_precision("high")
    trainer = TokenizerTrainer(config, *caches)
    seconds = None if args.max_minutes is None else 60 * args.max_minutes
    if not run(trainer, args.out, LoopConfig(max_seconds=seconds)):
        print("not finished: run it again to continue")
        raise SystemExit(UNFINISHED)


if __name__ == "__main__":
    main()
