"""Put a tokenizer and a RandAR into one folder for `randar_features.load_model`.

`python scripts/assemble_model.py --transformer RUN/model --tokens TOKENS --out FOLDER [--tokenizer RUN/model]`
refuses parts that were not trained together.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from randar_features.command_line import run_command
from randar_features.data.token_store import TokenStore
from randar_features.hub import load_model
from randar_features.store.files import read_json
from randar_features.training.bundle import assemble_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tokenizer",
        type=Path,
        help="the folder `model` of train_tokenizer.py; left out: the one kept with the tokens",
    )
    parser.add_argument("--transformer", type=Path, required=True, help="the folder `model` of train_randar.py")
    parser.add_argument("--tokens", type=Path, required=True, help="the tokens it was trained on, with `train`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classes", type=Path, help="JSON list of class names; left out: the tokens' own")
    parser.add_argument("--layers", type=int, nargs="+", help="blocks recommended for features, from 0")
    parser.add_argument("--steps", type=int, help="recommended decoding steps")
    args = parser.parse_args()

    store = TokenStore(args.tokens / "train")
    tokenizer = args.tokenizer or store.tokenizer
    if tokenizer is None:
        parser.error(f"{args.tokens} holds no tokenizer: give --tokenizer")
    assemble_model(
        tokenizer=tokenizer,
        transformer=args.transformer,
        manifest=store.manifest,
        out=args.out,
        class_names=read_json(args.classes) if args.classes else None,
        layers=args.layers,
        steps=args.steps,
    )
    print(load_model(args.out, device="cpu"))


if __name__ == "__main__":
    run_command(main)
