"""Image tokens on disk: what training reads instead of pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randar_features.data.token_shards import LABELS, TOKENS, check_sum
from randar_features.store.files import read_json
from randar_features.tokenizers.base import ImageTokenizer

# Of a tokenizer's weights, those that do not decide which tokens an image gets.
NOT_ENCODING = ("decoder.", "post_quant_conv.", "quantize.codebook_used")


class TokenStore:
    """Tokens (n, views, N) uint16 of several views of each image, in memory-mapped shards, and labels (n,).

    Attributes:
        labels: (n,) int64, −1 where there is none.
        manifest: what `token_shards.write_manifest` wrote: "tokenizer" (hash), "image_size", "views",
            "label_names", "shards", "unreadable_images", …

    Args:
        folder: with a manifest.json, as scripts/tokenize_images.py writes it.
        verify: compare the check sums of all shards, which reads each file once.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: a shard is missing, torn or changed; the message names the file and the way out.
    """

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        path = folder / "manifest.json"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: make the tokens with scripts/tokenize_images.py")
        self.folder = folder
        self.manifest: dict[str, Any] = read_json(path)
        shards = self.manifest["shards"]
        self._shards = [_load(folder, shard, TOKENS, self._shape[1:], verify) for shard in shards]
        labels = [np.array(_load(folder, shard, LABELS, (), verify)) for shard in shards]
        self.labels = torch.from_numpy(np.concatenate(labels))
        self._ends = np.cumsum([len(shard) for shard in self._shards])
        if len(self.labels) != len(self):
            raise ValueError(f"{path} is damaged: it counts {len(self)} images, but its shards {len(self.labels)}")

    @property
    def _shape(self) -> tuple[int, int, int]:
        count, views, num_tokens = self.manifest["shape"]
        return count, views, num_tokens

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def num_views(self) -> int:
        """Views of each image, such as its centre crop and the mirror image of that."""
        return self._shape[1]

    @property
    def num_tokens(self) -> int:
        """Tokens N of a view."""
        return self._shape[2]

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

    def batch(self, indices: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b, N) int64 of the given view of each image, and labels (b,).

        IndexError for an image or a view that is not there.
        """
        rows = indices.numpy()
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"images {rows.min()} to {rows.max()} asked for, the store holds 0 to {len(self) - 1}")
        shards = np.searchsorted(self._ends, rows, side="right")
        tokens = np.empty((len(rows), self.num_tokens), dtype=np.int64)
        for number in np.unique(shards):
            here = shards == number
            first = self._ends[number] - len(self._shards[number])
            tokens[here] = self._shards[number][rows[here] - first, views.numpy()[here]]
        return torch.from_numpy(tokens), self.labels[indices]


def _load(folder: Path, shard: Mapping[str, Any], kind: str, shape: tuple[int, ...], verify: bool) -> np.ndarray:
    """An array (count, *shape) of a shard, memory-mapped; ValueError unless it is what the manifest says."""
    path = folder / f"{shard['name']}.{kind}"
    expected = (shard["count"], *shape)
    try:
        array = np.load(path, mmap_mode="r" if shard["count"] else None)
        reason = None if array.shape == expected else f"it holds {array.shape}, the manifest says {expected}"
        if verify and check_sum(path) != shard["check_sums"][kind]:
            reason = "its check sum is wrong"
    except (OSError, ValueError, EOFError) as error:
        reason = str(error)
    if reason:
        raise ValueError(
            f"{path} is missing, torn or changed ({reason}): run scripts/tokenize_images.py again as it was run "
            "for this folder, which makes the damaged shards anew and keeps the others"
        )
    return array


def tokenizer_hash(tokenizer: ImageTokenizer | Mapping[str, Tensor]) -> str:
    """Hash of the encoder's and the codebook's weights, of a tokenizer or its state dict: equal hash, equal tokens."""
    weights = tokenizer.state_dict() if isinstance(tokenizer, ImageTokenizer) else tokenizer
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        if not name.startswith(NOT_ENCODING):
            digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
