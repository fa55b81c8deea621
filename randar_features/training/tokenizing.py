"""Images to token shards: every crop of every image through a tokenizer, once."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randar_features.data.ahead import sent
from randar_features.data.images import ImageBatch
from randar_features.data.sources import open_images
from randar_features.data.stored_images import StoredImages, name_of
from randar_features.data.token_store import (
    CROPS,
    CROPS_ENTRY,
    MAX_VOCAB_SIZE,
    TOKENS,
    TokenStore,
    fill_token_store,
)
from randar_features.store.records import OK
from randar_features.tokenizers import ImageTokenizer
from randar_features.tokenizers.folder import tokenizer_hash

CROP_RANGE = 1.1


def cut_crops(pixels: Tensor, crops: str, image_size: int) -> Tensor:
    """Images (B, 3, S', S') to their crops (B, K, 3, S, S), S = `image_size`.

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
    num_workers: int = 0,
    dtype: torch.dtype = torch.float32,
    data: str | None = None,
    **filling: Any,
) -> TokenStore | None:
    """Tokens of the crops of each image (`cut_crops`) in shards in `folder`, made on the tokenizer's device.

    A run that was killed continues where it was, and gives what an uninterrupted one gives. Unreadable images keep
    their place, and the store leaves them out and names them.

    Args:
        tokenizer: on the device that is to encode.
        images: anything that `open_images` takes, with `split`. A generator can be read once only: not resumed.
        folder: of the store.
        image_size: pixels a side of every crop.
        split: as for `open_images`.
        crops: "two" (the ADM centre crop and its mirror image) or "ten".
        crop_range: with "ten", side of the image that is cropped, in `image_size`s.
        batch_size: images at a time; each has two or ten crops.
        num_workers: processes that decode images.
        dtype: of the tokenizer's weights while it encodes. Half precision is faster on a GPU, but changes some
            tokens; the codebook search is in float32 always.
        data: name of the images, for the record; None: that of their folder or file.
        filling: `shard_size`, `append`, `rank`, `world_size`, `deadline`, as for `fill_token_store`.

    Returns:
        The store, or None while there are shards to make, by others or after the deadline.

    Raises:
        ValueError: `folder` holds tokens of another tokenizer or of other images, no image can be read, the
            tokenizer has more codes than 16 bits can tell apart, or an option is unknown.
        OSError: the disk is full; finished shards stay.
    """
    _check(tokenizer, crops, crop_range, image_size)
    source = open_images(images, split=split)
    settings = {
        "tokenizer": tokenizer_hash(tokenizer),
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": tokenizer.vocab_size,
        "image_size": image_size,
        CROPS_ENTRY: CROPS[crops],
        "crop_range": crop_range if crops == "ten" else 1.0,
        **source.reading.content(),
    }
    encoder = tokenizer if dtype == torch.float32 else copy.deepcopy(tokenizer).to(dtype)
    stored = StoredImages(
        source,
        _tokens_of(encoder, crops, image_size),
        image_size=int(image_size * crop_range) if crops == "ten" else image_size,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    return fill_token_store(
        stored,
        folder,
        settings,
        data=data or name_of(images, split),
        progress=f"tokenizing {folder.name}",
        **filling,
    )


def _tokens_of(
    tokenizer: ImageTokenizer, crops: str, image_size: int
) -> Callable[[ImageBatch], Mapping[str, np.ndarray]]:
    """A function from images to tokens (b, K, N) uint16; zeros for images that could not be read."""
    num_tokens = (image_size // tokenizer.downsampling) ** 2
    device = next(tokenizer.parameters()).device

    def encode(batch: ImageBatch) -> dict[str, np.ndarray]:
        good = [status == OK for status in batch.status]
        tokens = np.zeros((len(good), len(CROPS[crops]), num_tokens), np.uint16)
        if any(good):
            cut = cut_crops(sent(batch.pixels[good], device), crops, image_size)
            found = tokenizer.encode(cut.flatten(0, 1)).unflatten(0, cut.shape[:2])
            tokens[good] = found.cpu().numpy().astype(np.uint16)
        return {TOKENS: tokens}

    return encode


def _check(tokenizer: ImageTokenizer, crops: str, crop_range: float, image_size: int) -> None:
    if tokenizer.vocab_size > MAX_VOCAB_SIZE:
        raise ValueError(f"{tokenizer.vocab_size} codes do not fit 16 bits: at most {MAX_VOCAB_SIZE}")
    if crops not in CROPS:
        raise ValueError(f"crops={crops!r}, expected one of {', '.join(CROPS)}")
    if not 1 <= crop_range <= 2:
        raise ValueError(f"crop_range={crop_range}, expected 1 to 2, in sides of a crop")
    if image_size % tokenizer.downsampling or image_size < tokenizer.downsampling:
        raise ValueError(f"image_size={image_size}, expected a multiple of {tokenizer.downsampling} pixels")
