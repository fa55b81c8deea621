"""One folder for `load_model` out of a tokenizer's run and a generator's run."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from randar_features.hub.weights import read_state_dict
from randar_features.store.files import read_object, write_json, written_whole
from randar_features.tokenizers.folder import ABOUT_TOKENIZER, tokenizer_hash, write_tokenizer
from randar_features.training.loop import UNFINISHED_MARK
from randar_features.training.tokenizer.recipe import half_but_tokens

WORDNET_ID = re.compile(r"(n\d{8})(?:[\s_,:-]+(.+))?")


def assemble_model(
    *,
    tokenizer: Path,
    transformer: Path,
    manifest: Mapping[str, Any],
    out: Path,
    class_names: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    steps: int | None = None,
) -> None:
    """Write config.json, model.safetensors, tokenizer.safetensors and classes.json to `out`.

    Weights are in float16. A weight of the tokenizer stays as it is where float16 would change tokens.

    Args:
        tokenizer: the folder `model` of a tokenizer's run.
        transformer: the folder `model` of a generator's run.
        manifest: of the tokens that the generator was trained on.
        out: the folder to write, as `load_model` reads it; other files in it stay.
        class_names: a name each class; None: the manifest's, if it has any.
        layers: blocks recommended for features, counted from 0; None: `load_model`'s choice.
        steps: recommended decoding steps; None: `load_model`'s choice.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the tokens or the generator say that they are of another tokenizer, names, layers or steps do
            not fit, or a training was stopped before its end.
    """
    for folder in (tokenizer, transformer):
        check_finished(folder)
    tokenizer_weights = read_state_dict(tokenizer / "tokenizer.safetensors")
    tokenizer_config = read_object(tokenizer / "config.json")
    config = read_object(transformer / "config.json", "transformer")
    found = tokenizer_hash(tokenizer_weights)
    needed = {"tokens": manifest["tokenizer"] or found, "transformer": config.get("tokenizer_hash", found)}
    for what, expected in needed.items():
        if expected != found:
            raise ValueError(
                f"{what} made with tokenizer {expected}, but {tokenizer} holds tokenizer {found}: "
                "give the one that made the tokens, or make the tokens and train anew"
            )
    names = class_names or manifest["label_names"]
    recommended = _recommended(config["transformer"], names, layers, steps)
    with written_whole(out / "model.safetensors") as file:
        weights = read_state_dict(transformer / "model.safetensors")
        file.write(save({name: value.half() for name, value in weights.items()}))
    # The generator's folder may tell of the tokenizer in its run, whose decoder may be another.
    about = {key: tokenizer_config[key] for key in ABOUT_TOKENIZER if key in tokenizer_config}
    write_tokenizer(out, half_but_tokens(tokenizer_weights), about)
    if names:
        write_json(out / "classes.json", readable_names(names))
    others = {key: value for key, value in config.items() if key not in ABOUT_TOKENIZER}
    write_json(out / "config.json", {**about, **others, "recommended": recommended})


def check_finished(folder: Path) -> None:
    """ValueError if the training that wrote `folder` was stopped before its end."""
    if (mark := folder / UNFINISHED_MARK).exists():
        done = read_object(mark, "step", "total_steps")
        raise ValueError(
            f"{folder} is of a training that was stopped at step {done['step']} of {done['total_steps']}: "
            f"run it again to finish it, or give one of {folder.parent / 'checkpoints'}"
        )


def _recommended(
    sizes: Mapping[str, Any], names: Sequence[str] | None, layers: Sequence[int] | None, steps: int | None
) -> dict[str, Any]:
    """The entry `recommended` of config.json, or ValueError for what does not fit the transformer's sizes."""
    if names and len(names) != sizes["num_classes"]:
        raise ValueError(f"{len(names)} class names for {sizes['num_classes']} classes")
    if layers and not all(0 <= layer < sizes["num_layers"] for layer in layers):
        raise ValueError(f"recommended layers {list(layers)}, but the blocks are 0 to {sizes['num_layers'] - 1}")
    if steps is not None and not 1 <= steps <= sizes["num_tokens"]:
        raise ValueError(f"{steps} recommended steps, expected 1 to {sizes['num_tokens']}, one for each token at most")
    given = {"layers": list(layers) if layers else None, "steps": steps}
    return {name: value for name, value in given.items() if value is not None}


def readable_names(names: Sequence[str]) -> list[str]:
    """Names without WordNet's ids: "n01443537 goldfish" and "n01443537" become "goldfish".

    A bare id gets its first synonym in timm's list of ImageNet's synsets. Names that would no longer be
    unique, and all others, stay as they are.
    """
    short = [_readable(name) for name in names]
    return [name if short.count(new) > 1 else new for name, new in zip(names, short, strict=True)]


def _readable(name: str) -> str:
    match = WORDNET_ID.fullmatch(name)
    if match is None or match[2]:
        return name if match is None else match[2]
    from timm.data import ImageNetInfo

    synsets = ImageNetInfo("imagenet22k")
    known = match[1] in synsets.label_names()
    return synsets.label_name_to_description(match[1]).split(",")[0] if known else name
