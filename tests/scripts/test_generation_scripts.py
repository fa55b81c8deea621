"""The generation and editing scripts from their command lines."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from randar_features.generation import command_line
from randar_features.generation.command_line import seed_range
from randar_features.generation.gallery import read_settings
from tests.small_models import write_folder

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with class names and a picture of 16×16 pixels."""
    write_folder(tmp_path / "model")
    (tmp_path / "model" / "classes.json").write_text(json.dumps(["tench", "golden retriever", "cat"]))
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str, *arguments: str) -> Path:
    common = ["--model", str(folder / "model"), "--out", str(folder / "out"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [script, *arguments, *common])
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    return folder / "out"


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def test_generate_by_class_name_and_resume(folder: Path, monkeypatch: pytest.MonkeyPatch):
    out = run(monkeypatch, folder, "generate.py", "--classes", "golden retriever", "2", "--seeds", "3:5", "--sheet")
    names = {f"class{c:04d}_seed{s:06d}.png" for c in (1, 2) for s in (3, 4)}
    assert {path.name for path in out.iterdir()} == names | {"sheet.png"}
    assert read(out / "sheet.png").shape == (34, 34, 3)
    kept = (out / "class0001_seed000003.png").stat().st_mtime_ns
    run(monkeypatch, folder, "generate.py", "--classes", "golden retriever", "--seeds", "3:6")
    assert (out / "class0001_seed000005.png").exists()
    assert (out / "class0001_seed000003.png").stat().st_mtime_ns == kept


def as_second_of_two_processes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The environment of torchrun; what is asked of torch.distributed."""
    asked: list[str] = []
    for name in ("init_process_group", "barrier", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *_, name=name, **__: asked.append(name))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    return asked


def test_processes_share_the_images(folder: Path, monkeypatch: pytest.MonkeyPatch):
    asked = as_second_of_two_processes(monkeypatch)
    arguments = ["--classes", "0", "--seeds", "0:4"]
    out = run(monkeypatch, folder, "generate.py", *arguments)
    assert sorted(path.name for path in out.iterdir()) == ["class0000_seed000001.png", "class0000_seed000003.png"]
    assert not asked  # only a sheet needs the others' images
    run(monkeypatch, folder, "generate.py", *arguments, "--sheet")
    assert asked == ["init_process_group", "barrier", "destroy_process_group"] and not (out / "sheet.png").exists()


def test_processes_share_the_edits(folder: Path, monkeypatch: pytest.MonkeyPatch):
    asked = as_second_of_two_processes(monkeypatch)
    picture = str(folder / "photo.png")
    out = run(monkeypatch, folder, "edit.py", "inpaint", picture, "--box", "0", "0", "8", "8", "--seeds", "0:3")
    assert [path.name for path in out.iterdir()] == ["photo_inpaint_null_seed000001.png"] and "barrier" in asked


def test_a_sheet_takes_the_place_of_a_sheet_alone(folder: Path, monkeypatch: pytest.MonkeyPatch):
    for seeds in ("0:1", "0:2"):
        out = run(monkeypatch, folder, "generate.py", "--classes", "0", "--seeds", seeds, "--sheet")
    assert read(out / "sheet.png").shape == (16, 34, 3)
    Image.new("RGB", (2, 2)).save(out / "sheet.png")
    with pytest.raises(SystemExit, match="no sheet of this script"):
        run(monkeypatch, folder, "generate.py", "--classes", "0", "--seeds", "0", "--sheet")
    run(monkeypatch, folder, "generate.py", "--classes", "0", "--seeds", "0", "--sheet", "--overwrite")
    assert read(out / "sheet.png").shape == (16, 16, 3)


@pytest.mark.parametrize("box", ["-4 0 8 8", "0 0 17 8", "8 0 8 8"])
def test_a_box_outside_the_image_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, box: str):
    with pytest.raises(SystemExit, match=r"--box must lie in the image of 16×16 pixels"):
        run(monkeypatch, folder, "edit.py", "inpaint", str(folder / "photo.png"), "--box", *box.split())


def test_another_picture_of_the_same_name_is_not_taken_as_done(folder: Path, monkeypatch: pytest.MonkeyPatch):
    arguments = ["edit.py", "inpaint", str(folder / "photo.png"), "--box", "0", "0", "8", "8", "--seeds", "0"]
    run(monkeypatch, folder, *arguments)
    run(monkeypatch, folder, *arguments)
    Image.new("RGB", (16, 16)).save(folder / "photo.png")
    with pytest.raises(SystemExit, match=r"is there with other settings, \{'image': 'photo.png "):
        run(monkeypatch, folder, *arguments)


@pytest.mark.parametrize("weights", ["float32", "float16", "bfloat16"])
def test_models_decode_where_weights_cannot_be_packed(folder: Path, monkeypatch: pytest.MonkeyPatch, weights: str):
    monkeypatch.setattr(command_line, "can_pack", lambda dtype: False)
    model = command_line.load_for_decoding(str(folder / "model"), "cpu", weights)
    assert model.dtype == getattr(torch, weights)
    assert isinstance(model.transformer.output, torch.nn.Linear)


def test_generate_at_twice_the_resolution(folder: Path, monkeypatch: pytest.MonkeyPatch):
    out = run(monkeypatch, folder, "generate.py", "--classes", "0", "--seeds", "1", "--scale", "2", "--steps", "9")
    assert read(out / "class0000_seed000001.png").shape == (32, 32, 3)


def test_errors_end_the_script_with_their_message(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SystemExit, match="ValueError: no class is named 'golden retreiver'; nearest: golden retriever"):
        run(monkeypatch, folder, "generate.py", "--classes", "golden retreiver")


def test_inpaint_keeps_the_pixels_outside_the_box(folder: Path, monkeypatch: pytest.MonkeyPatch):
    box = ["--box", "4", "2", "9", "16"]
    out = run(
        monkeypatch, folder, "edit.py", "inpaint", str(folder / "photo.png"), *box, "--class", "cat", "--seeds", "0:2"
    )
    given, edited = read(folder / "photo.png"), read(out / "photo_inpaint_2_seed000001.png")
    inside = np.zeros((16, 16), dtype=bool)
    inside[2:16, 4:9] = True
    assert (given == edited)[~inside].all() and (given != edited)[inside].any(axis=-1).mean() > 0.9
    assert read(out / "photo_inpaint_strip.png").shape == (16, 3 * 16 + 2 * 2, 3)
    settings = read_settings(out / "photo_inpaint_2_seed000001.png")
    assert settings is not None and (settings["seed"], settings["class"], settings["box"]) == (1, 2, [4, 2, 9, 16])


def test_inpaint_by_a_mask_picture(folder: Path, monkeypatch: pytest.MonkeyPatch):
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[10:12, 3:8] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    picture, mask_file = str(folder / "photo.png"), str(folder / "mask.png")
    out = run(monkeypatch, folder, "edit.py", "inpaint", picture, "--mask", mask_file, "--seeds", "0")
    changed = (read(folder / "photo.png") != read(out / "photo_inpaint_null_seed000000.png")).any(axis=-1)
    assert not changed[mask == 0].any() and changed[mask == 255].mean() > 0.8


def test_outpaint_and_upscale(folder: Path, monkeypatch: pytest.MonkeyPatch):
    picture = str(folder / "photo.png")
    out = run(monkeypatch, folder, "edit.py", "outpaint", picture, "--padding", "8", "0", "4", "2", "--seeds", "0")
    drawn = read(out / "photo_outpaint_null_seed000000.png")
    assert drawn.shape == (18, 28, 3) and (drawn[:16, 8:24] == read(folder / "photo.png")).all()
    run(monkeypatch, folder, "edit.py", "upscale", picture, "--class", "0", "--seeds", "0", "--steps", "8")
    assert read(out / "photo_upscale_0_seed000000.png").shape == (32, 32, 3)


def test_seed_ranges():
    assert list(seed_range("3:6")) == [3, 4, 5] and list(seed_range("7")) == [7]
    for bad in ("6:3", "a:b", "-1", ""):
        with pytest.raises(Exception, match="no range of seeds"):
            seed_range(bad)


def test_orders_animated_side_by_side(folder: Path, monkeypatch: pytest.MonkeyPatch):
    arguments = [
        "animate_orders.py",
        "--model",
        str(folder / "model"),
        "--class",
        "cat",
        "--steps",
        "4",
        "--device",
        "cpu",
    ]
    arguments += ["--orders", "raster", "spiral", "--out", str(folder / "orders.gif")]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(SCRIPTS / "animate_orders.py"), run_name="__main__")
    with Image.open(folder / "orders.gif") as gif:
        assert gif.size == (34, 16)
    with pytest.raises(SystemExit, match="is there: give another name, or --overwrite"):
        runpy.run_path(str(SCRIPTS / "animate_orders.py"), run_name="__main__")


@pytest.mark.parametrize("architecture", ["llamagen", "par", "arpg"])
def test_every_kind_of_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str):
    write_folder(tmp_path / "model", architecture=architecture)
    out = run(monkeypatch, tmp_path, "generate.py", "--classes", "1", "--seeds", "3", "--guidance", "2.5")
    settings = read_settings(out / "class0001_seed000003.png")
    assert settings is not None and settings["guidance"] == 2.5
    assert settings["order"] == ("random" if architecture == "arpg" else None)


def test_the_recommended_guidance_is_written_down(folder: Path, monkeypatch: pytest.MonkeyPatch):
    out = run(monkeypatch, folder, "generate.py", "--classes", "1", "--seeds", "3", "--schedule", "arccos")
    settings = read_settings(out / "class0001_seed000003.png")
    assert settings is not None
    assert (settings["guidance"], settings["order"], settings["schedule"]) == ([1.0, 4.0], "random", "arccos")
