"""Image tokens on disk: what training reads instead of pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randar_features.data.images import OK, ImageSource, open_images
from randar_features.data.readable import check_made_of, readable_batches
from randar_features.files import read_json, write_json, written_whole
from randar_features.tokenizers.base import ImageTokenizer

# Of a tokenizer's weights, those that do not decide which tokens an image gets.
NOT_ENCODING = ("decoder.", "post_quant_conv.", "quantize.codebook_used")
MAX_VOCAB_SIZE = 1 << 16


class TokenStore:
    """Tokens of several views of each image: `tokens` (n, views, N) uint16, `labels` (n,), `manifest`.

    Raises FileNotFoundError without a manifest, and ValueError if a file is torn, or the files do not hold
    what the manifest says.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "manifest.json"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: make the tokens with scripts/tokenize_images.py")
        self.folder = folder
        self.manifest: dict[str, Any] = read_json(path)
        shape = tuple(self.manifest["shape"])
        self.tokens = _load_array(folder / "tokens.npy", mmap_mode="r")
        self.labels = torch.from_numpy(_load_array(folder / "labels.npy"))
        if self.tokens.shape != shape or len(self.labels) != shape[0]:
            raise ValueError(
                f"{folder}: the manifest says {shape} tokens, the files hold {self.tokens.shape} tokens and "
                f"{len(self.labels)} labels; remove that folder and make them again"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_views(self) -> int:
        """Views of each image, such as its centre crop and the mirror image of that."""
        return self.tokens.shape[1]

    @property
    def num_tokens(self) -> int:
        """Tokens N of a view."""
        return self.tokens.shape[2]

    @property
    def vocab_size(self) -> int:
        """Codes of the tokenizer."""
        return self.manifest["vocab_size"]

    @property
    def num_classes(self) -> int:
        """Classes of the labels: those named in the manifest, else one more than the highest label."""
        names = self.manifest["label_names"]
        return len(names) if names else int(self.labels.max()) + 1

    @property
    def tokenizer(self) -> Path | None:
        """Folder of the tokenizer, which `load_tokenizer` reads; None if it was not kept with the tokens."""
        folder = self.folder.parent / "tokenizer"
        return folder if (folder / "tokenizer.safetensors").exists() else None

    def batch(self, indices: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b, N) int64 of the given view of each image, and labels (b,)."""
        tokens = self.tokens[indices.numpy(), views.numpy()].astype(np.int64)
        return torch.from_numpy(tokens), self.labels[indices]


def _load_array(path: Path, mmap_mode: Any = None) -> np.ndarray:
    try:
        return np.load(path, mmap_mode=mmap_mode)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is missing or torn ({error}): remove {path.parent} and make the tokens again "
            "with scripts/tokenize_images.py"
        ) from error


def tokenizer_hash(tokenizer: ImageTokenizer | Mapping[str, Tensor]) -> str:
    """Hash of the encoder's and the codebook's weights, of a tokenizer or its state dict: equal hash, equal tokens."""
    weights = tokenizer.state_dict() if isinstance(tokenizer, ImageTokenizer) else tokenizer
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        if not name.startswith(NOT_ENCODING):
            digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def tokenize(
    tokenizer: ImageTokenizer, images: Any, folder: Path, *, image_size: int, split: str | None = None
) -> TokenStore:
    """Tokens of the ADM centre crop of each image and of its mirror image, written to `folder`.

    `images` is anything that `open_images` takes; unreadable ones are left out and named in the manifest,
    which is written last. A finished store of the same tokenizer and images is given back as it is.

    Raises:
        ValueError: `folder` holds tokens of another tokenizer or of other images, no image can be read, or
            the tokenizer has more codes than 16 bits can tell apart.
    """
    if tokenizer.vocab_size > MAX_VOCAB_SIZE:
        raise ValueError(f"{tokenizer.vocab_size} codes do not fit 16 bits: at most {MAX_VOCAB_SIZE}")
    source = open_images(images, split=split)
    if (folder / "manifest.json").exists():
        store = TokenStore(folder)
        _check_same(store, tokenizer, source, image_size)
        return store
    tokens: list[np.ndarray] = []
    labels: list[int] = []
    unreadable: list[dict[str, Any]] = []
    for pixels, batch_labels in readable_batches(
        source, image_size=image_size, batch_size=128, description=f"tokenizing {split or ''}", unreadable=unreadable
    ):
        tokens.append(_encode_views(tokenizer, pixels))
        labels += batch_labels
    manifest = {
        "views": ["centre crop", "mirror image"],
        "image_size": image_size,
        "tokenizer": tokenizer_hash(tokenizer),
        "vocab_size": tokenizer.vocab_size,
        "label_names": source.label_names,
        "unreadable": len(unreadable),
        "unreadable_images": unreadable,
    }
    _write(folder, np.concatenate(tokens), np.asarray(labels, dtype=np.int64), manifest)
    return TokenStore(folder)


def _write(folder: Path, tokens: np.ndarray, labels: np.ndarray, manifest: dict[str, Any]) -> None:
    for name, array in (("tokens.npy", tokens), ("labels.npy", labels)):
        with written_whole(folder / name) as file:
            np.save(file, array)
    write_json(folder / "manifest.json", {"shape": list(tokens.shape)} | manifest)


def _encode_views(tokenizer: ImageTokenizer, pixels: Tensor) -> np.ndarray:
    """Tokens (b, 2, N) uint16 of images (b, 3, S, S) and of their mirror images."""
    pixels = pixels.to(next(tokenizer.parameters()).device)
    views = [tokenizer.encode(view).cpu() for view in (pixels, pixels.flip(3))]
    return torch.stack(views, dim=1).numpy().astype(np.uint16)


def _check_same(store: TokenStore, tokenizer: ImageTokenizer, source: ImageSource, image_size: int) -> None:
    """ValueError unless `store` is what tokenizing `source` would give."""
    made_by, given = store.manifest["tokenizer"], tokenizer_hash(tokenizer)
    if made_by != given:
        raise ValueError(
            f"{store.folder} holds tokens made by tokenizer {made_by}, but the one given is {given}: "
            "give another folder, or remove that one to make them again"
        )
    check_made_of(store.manifest, source, count=len(store), image_size=image_size, folder=store.folder)
    batch = next(source.batches(image_size, 8))
    first = batch.pixels[[status == OK for status in batch.status]]
    agreement = (_encode_views(tokenizer, first) == store.tokens[: len(first)]).mean() if len(first) else 1.0
    # Another machine may round a few ties otherwise; other images agree by chance in a few tokens only.
    if agreement < 0.5:
        raise ValueError(
            f"{store.folder} was made of other images: the tokens of the first {len(first)} given differ. "
            "Give another folder, or remove that one to make it again"
        )
