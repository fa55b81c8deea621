from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from randar_features import Model, generate
from randar_features.data import load_image, to_tensor
from randar_features.generation.gallery import (
    Wanted,
    fill_gallery,
    read_settings,
    save_png,
)

WANTED = [Wanted(class_index, seed) for class_index in (0, 2) for seed in (5, 6, 7)]
SETTINGS = {"steps": 4, "guidance": (1.0, 2.0), "order": "random"}


@pytest.fixture
def model(small_model: Model) -> Model:
    return replace(small_model, class_names=["tench, Tinca", "cat", "maillot", "maillot, tank suit"][:3])


def pixels(path: Path) -> list:
    return list(load_image(path).tobytes())


def test_one_file_for_each_class_and_seed_with_its_settings(model: Model, tmp_path: Path):
    assert list(fill_gallery(model, WANTED, tmp_path, SETTINGS, notes={"format": "x"}, batch_size=4)) == [4, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(one.filename for one in WANTED)
    assert WANTED[0].filename == "class0000_seed000005.png"
    assert read_settings(tmp_path / WANTED[3].filename) == {
        "model": model.name,
        "weights": model.weights_hash,
        "class": 2,
        "class_name": "maillot",
        "seed": 5,
        "steps": 4,
        "guidance": [1.0, 2.0],
        "order": "random",
        "format": "x",
    }


def test_an_image_is_that_of_its_seed_in_any_company(model: Model, tmp_path: Path):
    list(fill_gallery(model, WANTED, tmp_path, SETTINGS, batch_size=5))
    tokens = generate(model.transformer, [2], generator=torch.tensor([6]), steps=4, guidance=(1.0, 2.0))
    expected = model.tokenizer.to_uint8(model.tokenizer.decode(tokens))[0]
    assert pixels(tmp_path / "class0002_seed000006.png") == list(expected.numpy().tobytes())


def test_only_missing_images_are_generated(model: Model, tmp_path: Path):
    list(fill_gallery(model, WANTED[:2], tmp_path, SETTINGS))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert list(fill_gallery(model, WANTED, tmp_path, SETTINGS)) == [2, 4]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert list(fill_gallery(model, WANTED, tmp_path, SETTINGS, overwrite=True)) == [6]


def test_images_of_other_settings_are_not_overwritten_unless_told(model: Model, tmp_path: Path):
    list(fill_gallery(model, WANTED[:1], tmp_path, SETTINGS))
    other = {**SETTINGS, "steps": 8}
    with pytest.raises(FileExistsError, match=r"\{'steps': 4\} instead of \{'steps': 8\}: .*\(--overwrite\)"):
        fill_gallery(model, WANTED, tmp_path, other)
    list(fill_gallery(model, WANTED[:1], tmp_path, other, overwrite=True))
    found = read_settings(tmp_path / WANTED[0].filename)
    assert found is not None and found["steps"] == 8


def test_the_same_weights_under_another_name_are_the_same_model(model: Model, tmp_path: Path):
    list(fill_gallery(model, WANTED[:1], tmp_path, SETTINGS))
    assert list(fill_gallery(replace(model, name="elsewhere"), WANTED[:1], tmp_path, SETTINGS)) == [1]
    with pytest.raises(FileExistsError, match="'weights'"):
        list(fill_gallery(replace(model, weights_hash="other"), WANTED[:1], tmp_path, SETTINGS))


def test_a_file_in_the_place_of_the_folder_is_named(model: Model, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file is a file, expected a folder"):
        fill_gallery(model, WANTED, tmp_path / "file", SETTINGS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 999},
        {"order": "sideways"},
        {"temperature": -1},
        {"schedule": "steep"},
        {"guidance": (1, 2, 3)},
        {"dtype": "float99"},
    ],
)
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_bad_settings_are_refused_before_the_first_image(
    model: Model, tmp_path: Path, scale: int, wrong: dict[str, Any]
):
    with pytest.raises(ValueError, match="scale must be 1 or 2" if scale == 3 else next(iter(wrong))):
        fill_gallery(model, WANTED, tmp_path / "new", SETTINGS | wrong | {"scale": scale})
    assert not (tmp_path / "new").exists()


def test_a_foreign_picture_is_not_overwritten(model: Model, tmp_path: Path):
    Image.new("RGB", (4, 4)).save(tmp_path / WANTED[0].filename)
    assert read_settings(tmp_path / WANTED[0].filename) is None
    with pytest.raises(FileExistsError, match="other settings"):
        list(fill_gallery(model, WANTED, tmp_path, SETTINGS))


def test_settings_survive_any_letters(tmp_path: Path):
    save_png(tmp_path / "one.png", Image.new("RGB", (2, 2)), {"class_name": "crème brûlée 蛋"})
    assert read_settings(tmp_path / "one.png") == {"class_name": "crème brûlée 蛋"}


def test_saved_pixels_read_back(tmp_path: Path):
    image = Image.effect_noise((8, 8), 50).convert("RGB")
    save_png(tmp_path / "noise.png", image, {})
    assert torch.equal(to_tensor(load_image(tmp_path / "noise.png")), to_tensor(image))
