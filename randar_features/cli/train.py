"""`randar train`: a folder of images to a model in minutes; or one stage of the full recipe."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

STAGES = {"transformer": "train_transformer", "tokenizer": "train_tokenizer"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: `randar train FOLDER`, `randar train transformer …` or `randar train tokenizer …`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    stage = STAGES.get(given[0]) if given else None
    module = importlib.import_module(f"randar_features.cli.{stage or 'train_folder'}")
    command: Callable[[Sequence[str]], int] = module.main
    return command(given[1:] if stage else given)


if __name__ == "__main__":
    raise SystemExit(main())
