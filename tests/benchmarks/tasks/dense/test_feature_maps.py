from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.encoders import Encoder
from benchmarks.options import EncoderOptions
from benchmarks.tasks.dense.feature_maps import (
    DenseFeatures,
    Layout,
    Lazily,
    Tiles,
    dense_features,
    file_name,
    resized,
)


class Means(Encoder):
    """The mean colour of each 4×4 and of each 8×8 patch of a 16×16 image, and of the whole."""

    def __init__(self) -> None:
        super().__init__(name="means", image_size=16, weights="none", outputs={"fine": {}, "coarse": {}, "all": {}})
        self.calls = 0

    def _encode(self, images: Tensor, outputs: list[str]) -> dict[str, Tensor]:
        self.calls += 1
        sides = {"fine": 4, "coarse": 2, "all": 1}
        return {name: F.adaptive_avg_pool2d(images, sides[name]).permute(0, 2, 3, 1) for name in outputs}


def ramp(height: int, width: int) -> np.ndarray:
    """Red grows to the right, green downwards, both linearly; blue is constant."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = np.arange(width), np.arange(height)[:, None], 77
    return image


def features_of(images: list[np.ndarray], folder: Path, **options: Any) -> DenseFeatures:
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    layout = Layout(16, 8, **options)
    return dense_features(
        Means(), lambda n: images[n], sizes, outputs=["fine", "coarse"], layout=layout, folder=folder, name="images",
        dtype="float32", progress=False,
    )  # fmt: skip


def test_one_tile_is_the_squashed_image_itself(tmp_path: Path) -> None:
    image = ramp(40, 24)
    features = features_of([image], tmp_path)
    expected = Means().encode(resized(image, Layout(16, 8))[None])["fine"][0]
    np.testing.assert_array_equal(features.of("fine")[0], expected)
    assert features.of("coarse")[0].shape == (2, 2, 3)


def test_a_resolution_of_the_tile_equals_the_untiled_result(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    squashed, tiled = (features_of([image], tmp_path / str(n), resolution=n).of("fine")[0] for n in (None, 16))
    np.testing.assert_array_equal(squashed, tiled)


def test_overlapping_tiles_give_a_linear_field_back(tmp_path: Path) -> None:
    """An encoder that looks at patches alone gives tiles the map of the whole canvas, here of ramps by hand."""
    image = ramp(40, 56)
    features = features_of([image], tmp_path, resolution=40)
    for output, patch in (("fine", 4), ("coarse", 8)):
        maps = features.of(output)[0]
        assert maps.shape == (40 // patch, 56 // patch, 3)
        columns, rows = (patch * np.arange(n) + (patch - 1) / 2 for n in (56 // patch, 40 // patch))
        np.testing.assert_allclose(maps[..., 0], np.broadcast_to(columns / 255, maps.shape[:2]), atol=1e-6)
        np.testing.assert_allclose(maps[..., 1], np.broadcast_to(rows[:, None] / 255, maps.shape[:2]), atol=1e-6)
        np.testing.assert_allclose(maps[..., 2], 77 / 255, atol=1e-6)


def test_images_of_several_sizes_keep_apart_and_are_computed_once(tmp_path: Path) -> None:
    images = [ramp(40, 56), ramp(16, 16), ramp(64, 20)]
    both = features_of(images, tmp_path / "both", resolution=16)
    for number, image in enumerate(images):
        alone = features_of([image], tmp_path / f"{number}", resolution=16)
        np.testing.assert_array_equal(both.of("fine")[number], alone.of("fine")[0])
    side_by_side = np.concatenate([both.of("fine")[2], both.of("fine")[2]], -1)
    np.testing.assert_array_equal(both.of("fine", "fine")[2], side_by_side)
    maps, positions, canvas = both.tiles_of(["fine"], 2)
    assert canvas == (48, 16) and positions == [(0, 0), (8, 0), (16, 0), (24, 0), (32, 0)] and len(maps) == 5


def test_tiles_come_in_the_order_of_their_positions() -> None:
    image = ramp(32, 24)
    tiles = Tiles(lambda _: image, [(32, 24)], Layout(16, 8, resolution=24, stride=8))
    assert len(tiles) == len(tiles.positions[0]) == 2 * 3
    for number, (row, column) in enumerate(tiles.positions[0]):
        expected = torch.from_numpy(image[row : row + 16, column : column + 16].copy()).permute(2, 0, 1) / 255
        torch.testing.assert_close(tiles[number], expected)


@pytest.mark.parametrize(
    ("resolution", "size", "canvas"),
    [(None, (100, 300), (16, 16)), (16, (100, 300), (16, 48)), (40, (360, 480), (40, 56)), (16, (50, 51), (16, 16))],
)
def test_canvases_by_hand(resolution: int | None, size: tuple[int, int], canvas: tuple[int, int]) -> None:
    assert Layout(16, 8, resolution).canvas(*size) == canvas


def test_layouts_are_checked_and_say_what_they_are() -> None:
    assert str(Layout(64, 8)) == "64x64, squashed"
    assert str(Layout(64, 8, 128, 29)) == "shorter side 128, tiles of 64 every 24 pixels"
    with pytest.raises(ValueError, match="at least the encoder's input, 64 pixels, got 32"):
        Layout(64, 8, 32)
    with pytest.raises(ValueError, match="within 8 … 64 pixels, got 4"):
        Layout(64, 8, 64, 4)


def test_outputs_without_a_grid_are_left_out_or_refused() -> None:
    assert Means().grids() == {"fine": 4, "coarse": 2}
    assert Means().grids(["coarse"]) == {"coarse": 2}
    with pytest.raises(ValueError, match="means has no map of features in all"):
        Means().grids(["fine", "all"])


def test_outputs_may_be_another_encoder_s() -> None:
    two = ("means", "other")
    assert EncoderOptions(encoder=two, outputs=("coarse", "layer 7")).chosen(Means()) == ["coarse"]
    assert EncoderOptions(encoder=two, outputs=("layer 7",)).chosen(Means()) is None  # all
    assert EncoderOptions(encoder=two).chosen(Means()) is EncoderOptions().chosen(Means()) is None
    assert EncoderOptions(outputs=("coarse",)).chosen(Means()) == ["coarse"]
    with pytest.raises(ValueError, match="means has no output 'layer 7'"):
        EncoderOptions(outputs=("coarse", "layer 7")).chosen(Means())


def test_arrays_are_made_once_while_there_is_room() -> None:
    made: list[int] = []

    def make(number: int) -> np.ndarray:
        made.append(number)
        return np.full(10, number, np.float32)

    arrays = Lazily(make, 4, kept_bytes=80)
    assert [int(arrays[n][0]) for n in (0, 1, 2, 0, 1, 2, -1)] == [0, 1, 2, 0, 1, 2, 3]
    assert made == [0, 1, 2, 2, 3]
    assert [int(array[0]) for array in arrays[1:3]] == [1, 2] and len(arrays) == 4
    with pytest.raises(IndexError):
        arrays[4]


def test_names_of_files() -> None:
    assert file_name("a/b: shorter side 96, 2x") == "a-b-shorter-side-96-2x"


def test_resizing_antialiases() -> None:
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    image = np.repeat(checks[..., None], 3, 2).astype(np.uint8)
    assert float(resized(image, Layout(16, 8)).std()) < 0.05
    assert resized(np.asarray(Image.new("RGB", (30, 20))), Layout(16, 8)).shape == (3, 16, 16)
