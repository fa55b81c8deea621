from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from randar_features import FeatureStore, Model, extract_features
from randar_features.cli import index
from randar_features.cli.extract import main
from tests.small_models import IMAGE_SIZE, write_folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def run(tmp_path: Path, *arguments: str) -> int:
    model = write_folder(tmp_path / "model")
    return main([*arguments, "--model", str(model), "--out", str(tmp_path / "store"), "--device", "cpu"])


def test_features_from_the_shell(tmp_path: Path, images: Path, small_model: Model, capsys: pytest.CaptureFixture):
    options = [
        "--layers",
        "0",
        "-1",
        "--context",
        "single",
        "--read",
        "instruction",
        "--norm",
        "--store-dtype",
        "float32",
    ]
    assert run(tmp_path, str(images), *options, "--batch-size", "2", "--shard-rows", "2") == 0
    store = FeatureStore(tmp_path / "store")
    assert store.names == ["single/instruction/0/norm", "single/instruction/2/norm"] and len(store.shards) == 3
    expected = extract_features(
        images, small_model, layers=[0, 2], context="single", read="instruction", norm=True, pool="mean", progress=False
    ).pooled()
    for place, name in enumerate(store.names):
        np.testing.assert_allclose(store.array(name), expected[:, place].numpy(), rtol=1e-4, atol=1e-5)
    assert "single/instruction/2/norm: (32,)" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "needed"), [("--seed", "--orders"), ("--ray-workers", "--ray")])
def test_options_that_would_change_nothing_are_refused(
    tmp_path: Path, images: Path, option: str, needed: str, capsys: pytest.CaptureFixture[str]
):
    assert run(tmp_path, str(images), option, "3") == 2
    said = capsys.readouterr().err
    assert f"{option} 3" in said and needed in said and not (tmp_path / "store").exists()


def test_maps_that_are_added_to(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path, str(images), "--pooling", "none") == 0
    Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE)).save(images / "9.png")
    assert run(tmp_path, str(images), "--pooling", "none") == 2
    assert "append" in capsys.readouterr().err
    assert run(tmp_path, str(images), "--pooling", "none", "--append") == 0
    store = FeatureStore(tmp_path / "store")
    assert len(store) == 6 and store.shape(store.names[0]) == (4, 4, 32)


def test_a_file_in_place_of_the_store(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "store").write_text("notes")
    assert run(tmp_path, str(images)) == 2
    assert f"{tmp_path / 'store'} is a file" in capsys.readouterr().err
    assert (tmp_path / "store").read_text() == "notes"


def test_too_many_unreadable_images(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture):
    (images / "3.png").write_bytes(b"no image")
    assert run(tmp_path, str(images)) == 1
    out = capsys.readouterr().out
    assert "1 of 5 images could not be read" in out and f"image 3 ({images / '3.png'}): " in out
    assert "--max-unreadable, 0.01" in out
    assert run(tmp_path, str(images), "--max-unreadable", "0.2") == 0
    assert "--max-unreadable" not in capsys.readouterr().out


def test_an_index_names_the_images_that_it_leaves_out(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture):
    (images / "3.png").write_bytes(b"no image")
    assert index.main([str(images), "--encoder", "pixels", "--out", str(tmp_path / "index")]) == 0
    assert f"image 3 ({images / '3.png'}): cannot read" in capsys.readouterr().out


def test_a_profile_says_where_the_time_goes(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path, str(images), "--batch-size", "2", "--profile") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "images/s" in line]
    assert [line[0] for line in lines] == ["decode", "tokenize", "encode", "write", "together"]
    assert all(float(line[1]) > 0 for line in lines)
