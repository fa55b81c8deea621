"""Train an image tokenizer: `python scripts/train_tokenizer.py --data FOLDER --out RUN`.

Run it again to continue; `--max-minutes` ends a stage early, with exit status 75.
"""

from __future__ import annotations

from pathlib import Path

import torch

from randar_features.data.pixel_cache import cache_pixels
from randar_features.training.command_line import train, training_parser
from randar_features.training.config import load_config
from randar_features.training.tokenizer_trainer import TokenizerTrainer, TokenizerTrainingConfig

DATA = "a folder of images or Parquet files, with the splits train and validation"


def main() -> None:
    parser = training_parser(__doc__, Path(__file__).parent / "configs/tiny_tokenizer.yaml")
    parser.add_argument("--data", required=True, help=DATA)
    args = parser.parse_args()

    config = load_config(TokenizerTrainingConfig, args.config, args.overrides)
    caches = [
        cache_pixels(args.data, args.out / f"pixels/{split}", image_size=config.image_size, split=split)
        for split in ("train", "validation")
    ]
    torch.set_float32_matmul_precision("high")
    train(TokenizerTrainer(config, *caches), args)


if __name__ == "__main__":
    main()
