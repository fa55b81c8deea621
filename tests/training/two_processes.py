"""What test_distributed.py starts twice with torchrun: two trainings, one behind the other, by both processes."""

from __future__ import annotations

import sys
from pathlib import Path

from randar_features.data.token_store import TokenStore
from randar_features.training.loop import run
from randar_features.training.trainer import RandARTrainer
from tests.training.small import CONFIG, small_config
from tests.training.test_distributed import SPREAD


def main() -> None:
    folder = Path(sys.argv[1])
    store = TokenStore(folder / "tokens")
    for name, options in SPREAD.items():
        trainer = RandARTrainer(small_config(**options), store, store)
        assert trainer.accelerator.num_processes == 2
        run(trainer, folder / name, CONFIG, max_seconds=1e6)  # on which all must agree


if __name__ == "__main__":
    main()
