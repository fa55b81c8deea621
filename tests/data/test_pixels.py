from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from randar_features.data import adm_center_crop, pixels
from randar_features.data.pixels import PixelCache, cache_pixels


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for index, name in enumerate(("ant/0.png", "bee/2.png", "bee/3.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(folder / name)
    (folder / "ant/1.png").write_text("no picture")
    return folder


def test_holds_the_crops_without_what_cannot_be_read(images: Path, tmp_path: Path):
    cache = cache_pixels(images, tmp_path / "cache", image_size=8)
    pixels = cache.pixels(torch.arange(3))
    assert (len(cache), pixels.shape, pixels.dtype) == (3, (3, 3, 8, 8), np.uint8)
    for row in range(3):
        crop = np.asarray(adm_center_crop(picture(row), 8))
        assert np.array_equal(pixels[row].transpose(1, 2, 0), crop)
    assert cache.labels.tolist() == [0, 1, 1]
    assert cache.label_names == ["ant", "bee"]
    assert [entry["path"] for entry in cache.unreadable] == [str(images / "ant/1.png")]


def test_images_are_floats_in_the_order_asked_for(images: Path, tmp_path: Path):
    cache = cache_pixels(images, tmp_path / "cache", image_size=8)
    found = cache.images(torch.tensor([2, 0]))
    assert torch.equal(found, torch.from_numpy(cache.pixels(torch.tensor([2, 0]))).float() / 255)
    assert found.max() <= 1


def test_tensors_are_rounded_to_8_bits(tmp_path: Path):
    values = torch.tensor([0.0, 0.001, 0.5, 1.0])
    images = values[:, None, None, None].expand(-1, 3, 4, 4)
    cache = cache_pixels(images, tmp_path, image_size=4)
    assert cache.pixels(torch.arange(4))[:, 0, 0, 0].tolist() == [0, 0, 128, 255]
    assert cache.labels.tolist() == [-1] * 4
    assert cache.label_names is None


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_is_made_once(images: Path, tmp_path: Path):
    cache_pixels(images, tmp_path / "cache", image_size=8)
    before = written(tmp_path / "cache")
    assert len(cache_pixels(images, tmp_path / "cache", image_size=8)) == 3
    assert written(tmp_path / "cache") == before


def test_another_size_is_refused(images: Path, tmp_path: Path):
    cache_pixels(images, tmp_path / "cache", image_size=8)
    with pytest.raises(ValueError, match="image_size is 8, now 4"):
        cache_pixels(images, tmp_path / "cache", image_size=4)


@pytest.mark.parametrize("change", ["new", "overwritten", "moved"])
def test_other_images_are_decoded_anew(images: Path, tmp_path: Path, change: str):
    cache_pixels(images, tmp_path / "cache", image_size=8)
    if change == "moved":
        (images / "bee/2.png").rename(images / "ant/2.png")
    else:
        picture(9).save(images / ("ant/9.png" if change == "new" else "ant/0.png"))
    with pytest.warns(UserWarning, match="decoded anew"):
        cache = cache_pixels(images, tmp_path / "cache", image_size=8)
    fresh = cache_pixels(images, tmp_path / "fresh", image_size=8)
    rows = torch.arange(len(fresh))
    assert len(cache) == len(fresh) and np.array_equal(cache.pixels(rows), fresh.pixels(rows))
    assert cache.labels.tolist() == fresh.labels.tolist()


def test_goes_on_after_a_kill(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pixels, "SHARD_BYTES", 2 * 3 * 8 * 8)
    cache_pixels(images, tmp_path / "cache", image_size=8)
    before = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    next((tmp_path / "cache").glob("rows-000000002-*")).unlink()
    cache_pixels(images, tmp_path / "cache", image_size=8)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == before


def test_a_torn_file_is_named(images: Path, tmp_path: Path):
    cache_pixels(images, tmp_path / "cache", image_size=8)
    path = next((tmp_path / "cache").glob("rows-*"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{path.name} is torn"):
        PixelCache(tmp_path / "cache")


def test_a_cache_of_an_earlier_version_is_told(images: Path, tmp_path: Path):
    (tmp_path / "pixels.u8").touch()
    with pytest.raises(ValueError, match="earlier version"):
        cache_pixels(images, tmp_path, image_size=8)


def test_nothing_readable_is_an_error(tmp_path: Path):
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(ValueError, match="none of 1 images could be read"):
        cache_pixels([tmp_path / "bad.png"], tmp_path / "cache", image_size=8)
    assert not (tmp_path / "cache/manifest.json").exists()


def test_splits_are_subfolders_or_parquet_files(images: Path, tmp_path: Path):
    (tmp_path / "data").mkdir()
    images.rename(tmp_path / "data/train")
    assert len(cache_pixels(tmp_path / "data", tmp_path / "cache", image_size=8, split="train")) == 3
    with pytest.raises(ValueError, match="no split 'validation' in"):
        cache_pixels(tmp_path / "data", tmp_path / "cache/validation", image_size=8, split="validation")


def test_a_time_limit_is_kept_and_the_next_run_goes_on(images: Path, tmp_path: Path):
    assert cache_pixels(images, tmp_path / "cache", image_size=8, deadline=0) is None
    found, whole = (cache_pixels(images, tmp_path / name, image_size=8) for name in ("cache", "whole"))
    assert found is not None and whole is not None
    everything = torch.arange(len(whole))
    assert np.array_equal(found.pixels(everything), whole.pixels(everything))
