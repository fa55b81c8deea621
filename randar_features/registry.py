"""Known models by name, where their files are, and how a file gets here."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open

ASSETS = Path(__file__).parent / "assets"
BUNDLED = ("randar-tiny",)
ALIASES = {"randar-l": "randar-l-llamagen", "randar-xl": "randar-xl-llamagen"}
FOLDER_FILES = {"transformer": "model.safetensors", "tokenizer": "tokenizer.safetensors"}


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face Hub; `key` is where a pickle keeps its state dict."""

    repository: str
    filename: str
    key: str | None = None
    revision: str = "main"

    def __str__(self) -> str:
        return f"{self.repository}/{self.filename}"


@dataclass(frozen=True)
class WeightsFile:
    """A file on this machine; `revision` is the commit it is of, None for no Hub file."""

    path: Path
    key: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class ModelSource:
    """A model before it is loaded: `config` as in a folder's config.json, and its two files."""

    name: str
    config: Mapping[str, Any]
    files: Mapping[str, HubFile | Path]
    classes: list[str] | Literal["imagenet"] | None = None

    def fetch(self, part: str) -> WeightsFile:
        """The file of the transformer's or the tokenizer's weights, downloaded if need be."""
        file = self.files[part]
        return WeightsFile(file) if isinstance(file, Path) else download(file)


@cache
def imagenet_classes() -> list[str]:
    """The names, as timm has them, of ImageNet's 1000 classes, in the order of their indices."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo()
    return [names.index_to_description(index) for index in range(names.num_classes())]


def _published(
    name: str, *, layers: int, heads: int, vocab_size: int, file: str, tokenizer: str, tokenizer_file: HubFile
) -> ModelSource:
    transformer = {
        "type": "randar",
        "num_layers": layers,
        "num_heads": heads,
        "dim": 64 * heads,
        "vocab_size": vocab_size,
        "num_tokens": 256,
        "num_classes": 1000,
    }
    config = {"transformer": transformer, "tokenizer": {"type": tokenizer}, "image_size": 256}
    files: dict[str, HubFile | Path] = {
        "transformer": HubFile("ziqipang/RandAR", file),
        "tokenizer": tokenizer_file,
    }
    return ModelSource(name, config, files, "imagenet")


LLAMAGEN_FILE = HubFile("FoundationVision/LlamaGen", "vq_ds16_c2i.pt", key="model")
MASKGIT_FILE = HubFile("fun-research/TiTok", "maskgit-vqgan-imagenet-f16-256.bin")

PUBLISHED = {
    source.name: source
    for source in (
        _published(
            "randar-l-llamagen",
            layers=24,
            heads=16,
            vocab_size=16384,
            file="randar_0.3b_llamagen_360k_bs_1024_lr_0.0004.safetensors",
            tokenizer="llamagen",
            tokenizer_file=LLAMAGEN_FILE,
        ),
        _published(
            "randar-l-maskgit",
            layers=24,
            heads=16,
            vocab_size=1024,
            file="randar_0.3b_maskgit_360k_bs_1024_lr_0.0004.safetensors",
            tokenizer="maskgit",
            tokenizer_file=MASKGIT_FILE,
        ),
        _published(
            "randar-xl-llamagen",
            layers=36,
            heads=20,
            vocab_size=16384,
            file="randar_0.7b_llamagen_360k_bs_1024_lr_0.0004.safetensors",
            tokenizer="llamagen",
            tokenizer_file=LLAMAGEN_FILE,
        ),
    )
}

# Of the transformers.
PARAMETERS = {
    "randar-l-llamagen": 342_912_000,
    "randar-l-maskgit": 311_454_720,
    "randar-xl-llamagen": 774_700_800,
}


def find_source(name: str | os.PathLike[str]) -> ModelSource:
    """What a registered name, `name@revision`, or a folder stands for.

    A registered name always means that model; write `./name` for a folder of the same name.

    Raises:
        ValueError: it is neither; the message suggests the nearest names.
        FileNotFoundError: it is a path without a folder, or without a config.json.
    """
    text = os.fspath(name)
    base, _, revision = text.partition("@")
    known = ALIASES.get(base, base)
    if isinstance(name, str) and known in PUBLISHED:
        return _at_revision(PUBLISHED[known], revision)
    if isinstance(name, str) and known in BUNDLED:
        return _bundled(known, revision)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return folder_source(folder)
    if isinstance(name, str) and os.sep not in text and "/" not in text and not text.startswith(("~", ".")):
        raise ValueError(_unknown(base))
    what = "is a file" if folder.exists() else "does not exist"
    raise FileNotFoundError(f"the folder {folder} {what}: expected a folder with config.json and weights")


def folder_source(folder: Path, name: str | None = None) -> ModelSource:
    """A folder that training wrote, or a bundled one.

    Raises:
        FileNotFoundError: there is no config.json in it.
        ValueError: config.json is not a JSON object.
    """
    config = folder / "config.json"
    if not config.is_file():
        inside = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(f"there is no config.json in {folder} (it holds {inside}): is it a model's folder?")
    content = _read_json(config)
    if not isinstance(content, dict):
        raise ValueError(f"{config} holds a {type(content).__name__}, expected an object with named entries")
    files: dict[str, HubFile | Path] = {
        "transformer": folder / FOLDER_FILES["transformer"],
        "tokenizer": folder / FOLDER_FILES["tokenizer"],
    }
    return ModelSource(name or str(folder), content, files, _read_classes(folder / "classes.json"))


def download(file: HubFile) -> WeightsFile:
    """The file in the local Hub cache, downloaded if it is not there; the cache and HF_HUB_OFFLINE are the Hub's.

    Raises:
        FileNotFoundError: it cannot be had: offline and not cached, or no such file or revision.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        path = Path(hf_hub_download(file.repository, file.filename, revision=file.revision))
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{file} (revision {file.revision}) is not in the local cache, and the Hugging Face Hub cannot be "
            "reached or HF_HUB_OFFLINE is set. Load it once with a connection; or point HF_HOME to a cache "
            "that has it; or pass a local folder with config.json and the weights"
        ) from error
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"cannot download {file} at revision {file.revision}: {reason}. "
            "Check the revision (a branch, tag or full commit hash), or pass a local folder"
        ) from error
    in_cache = path.parent.parent.name == "snapshots"
    return WeightsFile(path, file.key, path.parent.name if in_cache else file.revision)


def _at_revision(source: ModelSource, revision: str) -> ModelSource:
    file = source.files["transformer"]
    if not revision or isinstance(file, Path):
        return source
    return replace(source, files={**source.files, "transformer": replace(file, revision=revision)})


def _bundled(name: str, revision: str) -> ModelSource:
    if revision:
        raise ValueError(f"{name} comes with the package and has no revisions; got {name}@{revision}")
    folder = ASSETS / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"this installation lacks the weights of {name}, expected in {folder}: "
            "install the package anew, or pass the folder of another model"
        )
    return folder_source(folder, name)


def _unknown(name: str) -> str:
    names = [*BUNDLED, *PUBLISHED, *ALIASES]
    nearest = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(nearest)}?" if nearest else f"Known models: {', '.join(names)}."
    return f"there is no model {name!r}. {hint} The folder of a trained model is accepted too: no such folder here"


def _read_classes(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    names = _read_json(path)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} must be a list of class names")
    return names


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


@dataclass(frozen=True)
class ModelInfo:
    """One line of `list_models`: `parameters` of the transformer (None: not installed), `image_size` in pixels."""

    name: str
    aliases: list[str]
    parameters: int | None
    image_size: int | None
    weights: str


class ModelTable(list[ModelInfo]):
    """A list of `ModelInfo` that prints as a table."""

    def __repr__(self) -> str:
        rows = [("name", "also", "parameters", "pixels", "weights")]
        for model in self:
            size = f"{model.parameters / 1e6:.1f} M" if model.parameters else "-"
            pixels = f"{model.image_size}x{model.image_size}" if model.image_size else "-"
            rows.append((model.name, ", ".join(model.aliases), size, pixels, model.weights))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join(lines)


def list_models() -> ModelTable:
    """All names that `load_model` knows; prints as a table. Reads no weights and needs no network."""
    bundled = [_bundled_info(name) for name in BUNDLED]
    published = [
        ModelInfo(
            name=name,
            aliases=[alias for alias, target in ALIASES.items() if target == name],
            parameters=PARAMETERS[name],
            image_size=source.config["image_size"],
            weights=f"Hugging Face Hub: {source.files['transformer']}",
        )
        for name, source in PUBLISHED.items()
    ]
    return ModelTable(bundled + published)


def _bundled_info(name: str) -> ModelInfo:
    folder = ASSETS / name
    if not folder.is_dir():
        return ModelInfo(name, [], None, None, "bundled, but missing in this installation")
    source = folder_source(folder, name)
    with safe_open(source.fetch("transformer").path, framework="pt") as file:
        shapes = [file.get_slice(tensor).get_shape() for tensor in file.keys()]  # noqa: SIM118 (no mapping)
    return ModelInfo(name, [], sum(map(math.prod, shapes)), source.config["image_size"], "bundled")
