"""Known models by name, where their files are, and how a file gets here.

Published files are taken from the branch "main" of their repositories, at the commit that is current when they
are first downloaded; from then on the cached ones are used. A commit to pin them to cannot be looked up
without a connection, so none is written here: `name@revision` pins the transformer, and a loaded `Model`
names the commits it came from.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open

from randar_features.files import read_json

ASSETS = Path(__file__).parent / "assets"
BUNDLED = ("randar-tiny",)
ALIASES = {"randar-l": "randar-l-llamagen", "randar-xl": "randar-xl-llamagen"}
FOLDER_FILES = {"transformer": "model.safetensors", "tokenizer": "tokenizer.safetensors"}
HUB_NAME = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>.+))?")


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face Hub.

    `key` is where a pickle keeps its state dict; `revision` is a branch, a tag or a commit. "main" is whatever
    it is at the first download: the published commits are not known here.
    """

    repository: str
    filename: str
    key: str | None = None
    revision: str = "main"

    def __str__(self) -> str:
        """Repository and file name."""
        return f"{self.repository}/{self.filename}"


@dataclass(frozen=True)
class WeightsFile:
    """A file on this machine; `revision` is the commit that the Hub's cache has it from, else None."""

    path: Path
    key: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class ModelSource:
    """A model before it is loaded.

    Attributes:
        name: as shown to the user.
        config: as in a folder's config.json.
        files: of the weights, by "transformer" and "tokenizer".
        classes: a name each class, "imagenet" for ImageNet's, or None.
    """

    name: str
    config: Mapping[str, Any]
    files: Mapping[str, HubFile | WeightsFile]
    classes: list[str] | Literal["imagenet"] | None = None

    def fetch(self, part: str) -> WeightsFile:
        """The file of the transformer's or the tokenizer's weights, downloaded if need be."""
        file = self.files[part]
        return download(file) if isinstance(file, HubFile) else file


@cache
def imagenet_classes() -> list[str]:
    """The names, as timm has them, of ImageNet's 1000 classes, in the order of their indices."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo()
    return [names.index_to_description(index) for index in range(names.num_classes())]


LLAMAGEN_FILE = HubFile("FoundationVision/LlamaGen", "vq_ds16_c2i.pt", key="model")
MASKGIT_FILE = HubFile("fun-research/TiTok", "maskgit-vqgan-imagenet-f16-256.bin")


def _published(
    name: str, file: str, tokenizer: str, tokenizer_file: HubFile, *, layers: int, heads: int, vocab_size: int
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
    files = {"transformer": HubFile("ziqipang/RandAR", file), "tokenizer": tokenizer_file}
    return ModelSource(name, config, files, "imagenet")


PUBLISHED = {
    "randar-l-llamagen": _published(
        "randar-l-llamagen",
        "randar_0.3b_llamagen_360k_bs_1024_lr_0.0004.safetensors",
        "llamagen",
        LLAMAGEN_FILE,
        layers=24,
        heads=16,
        vocab_size=16384,
    ),
    "randar-l-maskgit": _published(
        "randar-l-maskgit",
        "randar_0.3b_maskgit_360k_bs_1024_lr_0.0004.safetensors",
        "maskgit",
        MASKGIT_FILE,
        layers=24,
        heads=16,
        vocab_size=1024,
    ),
    "randar-xl-llamagen": _published(
        "randar-xl-llamagen",
        "randar_0.7b_llamagen_360k_bs_1024_lr_0.0004.safetensors",
        "llamagen",
        LLAMAGEN_FILE,
        layers=36,
        heads=20,
        vocab_size=16384,
    ),
}
# Of the published transformers, for `list_models`: counting would mean building them.
PARAMETERS = {
    "randar-l-llamagen": 342_912_000,
    "randar-l-maskgit": 311_454_720,
    "randar-xl-llamagen": 774_700_800,
}


def find_source(name: str | os.PathLike[str]) -> ModelSource:
    """What a registered name, a folder, or a repository of the Hugging Face Hub, `owner/name`, stands for.

    A registered name always means that model; write `./name` for a folder of the same name. A folder goes before
    a repository. `@revision` behind the name of a model or repository is a branch, a tag or a commit.

    Raises:
        TypeError: it is neither a string nor a path.
        ValueError: it is no name and no folder; the message suggests the nearest names.
        FileNotFoundError: it is a path without a folder, or a folder or repository without a model.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(
            f"{name!r} is no model: expected a name from list_models(), such as 'randar-tiny', or the path of a folder"
        )
    text = os.fspath(name)
    if isinstance(name, str):
        base, at, revision = text.partition("@")
        known = ALIASES.get(base, base)
        if known in PUBLISHED:
            return _at_revision(PUBLISHED[known], revision) if at else PUBLISHED[known]
        if known in BUNDLED:
            return _bundled(text)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return folder_source(folder)
    if isinstance(name, str) and "/" not in text and os.sep not in text and not text.startswith(("~", ".")):
        raise ValueError(_unknown(text))
    if isinstance(name, str) and not folder.exists() and (match := HUB_NAME.fullmatch(text)):
        return hub_source(match["repository"], match["revision"] or "main")
    what = "is a file" if folder.exists() else "does not exist"
    raise FileNotFoundError(f"{folder} {what}: expected a folder with config.json and weights")


def hub_source(repository: str, revision: str = "main") -> ModelSource:
    """A repository of the Hugging Face Hub with the files of a folder that training wrote (see `push_to_hub`).

    All files are taken from the commit that config.json came from.

    Raises:
        FileNotFoundError: there is no such repository or revision, it holds no config.json, or it is out of reach.
        ValueError: config.json or classes.json cannot be used.
    """
    name = repository if revision == "main" else f"{repository}@{revision}"
    try:
        config = download(HubFile(repository, "config.json", revision=revision))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{name} does not exist: expected a folder with config.json and weights, or a repository of the "
            f"Hugging Face Hub with the same files ({error})"
        ) from error
    commit = config.revision or revision
    files = {part: HubFile(repository, file, revision=commit) for part, file in FOLDER_FILES.items()}
    try:
        classes = _read_classes(download(HubFile(repository, "classes.json", revision=commit)).path)
    except FileNotFoundError:
        classes = None  # not every model's classes have names
    return ModelSource(name, _read_config(config.path), files, classes)


def folder_source(folder: Path, name: str | None = None) -> ModelSource:
    """A folder that training wrote, a bundled one, or one into which published files were downloaded by hand.

    Raises:
        FileNotFoundError: there is neither a config.json nor a published transformer in it.
        ValueError: config.json or classes.json cannot be used.
    """
    path = folder / "config.json"
    if not path.is_file():
        return _published_in(folder)
    files = {part: WeightsFile(folder / file) for part, file in FOLDER_FILES.items()}
    return ModelSource(name or str(folder), _read_config(path), files, _read_classes(folder / "classes.json"))


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, expected an object with named entries")
    return config


def _published_in(folder: Path) -> ModelSource:
    """The one published model whose transformer lies in `folder` under its own file name."""
    inside = {path.name for path in folder.iterdir()}
    found = [source for source in PUBLISHED.values() if _filenames(source)["transformer"] in inside]
    if len(found) != 1:
        held = ", ".join(sorted(inside)[:8]) or "nothing"
        raise FileNotFoundError(
            f"{folder} is no model: expected config.json with weights, or the files of one published model "
            f"under their own names; it holds {held}"
        )
    files = {
        part: WeightsFile(folder / file.filename, file.key)
        for part, file in found[0].files.items()
        if isinstance(file, HubFile)
    }
    return replace(found[0], files=files)


def _filenames(source: ModelSource) -> dict[str, str]:
    return {part: file.filename for part, file in source.files.items() if isinstance(file, HubFile)}


def download(file: HubFile) -> WeightsFile:
    """The file in the Hub's local cache, downloaded into it if it is not there.

    What is cached is used without asking the Hub, so weights never change unasked. Where the cache is, and
    whether the network may be used, is up to HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE, as everywhere.

    Raises:
        FileNotFoundError: offline and not cached, or the Hub has no such file or revision.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    get = partial(hf_hub_download, file.repository, file.filename, revision=file.revision)
    try:
        return _cached(file, get(local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        return _cached(file, get())
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{file} (revision {file.revision}) is not in the local cache, and the Hugging Face Hub cannot "
            "be reached, or HF_HUB_OFFLINE is set. Load it once with a connection, or set HF_HOME to a cache "
            "that has it, or pass a local folder with the model's files in it"
        ) from error
    except (EntryNotFoundError, HfHubHTTPError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FileNotFoundError(
            f"the Hugging Face Hub does not give {file} at revision {file.revision}: {reason}. "
            "A revision is a branch, a tag or a full commit hash"
        ) from error


def _cached(file: HubFile, path: str) -> WeightsFile:
    """`path` with its commit, which is the name of its folder in the Hub's cache."""
    folder = Path(path).parent
    commit = folder.name if folder.parent.name == "snapshots" else file.revision
    return WeightsFile(Path(path), file.key, commit)


def _at_revision(source: ModelSource, revision: str) -> ModelSource:
    if not revision:
        raise ValueError(f"{source.name}@ lacks a revision: a branch, a tag or a commit hash of the Hub")
    files = dict(source.files)
    if isinstance(file := files["transformer"], HubFile):
        files["transformer"] = replace(file, revision=revision)
    return replace(source, files=files)


def _bundled(name: str) -> ModelSource:
    base, at, revision = name.partition("@")
    if at:
        raise ValueError(f"{base} comes with the package and has no revisions, got {revision!r}")
    folder = ASSETS / base
    if not folder.is_dir():
        raise FileNotFoundError(
            f"this installation lacks the weights of {base}, expected in {folder}: "
            "install the package anew, or pass the folder of another model"
        )
    return folder_source(folder, base)


def _unknown(name: str) -> str:
    names = [*BUNDLED, *PUBLISHED, *ALIASES]
    nearest = difflib.get_close_matches(name.partition("@")[0].lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"known are {', '.join(names)}."
    return f"there is no model {name!r}: {hint} (The folder of a model will do too, but none has this name.)"


def _read_classes(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    names = read_json(path)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} must be a list of class names")
    return names


@dataclass(frozen=True)
class ModelInfo:
    """A model that `load_model` knows.

    Attributes:
        name: what `load_model` takes.
        aliases: shorter names for the same.
        parameters: of the transformer; None for a bundled model that is missing here.
        image_size: pixels a side; None as above.
        weights: where they come from.
    """

    name: str
    aliases: list[str]
    parameters: int | None
    image_size: int | None
    weights: str


class ModelTable(list[ModelInfo]):
    """A list of `ModelInfo` that prints as a table."""

    def __repr__(self) -> str:
        """A line each model, in columns."""
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
