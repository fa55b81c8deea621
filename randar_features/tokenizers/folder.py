"""A tokenizer on its own in a folder, as `load_tokenizer` reads it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from randar_features.store.files import write_json, written_whole
from randar_features.tokenizers.base import ImageTokenizer

# Of a tokenizer's weights, those that do not decide which tokens an image gets.
NOT_ENCODING = ("decoder.", "post_quant_conv.", "quantize.codebook_used")
# What a config.json says of a tokenizer, a model's among others.
ABOUT_TOKENIZER = ("tokenizer", "image_size", "tokenizer_training", "initial_training")


def write_tokenizer(folder: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write `tokenizer.safetensors` and `config.json`, the content of `about`: "tokenizer", "image_size", …

    Weights are written as given, without LlamaGen's usage history, which nothing reads.
    """
    kept = {name: value.contiguous() for name, value in weights.items() if name != "quantize.codebook_used"}
    with written_whole(folder / "tokenizer.safetensors") as file:
        file.write(save(kept))
    write_json(folder / "config.json", dict(about))


def half_where_exact(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in float16 if that changes none of them, which files from training allow, else as they are."""
    halves = {name: value.half() for name, value in weights.items()}
    exact = all((halves[name].to(value.dtype) == value).all() for name, value in weights.items())
    return halves if exact else dict(weights)


def tokenizer_hash(tokenizer: ImageTokenizer | Mapping[str, Tensor]) -> str:
    """Hash of the encoder's and the codebook's weights, of a tokenizer or its state dict: equal hash, equal tokens."""
    weights = tokenizer.state_dict() if isinstance(tokenizer, ImageTokenizer) else tokenizer
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        if not name.startswith(NOT_ENCODING):
            digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
