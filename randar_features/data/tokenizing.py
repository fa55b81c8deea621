"""Images to token shards: every view of every image through a tokenizer, once."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from randar_features.data.images import ImageBatch, ImageSource
from randar_features.data.readable import split_readable
from randar_features.data.sources import open_images
from randar_features.data.token_shards import (
    CHECKED,
    MAX_VOCAB_SIZE,
    SHARD_SIZE,
    TOKENS,
    VIEWS,
    Shard,
    ShardWriter,
    in_time,
)
from randar_features.data.token_store import TokenStore, tokenizer_hash
from randar_features.tokenizers.base import ImageTokenizer

CROP_RANGE = 1.1


def crop_views(pixels: Tensor, crops: str, image_size: int) -> Tensor:
    """Images (B, 3, S', S') to their views (B, views, 3, S, S), S = `image_size`.

    "two" (S' = S): the image and its mirror image. "ten" (S' ≥ S): the four corners and the centre, then the
    same five of the mirror image, in torchvision's order. LlamaGen's training tokens are made so of ADM crops of
    S' = ⌊1.1·S⌋ pixels (arXiv 2406.06525, section 3.1).
    """
    if crops == "two":
        return torch.stack([pixels, pixels.flip(3)], dim=1)
    from torchvision.transforms.functional import ten_crop  # slow to import

    return torch.stack(ten_crop(pixels, [image_size, image_size]), dim=1)


def tokenize(
    tokenizer: ImageTokenizer,
    images: Any,
    folder: Path,
    *,
    image_size: int,
    split: str | None = None,
    crops: str = "two",
    crop_range: float = CROP_RANGE,
    batch_size: int = 64,
    shard_size: int = SHARD_SIZE,
    num_workers: int = 0,
    dtype: torch.dtype = torch.float32,
    rank: int = 0,
    world_size: int = 1,
    deadline: float | None = None,
) -> TokenStore | None:
    """Tokens of the views of each image (`crop_views`) in shards in `folder`, made on the tokenizer's device.

    Shards that are there stay, so a run that was killed continues with the first missing one, and gives what an
    uninterrupted one gives. Unreadable images are left out and named in the manifest.

    Args:
        tokenizer: on the device that is to encode.
        images: anything that `open_images` takes, with `split`. A generator can be read once only: not resumed.
        folder: of the store.
        image_size: pixels a side of every view.
        split: as for `open_images`.
        crops: "two" (the ADM centre crop and its mirror image) or "ten".
        crop_range: with "ten", side of the image that is cropped, in `image_size`s.
        batch_size: images at a time; each has two or ten views.
        shard_size: images a shard.
        num_workers: processes that decode images.
        dtype: of the tokenizer's weights while it encodes. Half precision is faster on a GPU, but changes some
            tokens; the codebook search is in float32 always.
        rank: this process among `world_size`, each of which makes its own shards.
        world_size: number of processes.
        deadline: no shard is begun when `time.monotonic` has come there.

    Returns:
        The store, or None while there are shards to make, by others or behind the deadline; the last one made brings
        the manifest.

    Raises:
        ValueError: `folder` holds tokens of another tokenizer or of other images, no image can be read, the
            tokenizer has more codes than 16 bits can tell apart, or an option is unknown.
        OSError: the disk is full; finished shards stay.
    """
    _check(tokenizer, crops, crop_range, image_size)
    if shard_size < 1:
        raise ValueError(f"shard_size={shard_size}, expected at least 1 image")
    source = open_images(images, split=split)
    settings = {
        "tokenizer": tokenizer_hash(tokenizer),
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": tokenizer.vocab_size,
        "label_names": source.label_names,
        "image_size": image_size,
        "views": VIEWS[crops],
        "crop_range": crop_range if crops == "ten" else 1.0,
        "images": source.length,
        "shard_size": shard_size,
    }
    writer = ShardWriter(
        folder=folder,
        shape=(len(VIEWS[crops]), (image_size // tokenizer.downsampling) ** 2),
        settings=settings,
        length=source.length,
        rank=rank,
        world_size=world_size,
    )
    encoder = _Encoder(
        tokenizer=tokenizer if dtype == torch.float32 else copy.deepcopy(tokenizer).to(dtype),
        source=source,
        crops=crops,
        image_size=image_size,
        side=int(image_size * crop_range) if crops == "ten" else image_size,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    missing = list(writer.missing()) if source.length is not None else writer.missing()
    if writer.read(0) and not source.streamed:
        encoder.check_same(np.load(folder / f"shard-00000.{TOKENS}", mmap_mode="r"), folder)
    _make(writer, encoder, missing, deadline)
    return TokenStore(folder, verify=False) if writer.write_manifest() else None


def _make(writer: ShardWriter, encoder: _Encoder, missing: Iterable[tuple[int, range]], deadline: float | None) -> None:
    """Make the missing shards while there is time."""
    if not in_time(deadline):
        return
    pending: deque[tuple[int, range]] = deque()
    shard = Shard()

    def runs() -> Iterator[range]:
        for number, rows in missing:
            pending.append((number, rows))
            yield rows

    for batch in encoder.batches(runs(), writer.folder.name):
        number, rows = pending[0]
        pixels, labels, unreadable = split_readable(batch, rows.start + shard.rows)
        if labels:
            shard.tokens.append(encoder.encode(pixels))
        shard.labels += labels
        shard.unreadable += unreadable
        shard.rows += len(batch.status)
        if shard.rows == len(rows):
            writer.write(number, shard)
            shard = Shard()
            pending.popleft()
            if not in_time(deadline):
                return
    if pending:  # the end of a stream, which may be empty
        writer.write(pending[0][0], shard)


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    """Reads rows of a source and turns them into tokens."""

    tokenizer: ImageTokenizer
    source: ImageSource
    crops: str
    image_size: int
    side: int
    batch_size: int
    num_workers: int

    def batches(self, runs: Iterator[range], description: str) -> Iterator[ImageBatch]:
        """Batches of those rows, with a line of progress."""
        known = self.source.length is not None
        rows = list(runs) if known else runs
        total = sum(map(len, rows)) if known else None
        if known and not rows:
            return
        with tqdm(total=total, desc=f"tokenizing {description}", unit="image", dynamic_ncols=True) as bar:
            for batch in self.source.batches(self.side, self.batch_size, self.num_workers, rows=rows):
                yield batch
                bar.update(len(batch.status))

    def encode(self, pixels: Tensor) -> np.ndarray:
        """Tokens (b, views, N) uint16 of readable images (b, 3, side, side)."""
        views = crop_views(pixels.to(next(self.tokenizer.parameters()).device), self.crops, self.image_size)
        tokens = self.tokenizer.encode(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        return tokens.cpu().numpy().astype(np.uint16)

    def check_same(self, tokens: np.ndarray, folder: Path) -> None:
        """ValueError unless the first tokens (n, views, N) that `folder` holds are of this source."""
        batch = next(iter(self.source.batches(self.side, CHECKED)))
        first = split_readable(batch, 0)[0]
        found = self.encode(first)[: len(tokens)] if len(first) else tokens[:0]
        agreement = (found == tokens[: len(found)]).mean() if len(found) else 1.0
        # Another machine may round a few ties otherwise; other images agree by chance in a few tokens only.
        if agreement < 0.5:
            raise ValueError(
                f"{folder} was made of other images: the tokens of the first {len(found)} given differ. "
                "Give another folder, or remove that one to make it again"
            )


def _check(tokenizer: ImageTokenizer, crops: str, crop_range: float, image_size: int) -> None:
    if tokenizer.vocab_size > MAX_VOCAB_SIZE:
        raise ValueError(f"{tokenizer.vocab_size} codes do not fit 16 bits: at most {MAX_VOCAB_SIZE}")
    if crops not in VIEWS:
        raise ValueError(f"crops={crops!r}, expected one of {', '.join(VIEWS)}")
    if not 1 <= crop_range <= 2:
        raise ValueError(f"crop_range={crop_range}, expected 1 to 2, in sides of the view")
    if image_size % tokenizer.downsampling or image_size < tokenizer.downsampling:
        raise ValueError(f"image_size={image_size}, expected a multiple of {tokenizer.downsampling} pixels")
