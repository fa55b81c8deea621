"""Image tokens on disk: what training reads instead of pixels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from randar_features.store.manifest import MANIFEST
from randar_features.store.records import Source
from randar_features.store.store import Store
from randar_features.store.writer import StoreWriter, in_time

MAX_VOCAB_SIZE = 1 << 16
SHARD_SIZE = 8192
_CORNERS = ("top left", "top right", "bottom left", "bottom right", "centre")
CROPS = {
    "two": ["centre crop", "mirror image"],
    "ten": [f"{corner} crop{of}" for of in ("", " of the mirror image") for corner in _CORNERS],
}
CROPS_ENTRY = "views"  # of a manifest; what existing stores call them
TOKENS = "tokens"


class _Tokens(Store):
    kind: ClassVar[str] = "tokens"
    made_by: ClassVar[str] = "`randar tokenize`"


class TokenStore:
    """Tokens of several crops of each image that could be read, memory-mapped, and their labels.

    Attributes:
        labels: (n,) int64, −1 where there is none.
        manifest: "tokenizer" (hash), "dtype" (of the tokenizer), "image_size", "views" (names of the crops),
            "vocab_size", "label_names", …
        unreadable: row, path and reason of each image that could not be read, and is left out.

    Args:
        folder: as `randar tokenize` writes it. Every byte of it is checked.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: a shard is missing, torn or changed, or no image could be read; the message names the file and
            the way out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = _Tokens(folder)
        self.manifest: dict[str, Any] = self.store.manifest
        if type(self.manifest.get("vocab_size")) is not int:
            raise ValueError(f"{folder / MANIFEST} does not say how many codes there are: make the tokens anew")
        self.unreadable = self.store.unreadable
        self._rows = self.store.readable_rows()
        self.labels = torch.from_numpy(self.store.labels[self._rows])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def content(self) -> str:
        """A hash of all tokens and labels."""
        return self.store.content

    @property
    def num_crops(self) -> int:
        """Crops of each image, such as its centre crop and the mirror image of that."""
        return self.store.shape(TOKENS)[0]

    @property
    def num_tokens(self) -> int:
        """Tokens N of a crop."""
        return self.store.shape(TOKENS)[1]

    @property
    def vocab_size(self) -> int:
        """Codes of the tokenizer."""
        return self.manifest["vocab_size"]

    @property
    def num_classes(self) -> int:
        """Classes of the labels: those that have names, else one more than the highest label; without labels one."""
        names = self.manifest["label_names"]
        return len(names) if names else max(int(self.labels.max()), 0) + 1

    @property
    def tokenizer(self) -> Path | None:
        """Folder of the tokenizer, which `load_tokenizer` reads; None if it was not kept with the tokens."""
        folder = self.folder.parent / "tokenizer"
        return folder if (folder / "tokenizer.safetensors").exists() else None

    def batch(self, indices: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b, N) int64 of the given crop of each image, and labels (b,).

        IndexError for an image or a crop that is not there.
        """
        numbers = indices.numpy()
        if numbers.size and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise IndexError(
                f"images {numbers.min()} to {numbers.max()} were named, the store holds 0 to {len(self) - 1}"
            )
        tokens = self.store.take(TOKENS, self._rows[numbers], part=crops.numpy(), dtype=np.int64)
        return torch.from_numpy(tokens), self.labels[indices]


def fill_token_store(
    source: Source, folder: Path, settings: Mapping[str, Any], *, shard_size: int = SHARD_SIZE, **writing: Any
) -> TokenStore | None:
    """Write the tokens (b, K, N) uint16 that `source` gives, or go on where a killed run ended.

    Args:
        source: of the column "tokens".
        folder: of the store.
        settings: what decides the tokens, as JSON: "views", "crop_range", "image_size", "tokenizer", "dtype" and
            "vocab_size". A store of others is refused.
        shard_size: images a shard.
        writing: further fields of `store.writer.StoreWriter`, such as `append`, `rank`, `world_size`, `deadline`.

    The store, or None while there are shards to make, by others or after the deadline; where no image could be read
    ValueError, and no store is left. Else it raises what `StoreWriter.fill` raises.
    """
    if not in_time(writing.get("deadline")) and not folder.exists():
        return None
    writer = StoreWriter(folder=folder, kind=_Tokens, content=settings, shard_rows=shard_size, **writing)
    if not writer.fill(source):
        return None
    try:
        return TokenStore(folder)
    except ValueError:
        writer.clear()
        raise
