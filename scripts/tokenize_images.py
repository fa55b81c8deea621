"""Turn images into token stores: `python scripts/tokenize_images.py --tokenizer FOLDER --data IMAGES --out TOKENS`.

Writes TOKENS/train and TOKENS/validation, with several views of every image, and TOKENS/tokenizer. Run it again to
continue: shards that are there are kept, and are an error if they are of another tokenizer or of other images, as far
as their number, class names and the first of them tell; `--max-minutes` ends it early, with exit status 75.
`torchrun --nproc-per-node 8 scripts/tokenize_images.py …`, or several nodes that share a disk, divide the shards.

  --data /data/imagenet                 folders train/class/file and validation/class/file, or Parquet files
  --data ILSVRC2012_img_train.tar --as train         a tar of class/file or class.tar, not unpacked
  --dataset ILSVRC/imagenet-1k --streaming           from the Hugging Face Hub, without a copy on disk
  --codes imagenet-llamagen-adm-256_codes.tar --tokenizer randar-l-llamagen      ready-made tokens
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch

from randar_features.command_line import add_time_limit, run_command, stop_unfinished
from randar_features.data.published_codes import import_codes
from randar_features.data.token_shards import SHARD_SIZE, VIEWS, in_time
from randar_features.data.token_store import TokenStore, tokenizer_hash
from randar_features.data.tokenizing import CROP_RANGE, tokenize
from randar_features.hub import choose_device, load_tokenizer
from randar_features.hub.registry import find_source
from randar_features.hub.weights import read_state_dict
from randar_features.tokenizers import ImageTokenizer
from randar_features.tokenizers.folder import ABOUT_TOKENIZER, half_where_exact, write_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="the `model` of train_tokenizer.py, or a model's name")
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--data", help="images: a folder, Parquet files or a tar, with the splits in it")
    images.add_argument("--dataset", help="name of a data set for `datasets.load_dataset`, NAME or NAME:CONFIGURATION")
    images.add_argument("--codes", type=Path, help="folder or tar of class/file.npy: published tokens, to import")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--splits", nargs="+", help="those of the data to tokenize; default: train validation")
    parser.add_argument("--as", dest="whole", metavar="SPLIT", help="the data have no splits: all of them are this one")
    parser.add_argument("--streaming", action="store_true", help="read --dataset without downloading it whole")
    parser.add_argument("--crops", choices=list(VIEWS), default="two", help="two: centre crop and mirror image")
    parser.add_argument("--crop-range", type=float, default=CROP_RANGE, help="ten crops: of an image so much larger")
    parser.add_argument("--vocab-size", type=int, help="codes of the tokenizer, for --codes without --tokenizer")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time")
    parser.add_argument("--shard-size", type=int, default=SHARD_SIZE, help="images a shard")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that decode images")
    parser.add_argument("--device", help="left out: this process's GPU, or else the CPU")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="half precision changes some tokens")
    add_time_limit(parser)
    args = parser.parse_args()
    if args.tokenizer is None and not (args.codes and args.vocab_size):
        parser.error("--tokenizer is required, or, with --codes, --vocab-size")
    if args.codes and (args.splits or args.crops != "two"):
        parser.error("--splits and --crops are for images: codes have their views, and --as names their split")
    if args.streaming and not args.dataset:
        parser.error("--streaming is for --dataset")
    return args


def keep_tokenizer(name: str, tokenizer: ImageTokenizer, image_size: int, folder: Path, *, write: bool) -> None:
    """Lay the tokenizer beside its tokens, also where only its decoder is new; ValueError if another one is there."""
    weights, kept = folder / "tokenizer.safetensors", half_where_exact(tokenizer.state_dict())
    if weights.exists():
        found, given = tokenizer_hash(read_state_dict(weights)), tokenizer_hash(tokenizer)
        if found != given:
            raise ValueError(
                f"{folder.parent} holds tokens made by tokenizer {found}, but the one given is {given}: "
                "give another folder, or remove that one to make them again"
            )
        present = read_state_dict(weights).items()
        same = all(kept[name].float().cpu().equal(value.float()) for name, value in present)
        if same and (folder / "config.json").exists():
            return
    if write:
        config = find_source(name).config
        about = {key: config[key] for key in ABOUT_TOKENIZER if key in config}
        write_tokenizer(folder, kept, about | {"image_size": image_size})


def read_dataset(name: str, split: str, streaming: bool) -> Any:
    """A split of a data set of the `datasets` library."""
    from datasets import load_dataset

    path, _, configuration = name.partition(":")
    return load_dataset(path, configuration or None, split=split, streaming=streaming)


def load(args: argparse.Namespace) -> tuple[ImageTokenizer, int]:
    """The tokenizer on its device, and the side of its images."""
    device = choose_device(args.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return load_tokenizer(args.tokenizer, device)


def main() -> None:
    args = arguments()
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    sharing: dict[str, Any] = {"rank": rank, "world_size": world_size}
    sharing |= {"shard_size": args.shard_size, "deadline": args.deadline}
    tokenizer, image_size = load(args) if args.tokenizer else (None, None)
    if tokenizer is not None and image_size is not None:
        keep_tokenizer(args.tokenizer, tokenizer, image_size, args.out / "tokenizer", write=rank == 0)
    if args.codes:
        folder = args.out / (args.whole or "train")
        made_by: dict[str, Any] = {
            "vocab_size": tokenizer.vocab_size if tokenizer else args.vocab_size,
            "tokenizer": tokenizer and tokenizer_hash(tokenizer),
            "image_size": image_size,
        }
        report(folder, import_codes(args.codes, folder, **made_by, **sharing), args.deadline)
        return
    assert tokenizer is not None and image_size is not None  # the parser sees to it
    for split in [args.whole] if args.whole else args.splits or ["train", "validation"]:
        store = tokenize(
            tokenizer,
            read_dataset(args.dataset, split, args.streaming) if args.dataset else args.data,
            args.out / split,
            image_size=image_size,
            split=None if args.whole or args.dataset else split,
            crops=args.crops,
            crop_range=args.crop_range,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            dtype=DTYPES[args.dtype],
            **sharing,
        )
        report(args.out / split, store, args.deadline)


def report(folder: Path, store: TokenStore | None, deadline: float | None) -> None:
    """Say what is there; SystemExit with status `UNFINISHED` if time was up before all was."""
    if store is None and not in_time(deadline):
        stop_unfinished()
    if store is None:
        print(f"{folder}: this process's shards are there; the manifest comes with the last of the others'")
        return
    views = f"{store.num_views} views of {store.num_tokens} tokens"
    print(f"{folder}: {len(store)} images, {views}, {store.manifest['unreadable']} unreadable")


if __name__ == "__main__":
    run_command(main)
