"""What test_tokenizer_trainer.py starts twice with torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

from randar_features.training.loop import run
from tests.training.small import small_tokenizer_trainer
from tests.training.test_tokenizer_trainer import CONFIG, SHARED


def main() -> None:
    folder = Path(sys.argv[1])
    trainer = small_tokenizer_trainer(folder / "pixels", **SHARED)
    assert trainer.accelerator.num_processes == 2
    run(trainer, folder / "run", CONFIG)


if __name__ == "__main__":
    main()
