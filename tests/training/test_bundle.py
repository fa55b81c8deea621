from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from randar_features import load_model
from randar_features.tokenizers.folder import NOT_ENCODING, tokenizer_hash
from randar_features.training.bundle import assemble_model, readable_names
from tests.small_models import IMAGE_SIZE, NUM_CLASSES, small_config, small_tokenizer, small_transformer, write_folder

NAMES = ["n01443537 goldfish", "n01641577 bullfrog", "zebra"]


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Any]:
    """Arguments: the folders of two runs, and the manifest of the tokens between them."""
    digest = tokenizer_hash(small_tokenizer())
    whole = write_folder(tmp_path / "whole", tokenizer_hash=digest)
    for name, file, left_out in (
        ("tokenizer", "tokenizer.safetensors", ("transformer", "tokenizer_hash")),
        ("transformer", "model.safetensors", ("tokenizer", "image_size")),
    ):
        (tmp_path / name).mkdir()
        (whole / file).rename(tmp_path / name / file)
        config = json.loads((whole / "config.json").read_text())
        kept = {key: value for key, value in config.items() if key not in left_out} | {f"{name}_training": {"seed": 0}}
        (tmp_path / name / "config.json").write_text(json.dumps(kept))
    return {
        "tokenizer": tmp_path / "tokenizer",
        "transformer": tmp_path / "transformer",
        "manifest": {"tokenizer": digest, "label_names": NAMES},
        "out": tmp_path / "model",
    }


def test_the_folder_is_a_model(parts: dict[str, Any]):
    assemble_model(**parts, layers=[2, 0], steps=5)
    model = load_model(parts["out"], device="cpu")
    assert model.classes == ["goldfish", "bullfrog", "zebra"]
    assert (model.recommended_layers, model.recommended_steps) == ([2, 0], 5)
    assert model.image_size == IMAGE_SIZE
    for name, value in small_transformer().state_dict().items():
        assert torch.equal(model.transformer.state_dict()[name], value.half().float()), name
    for name, value in small_tokenizer().state_dict().items():
        kept = value.half().float() if name.startswith(NOT_ENCODING) else value  # float16 would change tokens
        assert torch.equal(model.tokenizer.state_dict()[name], kept), name
    assert tokenizer_hash(model.tokenizer) == parts["manifest"]["tokenizer"]


def test_the_files_hold_what_loading_needs_in_half_precision(parts: dict[str, Any]):
    halves = {name: value.half() for name, value in small_tokenizer().state_dict().items()}
    save_file(halves, parts["tokenizer"] / "tokenizer.safetensors")  # as training writes it
    parts["manifest"]["tokenizer"] = digest = tokenizer_hash(halves)
    about = json.loads((parts["transformer"] / "config.json").read_text())
    (parts["transformer"] / "config.json").write_text(json.dumps(about | {"tokenizer_hash": digest}))
    assemble_model(**parts)
    assert sorted(path.name for path in parts["out"].iterdir()) == [
        "classes.json",
        "config.json",
        "model.safetensors",
        "tokenizer.safetensors",
    ]
    tokenizer = load_file(parts["out"] / "tokenizer.safetensors")
    assert "quantize.codebook_used" not in tokenizer
    transformer = load_file(parts["out"] / "model.safetensors")
    assert {value.dtype for value in (tokenizer | transformer).values()} == {torch.float16}
    config = json.loads((parts["out"] / "config.json").read_text())
    assert config == small_config() | {
        "tokenizer_training": {"seed": 0},
        "transformer_training": {"seed": 0},
        "tokenizer_hash": parts["manifest"]["tokenizer"],
        "recommended": {},
    }
    assert load_model(parts["out"], device="cpu").recommended_layers == [1]  # the middle one, as nothing is said


def test_the_tokenizer_that_is_given_is_the_one_told_of(parts: dict[str, Any]):
    """A run's own folder tells of the tokenizer it was trained with, whose decoder may since have been polished."""
    for part, told in (
        ("transformer", {"tokenizer": {"type": "other"}, "tokenizer_training": {"train": "all"}}),
        ("tokenizer", {"tokenizer_training": {"train": "decoder"}, "initial_training": {"train": "all"}}),
    ):
        path = parts[part] / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | told))
    assemble_model(**parts)
    config = json.loads((parts["out"] / "config.json").read_text())
    assert config["tokenizer"] == small_config()["tokenizer"]
    assert config["tokenizer_training"] == {"train": "decoder"}
    assert config["initial_training"] == {"train": "all"}


def test_given_names_come_before_the_tokens_own(parts: dict[str, Any]):
    assemble_model(**parts, class_names=["a", "b", "c"])
    assert load_model(parts["out"], device="cpu").classes == ["a", "b", "c"]


def test_tokens_without_names_make_a_model_without(parts: dict[str, Any]):
    parts["manifest"]["label_names"] = None
    assemble_model(**parts)
    assert load_model(parts["out"], device="cpu").classes is None


def test_parts_of_two_tokenizers_are_refused(parts: dict[str, Any]):
    found = parts["manifest"]["tokenizer"]
    config = json.loads((parts["transformer"] / "config.json").read_text())
    (parts["transformer"] / "config.json").write_text(json.dumps(config | {"tokenizer_hash": "fedcba"}))
    with pytest.raises(ValueError, match=f"transformer made with tokenizer fedcba, but .* holds tokenizer {found}"):
        assemble_model(**parts)
    parts["manifest"]["tokenizer"] = "0123456789abcdef"
    with pytest.raises(ValueError, match=f"tokens made with tokenizer 0123456789abcdef, but .* {found}"):
        assemble_model(**parts)
    assert not parts["out"].exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["a", "b"]}, f"2 class names for {NUM_CLASSES} classes"),
        ({"layers": [0, 3]}, r"recommended layers \[0, 3\], but the blocks are 0 to 2"),
        ({"layers": [-1]}, r"recommended layers \[-1\]"),
        ({"steps": 17}, "17 recommended steps, expected 1 to 16"),
        ({"steps": 0}, "0 recommended steps, expected 1 to 16"),
    ],
)
def test_what_does_not_fit_is_refused(parts: dict[str, Any], options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        assemble_model(**parts, **options)
    assert not parts["out"].exists()


def test_names_are_readable_and_tell_classes_apart():
    assert readable_names(["n02002724 black stork", "n01443537", "n99999999", "cat"]) == [
        "black stork",
        "goldfish",
        "n99999999",
        "cat",
    ]
    cranes = ["n03126707 crane", "n02012849 crane", "n02206856 bee"]
    assert readable_names(cranes) == ["n03126707 crane", "n02012849 crane", "bee"]
