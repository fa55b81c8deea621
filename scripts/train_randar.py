"""Train RandAR on image tokens: `python scripts/train_randar.py --tokens FOLDER --out RUN`.

The folder holds `train` and `validation`, as scripts/tokenize_images.py writes them. Run it again to
continue; `--max-minutes` ends a stage early, with exit status 75.
"""

from __future__ import annotations

from pathlib import Path

from randar_features.data.token_store import TokenStore
from randar_features.training.command_line import train, training_parser
from randar_features.training.config import load_config
from randar_features.training.trainer import RandARTrainer, TrainingConfig


def main() -> None:
    parser = training_parser(__doc__, Path(__file__).parent / "configs/tiny.yaml")
    parser.add_argument("--tokens", type=Path, required=True)
    args = parser.parse_args()

    config = load_config(TrainingConfig, args.config, args.overrides)
    trainer = RandARTrainer(config, TokenStore(args.tokens / "train"), TokenStore(args.tokens / "validation"))
    train(trainer, args)


if __name__ == "__main__":
    main()
