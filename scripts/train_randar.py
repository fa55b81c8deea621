"""Train RandAR on image tokens: `python scripts/train_randar.py --tokens FOLDER --out RUN`.

The folder holds `train` and `validation`, as scripts/tokenize_images.py writes them. Run it again to
continue; `--max-minutes` ends a stage early, with exit status 75.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from randar_features.data.token_store import TokenStore
from randar_features.training.config import load_config
from randar_features.training.loop import UNFINISHED, LoopConfig, run
from randar_features.training.trainer import RandARTrainer, TrainingConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "configs/tiny.yaml")
    parser.add_argument("--max-minutes", type=float, help="stop at a checkpoint after this long")
    parser.add_argument("overrides", nargs="*", help="key=value, for example model.dim=256")
    args = parser.parse_args()

    config = load_config(TrainingConfig, args.config, args.overrides)
    trainer = RandARTrainer(config, TokenStore(args.tokens / "train"), TokenStore(args.tokens / "validation"))
    seconds = None if args.max_minutes is None else 60 * args.max_minutes
    loop = LoopConfig(log_every=10, evaluate_every=100, checkpoint_every=50, max_seconds=seconds)
    if not run(trainer, args.out, loop):
        print("not finished: run it again to continue")
        raise SystemExit(UNFINISHED)


if __name__ == "__main__":
    main()
