"""What the explorer draws, without a page."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import randar_features as rf
from randar_features.cli.explore import pictures
from randar_features.cli.explore.collection import Collection, open_collection
from randar_features.cli.explore.pictures import Captioned
from randar_features.data import adm_center_crop, load_image, to_tensor
from randar_features.data.decode.ranges import Reading
from randar_features.features import FeatureSpec, model_specs

SPEC = FeatureSpec.parse("reverse/image/1")


@pytest.fixture(scope="module")
def image(photos: Path) -> Image.Image:
    return load_image(photos / "china" / "0.png")


def test_maps_are_those_of_the_engine(small_model: rf.Model, image: Image.Image):
    specs = model_specs(small_model, context=["single", "reverse"], layers=[0, 2])
    maps = pictures.feature_maps(small_model, image, specs)
    pixels = to_tensor(adm_center_crop(image, small_model.image_size))[None]
    for spec, expected in rf.features.encode(small_model, pixels, specs).items():
        torch.testing.assert_close(maps[str(spec)], expected[0])
    grid = small_model.transformer.config.grid
    fine = pictures.feature_maps(small_model, image, specs[:1], detail=2)
    assert fine[str(specs[0])].shape[:2] == (2 * grid, 2 * grid)


def test_maps_as_colours_side_by_side(small_model: rf.Model, image: Image.Image):
    side = pictures.side_of(small_model)
    specs = model_specs(small_model, context=["single", "repeat", "reverse"], layers=[1])
    shown = pictures.pca_pictures(small_model, image, specs)
    assert [caption for _, caption in shown] == ["image", "single/image/1", "repeat/image/1", "reverse/image/1"]
    assert all(picture.size == (side, side) for picture, _ in shown)
    assert np.asarray(shown[1].picture).std() > 20


def test_a_point_is_found_again_in_a_copy(small_model: rf.Model, image: Image.Image):
    """In the image itself the most similar place is the point, or as near as a token is wide."""
    side = pictures.side_of(small_model)
    shown = pictures.point_pictures(small_model, image, (100, 150), [Captioned(image, "copy")], SPEC)
    assert [caption for _, caption in shown] == ["the point", "copy, cosine 1.00 there"]
    assert shown[0].picture.size == (side, side)
    assert np.asarray(shown[0].picture)[150 - 7, 100].max() > 200  # the ring
    with pytest.raises(ValueError, match="outside"):
        pictures.point_pictures(small_model, image, (side + 1, 3), [], SPEC)


def test_heat_runs_from_dark_to_bright():
    grey = Image.new("RGB", (3, 2), (100, 100, 100))
    heated = np.asarray(pictures.heated(grey, np.array([[0, 0.5, 1], [0, 0.5, 1]])), float).sum(axis=-1)
    assert (np.diff(heated, axis=1) > 0).all() and (heated[0] == heated[1]).all()


def test_inpainting_changes_what_is_painted_alone(small_model: rf.Model, image: Image.Image):
    size = small_model.image_size
    mask = np.zeros((2 * size, 2 * size), bool)
    mask[size // 2 : size, size // 2 : size] = True
    drawn = pictures.inpainted(small_model, image, mask, 1, seed=3)
    assert drawn == pictures.inpainted(small_model, image, mask, 1, seed=3)
    assert drawn != pictures.inpainted(small_model, image, mask, 1, seed=4)
    scale = pictures.side_of(small_model) / size
    before = np.asarray(pictures.enlarged(pictures.square(image, size), scale), int)
    changed = np.abs(np.asarray(drawn, int) - before).max(axis=-1) > 0
    edge, reach = round(scale * size / 4), round(2 * scale)  # of the bicubic enlargement
    assert changed[edge : 2 * edge, edge : 2 * edge].mean() > 0.5
    assert not changed[2 * edge + reach :].any() and not changed[:, 2 * edge + reach :].any()
    with pytest.raises(ValueError, match="nothing"):
        pictures.inpainted(small_model, image, np.zeros_like(mask))


def test_outpainting_adds_the_padding(small_model: rf.Model, image: Image.Image):
    scale = pictures.side_of(small_model) // small_model.image_size
    drawn = pictures.outpainted(small_model, image, (16, 0, 0, 8), seed=1)
    assert drawn.size == (scale * (small_model.image_size + 16), scale * (small_model.image_size + 8))


def test_surprisal_is_told_in_nats(small_model: rf.Model, image: Image.Image):
    shown = pictures.surprisal_pictures(small_model, image, orders=2)
    pixels = to_tensor(adm_center_crop(image, small_model.image_size))[None]
    nats = -rf.log_likelihood(small_model.transformer, small_model.tokenizer.encode(pixels), orders=2).mean()
    assert f"{nats:.2f} nats" in shown[2].caption
    assert f"{math.log(small_model.transformer.config.vocab_size):.2f}" in shown[2].caption
    assert len({picture.size for picture, _ in shown}) == 1


def test_a_folder_a_table_and_an_index_have_the_same_neighbours(
    photos: Path, collection: Collection, small_model: rf.Model, tmp_path: Path
):
    table = rf.extract_to_store(photos, tmp_path / "table", small_model, store_dtype="float32", progress=False)
    rf.build_index(table, tmp_path / "index", progress=False)
    (tmp_path / "scratch").mkdir()
    found = []
    for folder in ("table", "index"):
        opened = open_collection(str(tmp_path / folder), tmp_path / "scratch", model=small_model, progress=False)
        found.append([hit["id"] for hit in opened.neighbours(opened.pictures([2], 64)[2], 2, 4)])
        assert opened.spec == collection.spec and len(opened) == len(collection)
    own = collection.neighbours(collection.pictures([2], 64)[2], 2, 4)
    assert found == [[hit["id"] for hit in own]] * 2
    assert collection.caption(2) == "image 2, china"
    with pytest.raises(ValueError, match="spec='single/image/0'"):
        open_collection(str(tmp_path / "index"), tmp_path / "scratch", model=small_model, spec="single/image/0")
    with pytest.raises(ValueError, match="data="):
        open_collection(str(photos), tmp_path / "scratch", model=small_model, data=str(photos))


def test_a_collection_is_searched_whole_however_small(small_model: rf.Model, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    picture = Image.effect_noise((20, 20), 90).convert("RGB")
    for count in (1, 2):
        picture.save(tmp_path / f"photos/{count}.png")
        options: dict[str, Any] = {"model": small_model, "progress": False}
        collection = open_collection(str(tmp_path / "photos"), tmp_path / str(count), **options)
        assert [len(collection.neighbours(picture, number, 5)) for number in (None, 0)] == [count, count - 1]


def test_only_some_of_many_images(photos: Path, small_model: rf.Model, tmp_path: Path):
    few = open_collection(str(photos), tmp_path, model=small_model, most=4, progress=False)
    assert [few.caption(number) for number in range(4)] == [
        "image 0, china",
        "image 1, china",
        "image 2, flower",
        "image 3, flower",
    ]


def test_images_are_read_in_the_stated_range_or_in_that_of_their_index(small_model: rf.Model, tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for number in range(3):
        Image.fromarray(np.full((20, 20), 1365 * (number + 1), np.uint16)).save(tmp_path / f"deep/{number}.png")
    Image.new("RGB", (30, 30), "white").save(tmp_path / "deep/3.png")
    reading, table = Reading((0, 4095), 20 * 20), tmp_path / "table"
    rf.extract_to_store(tmp_path / "deep", table, small_model, **vars(reading), progress=False)
    whole = open_collection(str(tmp_path / "deep"), tmp_path, model=small_model, reading=reading, progress=False)
    shutil.rmtree(tmp_path / "index")
    stated = open_collection(str(table), tmp_path, model=small_model, progress=False)
    for collection in (whole, stated):
        shown = collection.pictures(range(3), 8)
        assert [np.asarray(shown[number]).max() for number in range(3)] == [85, 170, 255]
    assert 3 not in whole.pictures([3], 8) and 3 in stated.pictures([3], 8)


def test_images_without_files_need_their_data(photos: Path, small_model: rf.Model, tmp_path: Path):
    images = [np.full((20, 20, 3), value, np.uint8) for value in (0, 99, 200)]
    rf.extract_to_store(images, tmp_path / "table", small_model, progress=False)
    with pytest.raises(ValueError, match="--data"):
        open_collection(str(tmp_path / "table"), tmp_path / "one", model=small_model, progress=False)
    with pytest.raises(ValueError, match="18"):
        open_collection(str(tmp_path / "table"), tmp_path / "two", data=str(photos), model=small_model, progress=False)
