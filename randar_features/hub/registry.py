"""From a name, a folder or a repository to a configuration and files of weights."""

import difflib
import math
import os
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from safetensors import safe_open

from randar_features.hub.files import HubFile, WeightsFile, download
from randar_features.hub.published import ALIASES, PUBLISHED, ModelSource
from randar_features.store.files import read_json, read_object

ASSETS = Path(__file__).parents[1] / "assets"
BUNDLED = ("randar-tiny", "randar-tiny-aligned")
FOLDER_FILES = {"transformer": "model.safetensors", "tokenizer": "tokenizer.safetensors"}
MODEL_FOLDER = "model"  # in the folder of a run: the model that training wrote
HUB_NAME = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>.+))?")


@cache
def imagenet_classes() -> list[str]:
    """The names, as timm has them, of ImageNet's 1000 classes, in the order of their indices."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo()
    return [names.index_to_description(index) for index in range(names.num_classes())]


def find_source(name: str | os.PathLike[str]) -> ModelSource:
    """What a registered name, a folder, or a repository of the Hugging Face Hub, `owner/name`, stands for.

    A registered name always means that model; write `./name` for a folder of the same name. A folder goes before
    a repository. `@revision` after the name of a model or repository is a branch, a tag or a commit.

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
    if not text.strip():
        raise ValueError("the model's name is empty: expected one of list_models(), such as 'randar-tiny', or a folder")
    if "://" in text:
        raise ValueError(
            f"{text} is an address: download its files into a folder and give its path, or give owner/name of the Hub"
        )
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
        names = [*BUNDLED, *PUBLISHED, *ALIASES]
        nearest = difflib.get_close_matches(text.partition("@")[0].lower(), names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"known are {', '.join(names)}."
        also = "(The folder of a model will do too, but none has this name.)"
        raise ValueError(f"there is no model {text!r}: {hint} {also}")
    if isinstance(name, str) and not folder.exists() and (match := HUB_NAME.fullmatch(text)):
        return hub_source(match["repository"], match["revision"] or "main")
    what = "is a file" if folder.exists() else "does not exist"
    unpack = "; unpack it first" if folder.suffix in (".zip", ".tar", ".gz", ".tgz") else ""
    raise FileNotFoundError(f"{folder} {what}: expected a folder with config.json and weights{unpack}")


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
        classes = read_classes(download(HubFile(repository, "classes.json", revision=commit)).path)
    except FileNotFoundError:
        classes = None  # not every model's classes have names
    return ModelSource(name, read_object(config.path), files, classes, of_user=True)


def folder_source(folder: Path, name: str | None = None) -> ModelSource:
    """A folder that training wrote, a bundled one, or one into which published files were downloaded by hand.

    Of the folder of a run it is the model in it.

    Raises:
        FileNotFoundError: there is neither a config.json nor a published transformer in it.
        ValueError: config.json or classes.json cannot be used.
    """
    path = folder / "config.json"
    if not path.is_file() and (folder / MODEL_FOLDER / "config.json").is_file():
        return folder_source(folder / MODEL_FOLDER, name)
    if not path.is_file():
        return _published_in(folder)
    files = {part: WeightsFile(folder / file) for part, file in FOLDER_FILES.items()}
    names = read_classes(folder / "classes.json") if (folder / "classes.json").exists() else None
    return ModelSource(name or str(folder), read_object(path), files, names, of_user=name is None)


def _published_in(folder: Path) -> ModelSource:
    """The one published model whose transformer lies in `folder` under its own file name."""
    inside = {path.name for path in folder.iterdir()}
    found = [source for source in PUBLISHED.values() if getattr(source.files["transformer"], "filename", "") in inside]
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


def read_classes(path: Path, count: int | None = None) -> list[str]:
    """Names of classes out of a JSON file: a list in the order of the classes, or ``{name: number}``.

    count: of the classes; None: any.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, holds something else, or another number of names; the message names the file.
    """
    names = read_json(path)
    if isinstance(names, dict) and not any(isinstance(number, bool) for number in names.values()):
        by_number = {number: name for name, number in names.items() if isinstance(number, int)}
        if sorted(by_number) != list(range(len(names))):
            raise ValueError(f"{path}: expected {{name: number}} with each of the numbers 0 to {len(names) - 1} once")
        names = [by_number[number] for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f'{path}: expected a list of class names, ["cat", "dog"], or {{"cat": 0, "dog": 1}}')
    if count is not None and len(names) != count:
        raise ValueError(f"{path} holds {len(names)} class names, expected {count}, one for each class")
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
    """A list of `ModelInfo` that prints as a table, and contains a model by any of its names."""

    def __contains__(self, wanted: object) -> bool:
        """Whether it lists this `ModelInfo`, or a model of this name."""
        return super().__contains__(wanted) or any(wanted in (model.name, *model.aliases) for model in self)

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
            parameters=source.parameters,
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
