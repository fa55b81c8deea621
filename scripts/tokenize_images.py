"""Turn images into token stores: `python scripts/tokenize_images.py --tokenizer FOLDER --data IMAGES --out TOKENS`.

Writes TOKENS/train and TOKENS/validation with the centre crop and the mirror image of every image. What is
there already is kept if the tokenizer and the images are the same, and is an error if not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from randar_features.data.token_store import tokenize
from randar_features.hub import load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="the `model` of train_tokenizer.py, or a model's name")
    parser.add_argument("--data", required=True, help="a folder of images or Parquet files, with the splits in it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--splits", nargs="+", default=["train", "validation"])
    args = parser.parse_args()

    tokenizer, image_size = load_tokenizer(args.tokenizer)
    for split in args.splits:
        tokenize(tokenizer, args.data, args.out / split, image_size=image_size, split=split)


if __name__ == "__main__":
    main()
