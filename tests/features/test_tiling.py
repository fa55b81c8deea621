from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from randar_features.features.tiling import blend, hat_window, tile_positions, tile_starts, tiled_maps, usual_stride


def mean_of_patches(batch: Tensor) -> Tensor:
    return F.avg_pool2d(batch, 2).permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("length", "size", "stride", "expected"),
    [(10, 4, 3, [0, 3, 6]), (11, 4, 3, [0, 3, 6, 7]), (4, 4, 2, [0]), (12, 4, 4, [0, 4, 8])],
)
def test_tiles_reach_from_edge_to_edge(length: int, size: int, stride: int, expected: list[int]):
    assert tile_starts(length, size, stride) == expected


@pytest.mark.parametrize(
    ("size", "patch", "expected"), [(64, 8, 24), (64, 16, 16), (256, 16, 112), (224, 16, 80), (6, 2, 2), (8, 8, 8)]
)
def test_tiles_are_an_odd_number_of_features_apart(size: int, patch: int, expected: int):
    assert usual_stride(size, patch) == expected


def test_positions_go_row_by_row():
    assert tile_positions(3, 4, 2, 2) == [(0, 0), (0, 2), (1, 0), (1, 2)]


def test_two_tiles_fade_into_each_other():
    assert hat_window(3).tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    tiles = torch.stack([torch.zeros(3, 3, 1), torch.ones(3, 3, 1)])
    blended = blend(tiles, [(0, 0), (0, 1)], 3, 4)
    torch.testing.assert_close(blended[..., 0], torch.tensor([0, 1 / 3, 2 / 3, 1]).expand(3, 4))


@pytest.mark.parametrize(("height", "width", "size", "stride"), [(7, 9, 4, 3), (8, 8, 4, 4), (5, 11, 5, 2)])
def test_tiles_cut_from_a_map_blend_into_that_map(height: int, width: int, size: int, stride: int):
    whole = torch.randn(height, width, 3, generator=torch.Generator().manual_seed(0))
    positions = tile_positions(height, width, size, stride)
    tiles = torch.stack([whole[r : r + size, c : c + size] for r, c in positions])
    torch.testing.assert_close(blend(tiles, positions, height, width), whole)
    torch.testing.assert_close(blend(torch.full_like(tiles, 5), positions, height, width), torch.full_like(whole, 5))


def test_a_place_that_no_tile_covers_is_named():
    with pytest.raises(ValueError, match="no tile covers row 0, column 2 of the 2x3 map"):
        blend(torch.ones(1, 2, 2, 1), [(0, 0)], 2, 3)


def test_an_encoder_that_looks_at_patches_alone_gives_the_map_of_the_whole_picture():
    image = torch.rand(3, 12, 20, generator=torch.Generator().manual_seed(0))
    options = {"size": 8, "patch": 2, "stride": 4}
    maps = tiled_maps(mean_of_patches, image, batch_size=3, **options)
    torch.testing.assert_close(maps, mean_of_patches(image[None])[0])
    assert torch.equal(maps, tiled_maps(mean_of_patches, image, batch_size=100, **options))


def test_sides_that_do_not_fit_are_refused():
    image = torch.zeros(3, 12, 21)
    with pytest.raises(ValueError, match="a 12x21 picture, tiles of 8 and a stride of 4 pixels must be multiples of"):
        tiled_maps(mean_of_patches, image, size=8, patch=2, stride=4)
    with pytest.raises(ValueError, match="stride=4, size=16, length=12"):
        tiled_maps(mean_of_patches, image[:, :, :20], size=16, patch=2, stride=4)


def test_maps_of_another_shape_are_refused():
    image = torch.zeros(3, 64, 64)  # 16 tokens a tile would fit as 16 rows of the whole map
    with pytest.raises(ValueError, match=r"gave \(64, 16, 3\), expected \(64, 4, 4, D\)"):
        tiled_maps(lambda tiles: mean_of_patches(tiles).flatten(1, 2), image, size=8, patch=2, stride=8)
