"""`randar train FOLDER` on a dozen built-in images."""

from __future__ import annotations

import importlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from randar_features import generate, load_model
from randar_features.cli.commands import main
from randar_features.cli.train import TrainOptions, adapted, token_stores
from randar_features.data.photo_digits import PhotoDigits
from randar_features.data.token_store import TokenStore
from randar_features.models import ARCHITECTURES
from randar_features.store.lock import locked
from tests.small_models import IMAGE_SIZE, write_folder
from tests.training.small import read_log

IMAGES = 12


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each digit that the first images show."""
    folder = tmp_path_factory.mktemp("digits")
    data = PhotoDigits("train", size=IMAGE_SIZE)
    for number in range(IMAGES):
        sample = data[number]
        path = folder / f"digit {sample.label}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(sample.image).save(path)
    return folder


@pytest.mark.parametrize("architecture", ["randar", "arpg"])
def test_two_steps_make_a_model_of_the_classes_of_the_folder(digits: Path, tmp_path: Path, architecture: str):
    base, out = write_folder(tmp_path / "base", architecture=architecture), tmp_path / "run"
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(
        json.dumps(config | {"recommended": {"layers": [1, 0], "steps": 5}, "training": {"order": "raster"}})
    )
    arguments = ["--from", str(base), "--out", str(out), "--steps", "2", "--batch-size", "4", "--validation", "0.25"]
    assert main(["train", str(digits), *arguments]) == 0
    assert read_log(out)[-1]["step"] == 2
    train, validation = TokenStore(out / "tokens/train"), TokenStore(out / "tokens/validation")
    assert (len(train), len(validation)) == (9, 3)
    names = sorted(path.name for path in digits.iterdir())
    model = load_model(out / "model", device="cpu")
    assert model.classes == names
    assert (model.recommended_layers, model.recommended_steps) == ([1, 0], 5)
    assert model.transformer.trained_order == "raster"
    tokens = generate(model.transformer, torch.tensor([0]), steps=2, generator=torch.Generator().manual_seed(0))
    assert model.tokenizer.decode(tokens).shape == (1, 3, IMAGE_SIZE, IMAGE_SIZE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_known_classes_keep_their_vectors_and_others_begin_at_the_null_class(tmp_path: Path, architecture: str):
    base = load_model(write_folder(tmp_path / "base", architecture=architecture), device="cpu")
    tokens: Any = SimpleNamespace(manifest={"label_names": ["new", "b"]}, num_classes=2)
    folder = adapted(replace(base, class_names=["a", "b", "c"]), tokens, tmp_path / "initial")
    sizes = replace(base.transformer.config, num_classes=2)
    model = ARCHITECTURES[architecture][0](sizes)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    null = base.transformer.config.num_classes
    expected = base.transformer.cls_embedding(torch.tensor([null, 1, null]), 3)
    assert torch.equal(model.cls_embedding(torch.tensor([0, 1, 2]), 3), expected)


def test_one_of_the_processes_that_train_tokenizes_while_the_others_wait(digits: Path, tmp_path: Path) -> None:
    options = TrainOptions(data=str(digits), out=tmp_path / "run")
    base = load_model(write_folder(tmp_path / "base"), device="cpu")
    with ThreadPoolExecutor() as pool:
        with locked(options.out / "tokens/train"):
            stores = pool.submit(token_stores, options, base)
            assert not wait([stores], timeout=0.5).done, "it was refused"
        assert [len(store) for store in stores.result(60)] == [11, 1]


def test_one_image_is_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "data/class").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "data/class/one.png")
    base = write_folder(tmp_path / "base")
    assert main(["train", str(tmp_path / "data"), "--from", str(base), "--out", str(tmp_path / "run")]) == 2
    assert "at least two images" in capsys.readouterr().err


def test_splits_of_other_classes_are_refused_before_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("train/cat", "train/dog", "valid/dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "data" / name / "one.png")
    base, out = write_folder(tmp_path / "base"), tmp_path / "run"
    assert main(["train", str(tmp_path / "data"), "--from", str(base), "--out", str(out)]) == 2
    assert "['cat', 'dog']" in capsys.readouterr().err
    given = [str(tmp_path / "data"), "--from", str(base), "--out", str(out)]
    assert main(["train", *given, "--validation", "0.3"]) == 2
    assert "--validation 0.3" in capsys.readouterr().err
    assert not out.exists()


def test_images_that_cannot_be_read_are_named(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(digits, tmp_path / "data")
    bad = min((tmp_path / "data").rglob("*.png"))
    bad.write_bytes(b"no picture")
    base = write_folder(tmp_path / "base")
    arguments = ["--from", str(base), "--out", str(tmp_path / "run"), "--steps", "1", "--batch-size", "2"]
    assert main(["train", str(tmp_path / "data"), *arguments]) == 0
    said = capsys.readouterr().out
    assert "cannot be read: 1 " in said and str(bad) in said

    for stage, given, trainer in (
        ("transformer", ["--tokens", str(tmp_path / "run/tokens")], "RandARTrainer"),
        ("tokenizer", ["--data", str(tmp_path / "data"), "--splits", "train", "validation"], "TokenizerTrainer"),
    ):
        module = importlib.import_module(f"randar_features.cli.train_{stage}")
        monkeypatch.setattr(module, "train", lambda *_: 0)
        monkeypatch.setattr(module, trainer, lambda *_: None)
        monkeypatch.setattr(
            module, "open_pixels", lambda _, split, __: TokenStore(tmp_path / "run/tokens" / split), raising=False
        )
        for rank, count in (("0", 1), ("1", 0)):
            monkeypatch.setenv("RANK", rank)
            assert main(["train", stage, *given, "--out", str(tmp_path / stage)]) == 0
            assert capsys.readouterr().out.count(str(bad)) == count, stage
