"""Feature maps as colours: places of one feature have one colour, in every picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.datasets.photographs import feature_colours
from benchmarks.encoders import Encoder
from benchmarks.result import read_result
from benchmarks.tasks.dense import maps

SIZE = 16


class PatchMeans(Encoder):
    """The mean colour of each 4×4 patch, and of the whole image."""

    def __init__(self) -> None:
        super().__init__(name="means", image_size=SIZE, weights="none", outputs={"patches": {}, "image": {}})

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        patches = F.avg_pool2d(images, 4).permute(0, 2, 3, 1)
        return {"patches": patches, "image": patches.mean(dim=(1, 2), keepdim=True)}


def halves(left: float, right: float) -> Tensor:
    picture = torch.full((3, 2 * SIZE, 2 * SIZE), left)
    picture[:, :, SIZE:] = right
    return picture


def test_equal_features_have_equal_colours_across_pictures() -> None:
    first, second = feature_colours([halves(0.1, 0.9), halves(0.9, 0.5)], PatchMeans(), ["patches"])["patches"]
    assert first.shape == (8, 8, 3)
    assert np.allclose(first[:, :4], first[0, 0], atol=1e-6)
    assert np.allclose(first[:, 4:], second[:, :4], atol=1e-6)
    # The one component that varies runs from the darkest to the brightest; the others do not vary.
    assert np.allclose([first[0, 0], second[0, 7], first[0, 7]], [[0, 0.5, 0.5], [0.5] * 3, [1, 0.5, 0.5]], atol=1e-3)


class SeveralGrids(Encoder):
    """Two maps on a 4×4 grid, of three channels and of twelve, and one on an 8×8 grid."""

    def __init__(self) -> None:
        super().__init__(name="grids", image_size=SIZE, weights="none", outputs={"a": {}, "fine": {}, "b": {}})

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        fine = F.avg_pool2d(images, 2)
        maps = {"a": F.avg_pool2d(images, 4), "fine": fine, "b": F.pixel_unshuffle(fine, 2)}
        return {name: each.permute(0, 2, 3, 1) for name, each in maps.items()}


def test_outputs_are_drawn_as_each_alone() -> None:
    pictures = list(torch.rand(2, 3, 2 * SIZE, 3 * SIZE, generator=torch.Generator().manual_seed(0)))
    together = feature_colours(pictures, SeveralGrids(), ["b", "fine", "a"])
    assert list(together) == ["b", "fine", "a"]
    for output, own in together.items():
        alone = feature_colours(pictures, SeveralGrids(), [output])[output]
        assert all(np.array_equal(*pair) for pair in zip(own, alone, strict=True))


def test_one_vector_an_image_is_no_picture() -> None:
    with pytest.raises(ValueError, match="no map of features in image"):
        feature_colours([halves(0.1, 0.9)], PatchMeans(), ["patches", "image"])


def test_masks_are_not_taken_for_images(tmp_path: Path) -> None:
    for layout in ("a/val/images", "a/val/masks", "b/images/val", "b/masks/val"):
        (tmp_path / layout).mkdir(parents=True)
        Image.new("L", (16, 16), 255 if "images" in layout else 0).save(tmp_path / layout / "0.png")
    for name in ("a", "b"):
        pictures = maps.read_pictures(maps.Config(data=str(tmp_path / name), split="val"), 16)
        assert pictures.shape == (1, 3, 16, 16) and pictures.min() == 1
    assert maps.images_of(str(tmp_path), "val") == (str(tmp_path), "val")


def test_the_command_draws_images_beside_their_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (40, 32), (50 * number, 100, 0)).save(folder / f"{number}.png")
    monkeypatch.setattr(maps, "load_encoder", lambda name, **_: PatchMeans())
    config = maps.Config(data=str(folder), encoder="means", outputs=("patches",), images=3, scale=2)
    result = read_result(maps.run(config, tmp_path / "out"))
    assert list(result["artifacts"].values()) == ["maps.png"]
    assert (result["card"]["axes"]["encoder"], result["card"]["axes"]["resolution"]) == ("means", 2 * SIZE)
    drawn = np.asarray(Image.open(tmp_path / "out" / "maps.png").convert("RGB"))
    greens = {(50 * number, 100, 0) for number in (0, 2, 4)}
    assert greens <= set(map(tuple, drawn.reshape(-1, 3)))


def test_the_photographs_fit_a_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "load_encoder", lambda name, **_: PatchMeans())
    options: dict[str, Any] = {"outputs": ("patches",), "height": 120, "colours": 256, "file": "own.png"}
    maps.run(maps.Config(data="photographs", encoder="means", **options), tmp_path)
    drawn = Image.open(tmp_path / "own.png")
    assert drawn.mode == "P" and (tmp_path / "own.png").stat().st_size < 100_000
    assert drawn.width / drawn.height == pytest.approx(2 * 1.5 * 120 / (3 * 120), rel=0.2)
