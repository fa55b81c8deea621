"""Small models in the published formats, and a Hub cache that holds them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file

from randar_features.hub.registry import HubFile, ModelSource
from randar_features.hub.weights import USUAL_KEY
from randar_features.models import ARCHITECTURES, ImageTransformer
from randar_features.tokenizers import ImageTokenizer, LlamaGenTokenizer, MaskGITTokenizer

VOCAB_SIZE = 40
NUM_CLASSES = 3
IMAGE_SIZE = 16
TRANSFORMER: dict[str, Any] = {
    "num_layers": 3,
    "num_heads": 2,
    "dim": 32,
    "vocab_size": VOCAB_SIZE,
    "num_tokens": 16,
    "num_classes": NUM_CLASSES,
    "ffn_multiple_of": 16,
}
TOKENIZERS: dict[str, dict[str, Any]] = {
    "llamagen": {
        "channels": 32,
        "channel_multipliers": [1, 1, 1],
        "blocks_per_level": 1,
        "latent_channels": 16,
        "vocab_size": VOCAB_SIZE,
    },
    "maskgit": {
        "channels": 32,
        "channel_multipliers": [1, 1, 1],
        "blocks_per_level": 1,
        "vocab_size": VOCAB_SIZE,
        "code_dim": 16,
    },
}


def small_sizes(architecture: str = "randar") -> dict[str, Any]:
    """Sizes of a small transformer; ARPG's layers are even in number."""
    return TRANSFORMER | ({"num_layers": 4} if architecture == "arpg" else {})


def small_transformer(seed: int = 0, architecture: str = "randar") -> ImageTransformer:
    """A transformer whose output layer is not zero, as it is in a fresh one."""
    build, sizes = ARCHITECTURES[architecture]
    model = build(sizes(**small_sizes(architecture))).eval()
    generator = torch.Generator().manual_seed(seed)
    model.initialize(generator)
    torch.nn.init.normal_(model.output_layer.get_parameter("weight"), std=0.5, generator=generator)
    return model


def small_tokenizer(kind: str = "llamagen", seed: int = 0) -> ImageTokenizer:
    torch.manual_seed(seed)
    build = {"llamagen": LlamaGenTokenizer, "maskgit": MaskGITTokenizer}[kind]
    return build(**TOKENIZERS[kind]).eval()


@cache
def transformer_file(architecture: str) -> bytes:
    """The small transformer's weights as safetensors; to build it takes most of the time of writing it."""
    return save(small_transformer(architecture=architecture).state_dict())


@cache
def tokenizer_file(kind: str) -> bytes:
    """The small tokenizer's weights as safetensors."""
    return save(small_tokenizer(kind).state_dict())


def small_config(kind: str = "llamagen", architecture: str = "randar") -> dict[str, Any]:
    return {
        "transformer": {"type": architecture, **small_sizes(architecture)},
        "tokenizer": {"type": kind, **TOKENIZERS[kind]},
        "image_size": IMAGE_SIZE,
    }


def write_folder(folder: Path, kind: str = "llamagen", architecture: str = "randar", **entries: Any) -> Path:
    """A folder as training writes it; `entries` replace those of config.json, None leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(transformer_file(architecture))
    (folder / "tokenizer.safetensors").write_bytes(tokenizer_file(kind))
    config = {name: value for name, value in (small_config(kind, architecture) | entries).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def small_published(source: ModelSource) -> ModelSource:
    """A published model's files and names with the sizes of the small models."""
    return replace(
        source, config=small_config(source.config["tokenizer"]["type"], source.config["transformer"]["type"])
    )


def write_published(folder: Path, source: ModelSource) -> None:
    """A published model's two files, under their own names and in their own formats."""
    folder.mkdir(parents=True, exist_ok=True)
    transformer, tokenizer = source.files["transformer"], source.files["tokenizer"]
    assert isinstance(transformer, HubFile) and isinstance(tokenizer, HubFile)
    model = small_transformer(architecture=source.config["transformer"]["type"])
    write_weights(folder, transformer, model)
    write_weights(folder, tokenizer, small_tokenizer(source.config["tokenizer"]["type"]))


def write_weights(folder: Path, file: HubFile, module: torch.nn.Module) -> None:
    """A module's weights under a file's name, in its format; where that is not known, the plain state dict."""
    state = module.state_dict()
    if file.filename.endswith(".safetensors"):
        save_file(state, folder / file.filename)
    else:
        torch.save(state if file.key in (None, USUAL_KEY) else {file.key: state}, folder / file.filename)


def put_in_cache(cache: Path, repository: str, commit: str, file: Path, reference: str = "main") -> Path:
    """Lay `file` into a Hub cache as huggingface_hub does: a blob named by its hash, and a link to it."""
    home = cache / f"models--{repository.replace('/', '--')}"
    for name in ("refs", "blobs", f"snapshots/{commit}"):
        (home / name).mkdir(parents=True, exist_ok=True)
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    (home / "blobs" / digest).write_bytes(content)
    (home / "refs" / reference).write_text(commit)
    link = home / "snapshots" / commit / file.name
    link.symlink_to(Path("../../blobs") / digest)
    return link
