"""`randar generate`, `edit` and `animate` from their command lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from randar_features import precision
from randar_features.cli.commands import main
from randar_features.cli.decoding import seed_range
from randar_features.generation.complete import ORDERS
from randar_features.generation.gallery import read_settings
from randar_features.generation.load import load_for_decoding
from randar_features.generation.recipe import SCHEDULES
from randar_features.options.shared import Order, Schedule
from tests.small_models import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with class names and a picture of 16×16 pixels."""
    write_folder(tmp_path / "model")
    (tmp_path / "model" / "classes.json").write_text(json.dumps(["tench", "golden retriever", "cat"]))
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    return tmp_path


def run(folder: Path, *arguments: str) -> Path:
    assert status(folder, *arguments) == 0
    return folder / "out"


def status(folder: Path, *arguments: str) -> int:
    return main([*arguments, "--model", str(folder / "model"), "--out", str(folder / "out"), "--device", "cpu"])


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def test_generate_by_class_name_and_resume(folder: Path, monkeypatch: pytest.MonkeyPatch):
    out = run(folder, "generate", "--classes", "golden retriever", "2", "--seeds", "3:5", "--sheet")
    names = {f"class{c:04d}_seed{s:06d}.png" for c in (1, 2) for s in (3, 4)}
    assert {path.name for path in out.iterdir()} == names | {"sheet.png"}
    height, width, _ = read(out / "sheet.png").shape
    assert height > 34 and width > 34  # with the names of the classes and the seeds in its margins
    kept = (out / "class0001_seed000003.png").stat().st_mtime_ns
    run(folder, "generate", "--classes", "golden retriever", "--seeds", "3:6")
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
    out = run(folder, "generate", *arguments)
    assert sorted(path.name for path in out.iterdir()) == ["class0000_seed000001.png", "class0000_seed000003.png"]
    assert not asked  # only a sheet needs the others' images
    run(folder, "generate", *arguments, "--sheet")
    assert asked == ["init_process_group", "barrier", "destroy_process_group"] and not (out / "sheet.png").exists()


def test_processes_share_the_edits(folder: Path, monkeypatch: pytest.MonkeyPatch):
    asked = as_second_of_two_processes(monkeypatch)
    picture = str(folder / "photo.png")
    out = run(folder, "edit", "inpaint", picture, "--box", "0", "0", "8", "8", "--seeds", "0:3")
    assert [path.name for path in out.iterdir()] == ["photo_inpaint_null_seed000001.png"] and "barrier" in asked


def test_a_sheet_takes_the_place_of_a_sheet_alone(folder: Path, capsys: pytest.CaptureFixture[str]):
    for seeds in ("0:1", "0:2"):
        out = run(folder, "generate", "--classes", "0", "--seeds", seeds, "--sheet")
    sheet = read(out / "sheet.png")
    Image.new("RGB", (2, 2)).save(out / "sheet.png")
    assert status(folder, "generate", "--classes", "0", "--seeds", "0", "--sheet") == 2
    assert "--overwrite" in capsys.readouterr().err
    run(folder, "generate", "--classes", "0", "--seeds", "0", "--sheet", "--overwrite")
    assert read(out / "sheet.png").shape == (sheet.shape[0], sheet.shape[1] - 18, 3)


@pytest.mark.parametrize("box", ["-4 0 8 8", "0 0 17 8", "8 0 8 8"])
def test_a_box_outside_the_image_is_refused(folder: Path, box: str, capsys: pytest.CaptureFixture[str]):
    assert status(folder, "edit", "inpaint", str(folder / "photo.png"), "--box", *box.split()) == 2
    assert "--box" in capsys.readouterr().err


def test_another_picture_of_the_same_name_is_not_taken_as_done(folder: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["edit", "inpaint", str(folder / "photo.png"), "--box", "0", "0", "8", "8", "--seeds", "0"]
    run(folder, *arguments)
    run(folder, *arguments)
    Image.new("RGB", (16, 16)).save(folder / "photo.png")
    assert status(folder, *arguments) == 2
    assert "{'image': 'photo.png " in capsys.readouterr().err


@pytest.mark.parametrize("weights", ["float32", "float16", "bfloat16"])
def test_models_decode_where_weights_cannot_be_packed(folder: Path, monkeypatch: pytest.MonkeyPatch, weights: str):
    monkeypatch.setattr("randar_features.generation.load.can_pack", lambda dtype, device: False)
    model, number_format = load_for_decoding(str(folder / "model"), "cpu", weights)
    assert number_format == weights
    assert model.dtype == getattr(torch, weights)
    assert isinstance(model.transformer.output, torch.nn.Linear)


def test_the_fastest_format_is_named_in_the_image(folder: Path, monkeypatch: pytest.MonkeyPatch):
    arguments = ["generate", "--classes", "0", "--seeds", "0", "--steps", "2"]
    for fastest in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(precision, "fastest_dtype", lambda device, fastest=fastest: fastest)
        out = run(folder, *arguments, "--dtype", "auto", "--overwrite")
        settings = read_settings(out / "class0000_seed000000.png")
        assert settings is not None and settings["number_format"] == precision.name_of(fastest)


def test_generate_at_twice_the_resolution(folder: Path):
    out = run(folder, "generate", "--classes", "0", "--seeds", "1", "--scale", "2", "--steps", "9")
    assert read(out / "class0000_seed000001.png").shape == (32, 32, 3)


def test_errors_end_the_script_with_their_message(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert status(folder, "generate", "--classes", "golden retreiver") == 2
    assert "nearest: golden retriever" in capsys.readouterr().err


def test_inpaint_keeps_the_pixels_outside_the_box(folder: Path):
    box = ["--box", "4", "2", "9", "16"]
    out = run(folder, "edit", "inpaint", str(folder / "photo.png"), *box, "--class", "cat", "--seeds", "0:2")
    given, edited = read(folder / "photo.png"), read(out / "photo_inpaint_2_seed000001.png")
    inside = np.zeros((16, 16), dtype=bool)
    inside[2:16, 4:9] = True
    assert (given == edited)[~inside].all() and (given != edited)[inside].any(axis=-1).mean() > 0.9
    strip = read(out / "photo_inpaint_strip.png")
    assert (
        strip.shape[1] == 3 * 16 + 2 * 2 and (strip[-16:, :16] == given).all() and (strip[-16:, -16:] == edited).all()
    )
    settings = read_settings(out / "photo_inpaint_2_seed000001.png")
    assert settings is not None and (settings["seed"], settings["class"], settings["box"]) == (1, 2, [4, 2, 9, 16])


def test_inpaint_by_a_mask_picture(folder: Path):
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[10:12, 3:8] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    picture, mask_file = str(folder / "photo.png"), str(folder / "mask.png")
    out = run(folder, "edit", "inpaint", picture, "--mask", mask_file, "--seeds", "0")
    changed = (read(folder / "photo.png") != read(out / "photo_inpaint_null_seed000000.png")).any(axis=-1)
    assert not changed[mask == 0].any() and changed[mask == 255].mean() > 0.8


def photograph(folder: Path, exif: int | None = None) -> tuple[str, np.ndarray]:
    """A picture of 40×28 pixels as it is stored, and its file."""
    noise = np.random.default_rng(1).integers(0, 256, (28, 40, 3), dtype=np.uint8)
    options = {}
    if exif is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = exif
    Image.fromarray(noise).save(folder / "wide.png", **options)
    return str(folder / "wide.png"), noise


def test_a_photograph_is_given_back_at_its_own_size(folder: Path, capsys: pytest.CaptureFixture[str]):
    picture, given = photograph(folder)
    out = run(folder, "edit", "inpaint", picture, "--box", "30", "4", "40", "12", "--seeds", "0")
    edited = read(out / "wide_inpaint_null_seed000000.png")
    changed = (edited != given).any(axis=-1)
    assert edited.shape == given.shape and changed[4:12, 30:].mean() > 0.9
    changed[4:12, 30:] = False
    assert not changed.any()
    assert str(out / "wide_inpaint_null_seed000000.png") in capsys.readouterr().out
    run(folder, "edit", "inpaint", picture, "--box", "3", "4", "9", "12", "--seeds", "0", "--square", "--overwrite")
    assert read(out / "wide_inpaint_null_seed000000.png").shape == (16, 16, 3)
    run(folder, "edit", "outpaint", picture, "--padding", "0", "2", "3", "0", "--seeds", "0")
    assert (read(out / "wide_outpaint_null_seed000000.png")[2:, :40] == given).all()


def test_a_mask_lies_on_the_photograph_as_its_camera_held_it(folder: Path):
    picture, given = photograph(folder, exif=6)
    mask = np.zeros((28, 40), np.uint8)
    mask[:8, :6] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    out = run(folder, "edit", "inpaint", picture, "--mask", str(folder / "mask.png"), "--seeds", "0")
    edited = np.rot90(read(out / "wide_inpaint_null_seed000000.png"))
    changed = (edited != given).any(axis=-1)
    assert changed[mask > 0].mean() > 0.9 and not changed[mask == 0].any()


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (Image.new("L", (16, 16), 255), "40x28 and 16x16"),
        (Image.new("RGBA", (40, 28), (0, 0, 0, 0)), "transparent"),
        (Image.new("L", (40, 28), 1), "nothing white, the highest value is 1"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(
    folder: Path, mask: Image.Image, named: str, capsys: pytest.CaptureFixture[str]
):
    picture, _ = photograph(folder)
    mask.save(folder / "mask.png")
    assert status(folder, "edit", "inpaint", picture, "--mask", str(folder / "mask.png"), "--seeds", "0") == 2
    assert named in capsys.readouterr().err


def test_a_mask_that_does_not_tell_names_the_option_that_does(folder: Path, capsys: pytest.CaptureFixture[str]):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(folder / "photo.png").save(folder / "turned.png", exif=exif)
    Image.new("L", (16, 16)).save(folder / "mask.png")
    edit = ["edit", "inpaint", str(folder / "turned.png"), "--mask", str(folder / "mask.png")]
    assert status(folder, *edit) == 2
    assert "--mask-orientation" in capsys.readouterr().err
    box = [*edit[:3], "--box", "0", "0", "8", "8", "--mask-orientation", "stored"]
    assert status(folder, *box) == 2
    assert "--mask-orientation stored is for --mask" in capsys.readouterr().err


def test_outpaint_and_upscale(folder: Path):
    picture = str(folder / "photo.png")
    out = run(folder, "edit", "outpaint", picture, "--padding", "8", "0", "4", "2", "--seeds", "0")
    drawn = read(out / "photo_outpaint_null_seed000000.png")
    assert drawn.shape == (18, 28, 3) and (drawn[:16, 8:24] == read(folder / "photo.png")).all()
    run(folder, "edit", "upscale", picture, "--class", "0", "--seeds", "0", "--steps", "8")
    assert read(out / "photo_upscale_0_seed000000.png").shape == (32, 32, 3)


def test_seed_ranges():
    assert list(seed_range("3:6")) == [3, 4, 5] and list(seed_range("7")) == [7]
    for bad in ("6:3", "a:b", "-1", ""):
        with pytest.raises(Exception, match="no range of seeds"):
            seed_range(bad)


def test_orders_animated_side_by_side(folder: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["animate", "--model", str(folder / "model"), "--class", "cat", "--steps", "4", "--device", "cpu"]
    arguments += ["--orders", "raster", "spiral", "--out", str(folder / "orders.gif")]
    assert main(arguments) == 0
    with Image.open(folder / "orders.gif") as gif:
        assert gif.format == "GIF" and gif.width == 34 and gif.height > 16
    assert main([*arguments[:-1], str(folder / "orders.png")]) == 0
    with Image.open(folder / "orders.png") as png:
        assert png.format == "PNG" and png.n_frames == 4
    assert main([*arguments[:-1], str(folder / "orders.jpg")]) == 2
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_the_names_of_classes(folder: Path, capsys: pytest.CaptureFixture[str]):
    run(folder, "generate", "--list-classes")
    assert capsys.readouterr().out.split("\n")[1] == "   1  golden retriever"
    (folder / "model" / "classes.json").unlink()
    run(folder, "generate", "--list-classes")
    assert "index from 0 to 2" in capsys.readouterr().out


def test_the_choices_are_those_of_the_library():
    assert get_args(Order) == ORDERS
    assert get_args(Schedule) == tuple(SCHEDULES)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("edit inpaint photo.png", "--mask"),
        ("edit inpaint photo.png --box 0 0 4 4 --mask photo.png", "--mask"),
        ("generate --seeds 5:2", "--seeds"),
        ("generate --guidance 1 2 3", "--guidance"),
        ("generate --temperature 0 --classes nobody", "--temperature"),
        ("generate --top-p 0 --classes nobody", "top_p"),
        ("generate --guidance 1 1e30 --classes nobody", "guidance"),
        ("generate --batch-size 0", "--batch-size"),
        ("generate --scale 3", "--scale"),
        ("edit crop photo.png", "crop"),
        ("edit upscale nowhere.png --class nobody", "nowhere.png"),
    ],
)
def test_what_cannot_be_done_is_refused(folder: Path, text: str, named: str, capsys: pytest.CaptureFixture[str]):
    assert status(folder, *text.split()) == 2
    shown = capsys.readouterr().err
    assert named in shown and shown.count("\n") == 1


@pytest.mark.parametrize("architecture", ["llamagen", "par", "arpg"])
def test_every_kind_of_generator(tmp_path: Path, architecture: str):
    write_folder(tmp_path / "model", architecture=architecture)
    out = run(tmp_path, "generate", "--classes", "1", "--seeds", "3", "--guidance", "2.5")
    settings = read_settings(out / "class0001_seed000003.png")
    assert settings is not None and settings["guidance"] == 2.5
    assert settings["order"] == ("random" if architecture == "arpg" else None)


def test_the_recommended_guidance_is_written_down(folder: Path):
    out = run(folder, "generate", "--classes", "1", "--seeds", "3", "--schedule", "arccos")
    settings = read_settings(out / "class0001_seed000003.png")
    assert settings is not None
    assert (settings["guidance"], settings["order"], settings["schedule"]) == ([1.0, 4.0], "random", "arccos")


def test_a_mask_in_another_orientation_is_another_edit(folder: Path, capsys: pytest.CaptureFixture[str]):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(folder / "photo.png").save(folder / "turned.png", exif=exif)
    Image.fromarray(np.uint8(255 * np.eye(16))).save(folder / "mask.png")
    edit = ["edit", "inpaint", str(folder / "turned.png"), "--mask", str(folder / "mask.png"), "--seeds", "0"]
    assert status(folder, *edit, "--mask-orientation", "stored") == 0
    assert status(folder, *edit, "--mask-orientation", "upright") == 2
    assert "mask_orientation" in capsys.readouterr().err


def test_options_beside_list_classes_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert status(folder, "generate", "--list-classes", "--sheet") == 2
    assert "leave out --sheet" in capsys.readouterr().err
