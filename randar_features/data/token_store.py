"""Image tokens on disk: what training reads instead of pixels."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from randar_features.data.images import OK, open_images
from randar_features.tokenizers.base import ImageTokenizer


class TokenStore:
    """Tokens of several views of each image: `tokens` (n, views, N) uint16, `labels` (n,), `manifest`.

    Raises FileNotFoundError without a manifest, and ValueError if the files do not hold what it says.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "manifest.json"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: make the tokens with scripts/tokenize_images.py")
        self.manifest: dict[str, Any] = json.loads(path.read_text())
        shape = tuple(self.manifest["shape"])
        self.tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        self.labels = torch.from_numpy(np.load(folder / "labels.npy"))
        if self.tokens.shape != shape or len(self.labels) != shape[0]:
            raise ValueError(
                f"{folder}: the manifest says {shape} tokens, the files hold {self.tokens.shape} tokens and "
                f"{len(self.labels)} labels; make them again"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b, N) int64 of the given view of each image, and labels (b,)."""
        tokens = self.tokens[indices.numpy(), views.numpy()].astype(np.int64)
        return torch.from_numpy(tokens), self.labels[indices]


def tokenizer_hash(tokenizer: ImageTokenizer) -> str:
    """Hash of the encoder's and the codebook's weights: equal hashes give equal tokens."""
    digest = hashlib.sha256()
    for name, value in sorted(tokenizer.state_dict().items()):
        if not name.startswith(("decoder.", "post_quant_conv.", "quantize.codebook_used")):
            digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def tokenize(
    tokenizer: ImageTokenizer, images: Any, folder: Path, *, image_size: int, split: str | None = None
) -> TokenStore:
    """Tokens of the ADM centre crop of each image and of its mirror image, written to `folder`.

    `images` is anything that `open_images` takes; unreadable ones are left out and counted in the manifest.
    """
    source = open_images(images, split=split)
    tokens, labels, failed = [], [], 0
    device = next(tokenizer.parameters()).device
    with tqdm(total=source.length, desc=f"tokenizing {split or ''}", unit="image") as bar:
        for batch in source.batches(image_size, 128):
            good = [row for row, status in enumerate(batch.status) if status == OK]
            failed += len(batch.status) - len(good)
            pixels = batch.pixels[good].to(device)
            views = [tokenizer.encode(view).cpu() for view in (pixels, pixels.flip(3))]
            tokens.append(torch.stack(views, dim=1).numpy().astype(np.uint16))
            labels += [-1 if (label := batch.labels[row]) is None else label for row in good]
            bar.update(len(batch.status))
    folder.mkdir(parents=True, exist_ok=True)
    array = np.concatenate(tokens)
    np.save(folder / "tokens.npy", array)
    np.save(folder / "labels.npy", np.asarray(labels, dtype=np.int64))
    manifest = {
        "shape": list(array.shape),
        "views": ["centre crop", "mirror image"],
        "image_size": image_size,
        "tokenizer": tokenizer_hash(tokenizer),
        "vocab_size": tokenizer.vocab_size,
        "label_names": source.label_names,
        "unreadable": failed,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return TokenStore(folder)
