"""A finished model to the Hugging Face Hub, from where `load_model("owner/name")` takes it."""

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from randar_features.hub.load import Model, load_model
from randar_features.hub.registry import FOLDER_FILES, HUB_NAME
from randar_features.store.files import read_object, written_whole
from randar_features.store.records import markdown_text

CARD = "README.md"
WEIGHTS = "| weights |"  # in a card that was written here
UPLOADED = ("config.json", "classes.json", CARD, *FOLDER_FILES.values())


def push_to_hub(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    private: bool | None = None,
    message: str = "Upload model",
    token: str | None = None,
) -> str:
    """Upload a folder that training wrote; returns the address of the repository, which is created if needed.

    The folder is loaded first, so that only a usable model is uploaded. Only the files of the model are uploaded:
    config.json, the weights, classes.json, and README.md, which is written from config.json if it is missing.

    Args:
        folder: `RUN/model`, a checkpoint, or what `randar export` wrote.
        repository: `owner/name`.
        private: whether a new repository is private; None: the owner's default.
        message: message of the commit.
        token: token of the Hub; None: the one that `hf auth login` stored, or HF_TOKEN.

    Raises:
        ValueError: `repository` is not `owner/name`, or the folder's files do not fit each other.
        FileNotFoundError: the folder or a file in it is missing.
        OSError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    card = write_card(folder, repository)
    api = HfApi(token=token)
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=card.parent, allow_patterns=list(UPLOADED), commit_message=message
        )
    except (OSError, ValueError):
        raise
    except Exception as error:  # of the network, whose classes change with the versions of huggingface_hub
        raise ConnectionError(f"cannot upload {folder} to {repository}: {error}; run it again") from error
    return str(address)


def write_card(folder: str | os.PathLike[str], repository: str) -> Path:
    """Load the model in `folder`, and write its README.md if there is none; errors as for `push_to_hub`.

    Warns:
        UserWarning: README.md was written here, for another repository or for other weights.
    """
    match = HUB_NAME.fullmatch(repository)
    if match is None or match["revision"]:
        raise ValueError(f"{repository!r} is no repository of the Hub, expected 'owner/name'")
    folder = Path(folder).expanduser()
    path = folder / CARD
    model = load_model(folder, device="cpu")
    if not path.exists():
        with written_whole(path) as file:
            file.write(model_card(model, read_object(folder / "config.json"), repository).encode())
        return path
    text = path.read_text(encoding="utf-8", errors="replace")
    if WEIGHTS in text and not (repository in text and model.weights_hash in text):
        warnings.warn(
            f"{path} is of another repository or of other weights, not of {repository} with {model.weights_hash}: it "
            "stays as it is; remove it to have it written anew",
            stacklevel=3,
        )
    return path


def model_card(model: Model, config: Mapping[str, Any], repository: str) -> str:
    """A README in Markdown: sizes, how to load the model, and the recipe of its training.

    Args:
        model: from `load_model`.
        config: the content of its config.json.
        repository: where it is to be loaded from.
    """
    parts = [
        "---\nlibrary_name: randar-features\npipeline_tag: image-feature-extraction\n"
        "tags:\n- image-generation\n- autoregressive\n---\n",
        f"# {repository.partition('/')[2]}\n",
        "An autoregressive model of image tokens, for randar-features: bidirectional features, generation, editing.\n",
        _table(_sizes(model, config)),
        "## Use\n",
        _example(model, repository),
    ]
    for title, entry in (("Training", "training"), ("Training of the tokenizer", "tokenizer_training")):
        if isinstance(recipe := config.get(entry), Mapping):
            parts += [f"## {title}\n", _table(dict(_flat(recipe)))]
    return "\n".join(parts)


def _sizes(model: Model, config: Mapping[str, Any]) -> dict[str, Any]:
    sizes = model.transformer.config
    about = {
        "architecture": config["transformer"]["type"],
        "parameters": f"{_millions(model.transformer)} M",
        "layers, heads, width": f"{sizes.num_layers}, {sizes.num_heads}, {sizes.dim}",
        "tokens an image": f"{sizes.num_tokens} ({sizes.grid}×{sizes.grid}) of {sizes.vocab_size} codes",
        "classes": sizes.num_classes,
        "weights": f"`{model.weights_hash}`",
    }
    if model.optional_tokenizer is not None:
        about["image size"] = f"{model.image_size}×{model.image_size}"
        about["tokenizer"] = f"{config['tokenizer']['type']}, {_millions(model.tokenizer)} M parameters"
    return about


def _millions(module: Any) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.1f}"


def _example(model: Model, repository: str) -> str:
    lines = ["import randar_features as rf", "", f'model = rf.load_model("{repository}")']
    if model.optional_tokenizer is not None:
        lines += [
            'features = rf.extract_features("photos/", model=model)',
            "images = model.tokenizer.decode(rf.generate(model.transformer, [0, 1]))",
        ]
    return "\n".join(["```python", *lines, "```\n"])


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, markdown_text(str(value))


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"
