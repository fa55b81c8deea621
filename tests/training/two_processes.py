"""What test_distributed.py starts twice: three trainings, one after the other, by both processes together."""

from __future__ import annotations

import sys
from pathlib import Path

from randar_features.data.token_store import TokenStore
from randar_features.training.loop import run
from randar_features.training.trainer import RandARTrainer
from tests.training.small import CONFIG, small_config, small_tokenizer_trainer
from tests.training.test_distributed import SPREAD, TOKENIZER


def main() -> None:
    folder = Path(sys.argv[1])
    store = TokenStore(folder / "tokens")
    for name, options in SPREAD.items():
        trainer = RandARTrainer(small_config(**options), store, store)
        assert trainer.accelerator.num_processes == 2
        run(trainer, folder / name, CONFIG, max_seconds=1e6)  # on which all must agree
    tokenizer = small_tokenizer_trainer(folder / "pixels", **TOKENIZER)
    assert tokenizer.accelerator.num_processes == 2
    run(tokenizer, folder / "tokenizer", CONFIG)


if __name__ == "__main__":
    main()
