"""`randar tokenize`: images as token stores, once, for training."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from randar_features.data import ImageSource, open_images
from randar_features.data.containers.tables import load_named_table
from randar_features.data.decode.ranges import Reading
from randar_features.data.published_codes import import_codes
from randar_features.data.stored_images import name_of
from randar_features.data.token_store import SHARD_SIZE, TokenStore
from randar_features.hub import choose_device, load_tokenizer
from randar_features.hub.registry import find_source
from randar_features.hub.weights import read_state_dict
from randar_features.options.command import UNFINISHED, run
from randar_features.options.parse import option
from randar_features.options.shared import DeviceOptions, TimeLimit, WeightsDType, given
from randar_features.options.types import Count, Natural
from randar_features.store.writer import in_time, rank_and_ranks
from randar_features.tokenizers import ImageTokenizer
from randar_features.tokenizers.folder import ABOUT_TOKENIZER, half_where_exact, tokenizer_hash, write_tokenizer
from randar_features.training.bundle import check_finished
from randar_features.training.tokenizing import CROP_RANGE, tokenize

SPLITS = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions(DeviceOptions, TimeLimit, Reading):
    """Turn images into OUT/train and OUT/validation, with two or ten crops of each image, and OUT/tokenizer.

    Run it again to continue. It refuses shards of another tokenizer or of other images. Several processes or nodes
    that share a disk divide the shards: torchrun --nproc-per-node 8 --no-python randar tokenize …

      --data /data/imagenet                           folders train/class/file and validation/class/file, or Parquet
      --data ILSVRC2012_img_train.tar --as train      a tar of class/file or class.tar
      --dataset ILSVRC/imagenet-1k --streaming        from the Hugging Face Hub, without a copy on disk
      --codes imagenet-llamagen-adm-256_codes.tar --tokenizer randar-l-llamagen      published tokens

    Attributes:
        out: folder to write.
        tokenizer: folder of a tokenizer, or a model's name. It may be left out with --codes and --vocab-size.
        data: images: a folder, Parquet files or a tar, with the splits in it.
        dataset: name of a data set for `datasets.load_dataset`, NAME or NAME:CONFIGURATION.
        codes: folder or tar of class/file.npy: published tokens to import.
        splits: splits of the data to tokenize; none: train and validation.
        whole: for data without splits, name of the split that they all belong to, such as train.
        streaming: read --dataset without downloading it whole.
        crops: two: centre crop and mirror image; ten: corners and centre, and their mirror images.
        crop_range: side of the image that ten crops are cut from, relative to the side of a crop.
        vocab_size: number of codes of the tokenizer, for --codes without --tokenizer.
        batch_size: images in one forward pass.
        append: add the images that the store does not have yet, make changed ones again, and name those that are gone.
        shard_size: images in one shard.
        num_workers: processes that decode images; 0: this one.
        dtype: number format of the tokenizer; half precision changes some tokens.
    """

    out: Path
    tokenizer: str | None = None
    data: str | None = None
    dataset: str | None = None
    codes: Path | None = None
    splits: tuple[str, ...] | None = None
    whole: str | None = option("--as", default=None)
    streaming: bool = False
    crops: Literal["two", "ten"] = "two"
    crop_range: float = CROP_RANGE
    vocab_size: Count | None = None
    batch_size: Count = 64
    append: bool = False
    shard_size: Count = SHARD_SIZE
    num_workers: Natural = 0
    dtype: WeightsDType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        sources = given(self, ("data", "dataset", "codes"))
        if len(sources) != 1:
            raise ValueError(f"give one of --data, --dataset and --codes, got {' and '.join(sources) or 'none'}")
        if self.tokenizer is None and not (self.codes and self.vocab_size):
            raise ValueError("--tokenizer is required, or, with --codes, --vocab-size")
        if self.codes and (self.splits or self.crops != "two"):
            raise ValueError("--splits and --crops are for images: codes have their crops, and --as names their split")
        if self.splits and self.whole is not None:
            raise ValueError("give --splits of data that have splits, or --as for data that have none, not both")
        if self.vocab_size and self.tokenizer:
            raise ValueError("--vocab-size is for --codes without --tokenizer: a tokenizer knows its number of codes")
        if self.crop_range != CROP_RANGE and self.crops != "ten":
            raise ValueError("--crop-range is for --crops ten")
        if self.streaming and not self.dataset:
            raise ValueError("--streaming is for --dataset")
        for name in (*(self.splits or ()), *([] if self.whole is None else [self.whole])):
            if name in ("", ".", "..") or name != Path(name).name:
                raise ValueError(f"a split is the name of a folder in --out, without /; got {name!r}")


def tokenize_images(options: TokenizeOptions) -> int:
    """Write what is missing; status 75 where time was up first."""
    deadline = options.deadline()
    rank, world_size = rank_and_ranks()
    sharing: dict[str, Any] = {"rank": rank, "world_size": world_size, "deadline": deadline}
    sharing["shard_size"] = options.shard_size
    splits = [] if options.codes else [options.whole] if options.whole else options.splits or SPLITS
    sources = {split: open_split(options, split) for split in splits}
    tokenizer, image_size = load(options.tokenizer, options.device) if options.tokenizer else (None, None)
    if options.tokenizer is not None and tokenizer is not None and image_size is not None:
        keep_tokenizer(options.tokenizer, tokenizer, image_size, options.out / "tokenizer", write=rank == 0)
    if options.codes:
        return import_published(options, tokenizer, image_size, sharing)
    assert tokenizer is not None and image_size is not None  # TokenizeOptions sees to it
    for split, source in sources.items():
        store = tokenize(
            tokenizer,
            source,
            options.out / split,
            image_size=image_size,
            crops=options.crops,
            crop_range=options.crop_range,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            dtype=getattr(torch, options.dtype),
            append=options.append,
            data=name_of(options.dataset or options.data, None if options.whole else split),
            **sharing,
        )
        if report(options.out / split, store, deadline):
            return UNFINISHED
    return 0


def open_split(options: TokenizeOptions, split: str) -> ImageSource:
    """The images of a split, or all of data without splits."""
    if options.dataset:
        table = load_named_table(options.dataset, split, streaming=options.streaming)
        return open_images(table).read_with(options.reading)
    try:
        return open_images(options.data, split=None if options.whole else split).read_with(options.reading)
    except ValueError as error:
        if options.splits or not str(error).startswith("no split"):
            raise
        raise ValueError(f"{error}; --splits names those of the data, --as the one of data without splits") from error


def import_published(
    options: TokenizeOptions, tokenizer: ImageTokenizer | None, image_size: int | None, sharing: dict[str, Any]
) -> int:
    """Published codes as a store."""
    assert options.codes is not None
    folder = options.out / (options.whole or "train")
    vocab_size = tokenizer.vocab_size if tokenizer else options.vocab_size
    made_by: dict[str, Any] = {"vocab_size": vocab_size, "tokenizer": tokenizer and tokenizer_hash(tokenizer)}
    store = import_codes(options.codes, folder, **made_by, image_size=image_size, append=options.append, **sharing)
    return report(folder, store, sharing["deadline"])


def load(name: str, device: str | None) -> tuple[ImageTokenizer, int]:
    """The tokenizer on its device, and the side of its images; ValueError if its training is not finished."""
    check_finished(Path(name))
    chosen = choose_device(device)
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return load_tokenizer(name, chosen)


def keep_tokenizer(name: str, tokenizer: ImageTokenizer, image_size: int, folder: Path, *, write: bool) -> None:
    """Lay the tokenizer beside its tokens, also where only its decoder is new; ValueError if another one is there."""
    weights, kept = folder / "tokenizer.safetensors", half_where_exact(tokenizer.state_dict())
    if weights.exists():
        found, own = tokenizer_hash(read_state_dict(weights)), tokenizer_hash(tokenizer)
        if found != own:
            raise ValueError(
                f"{folder.parent} holds tokens made by tokenizer {found}, but the one given is {own}: "
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


def report(folder: Path, store: TokenStore | None, deadline: float | None) -> int:
    """Say what is there; `UNFINISHED` if time was up before all was."""
    if store is None and not in_time(deadline):
        return UNFINISHED
    if store is None:
        print(f"{folder}: the shards of this process are there; those of the others are not yet")
        return 0
    crops = f"{store.num_crops} crops of {store.num_tokens} tokens"
    print(f"{folder}: {len(store)} images, {crops}, {len(store.unreadable)} unreadable")
    return 0


main = partial(run, tokenize_images, TokenizeOptions, program="randar tokenize")
