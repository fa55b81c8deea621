from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from probes import correspondence, match_points, positional_basis, remove_basis, similarity_maps


def random_map(height: int, width: int, channels: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((height, width, channels), dtype=np.float32)


def as_published(
    source_map: np.ndarray,
    target_map: np.ndarray,
    points: np.ndarray,
    source_size: tuple[int, int],
    target_size: tuple[int, int],
) -> np.ndarray:
    """DIFT's `eval_spair.py`: both maps up-sampled whole, one point after another; the first of equals.

    Pixels beyond the outermost token centres copy it, so equals do occur; rounding makes them equal.
    """
    source, target = (
        F.interpolate(torch.from_numpy(m).double().permute(2, 0, 1)[None], size, mode="bilinear")[0]
        for m, size in ((source_map, source_size), (target_map, target_size))
    )
    pixels = F.normalize(target.flatten(1).T, dim=1)
    found = []
    for x, y in points.astype(int):
        cosines = pixels @ F.normalize(source[:, y, x], dim=0)
        row, column = np.unravel_index(int(cosines.round(decimals=12).argmax()), target_size)
        found.append((column, row))
    return np.array(found)


def test_equals_the_published_procedure() -> None:
    source, target = random_map(6, 5, 16, 0), random_map(4, 7, 16, 1)
    generator = np.random.default_rng(2)
    points = np.stack([generator.integers(0, 33, 40), generator.integers(0, 47, 40)], 1).astype(np.float32)
    found = match_points(source, target, points, source_size=(47, 33), target_size=(39, 60))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, as_published(source, target, points, (47, 33), (39, 60)))


@pytest.mark.parametrize("size", [1e-30, 1e-14, 1e25, 1e200])
def test_the_size_of_features_does_not_matter(size: float) -> None:
    source, target = (random_map(4, 4, 8, seed).astype(np.float64) for seed in (0, 1))
    points, sizes = np.array([[3.0, 5.0], [12.0, 9.0]]), {"source_size": (16, 16), "target_size": (16, 16)}
    found = match_points(size * source, size * target, points, **sizes)
    np.testing.assert_array_equal(found, match_points(source, target, points, **sizes))


def test_of_equal_tokens_the_first_is_found_however_many_points_are_given() -> None:
    token = random_map(1, 1, 192, 0)
    target, source = np.tile(token, (7, 5, 1)), random_map(2, 2, 192, 1)
    for points in (np.zeros((1, 2)), np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])):
        found = match_points(source, target, points, source_size=(2, 2), target_size=(37, 23))
        assert not found.any()


def test_a_shifted_copy_gives_the_exact_shift() -> None:
    """The target is the source moved 2 tokens right and 1 up: 16 and -8 pixels, at 8 pixels a token."""
    source = random_map(8, 8, 32, 0)
    target = random_map(8, 8, 32, 1)
    target[:7, 2:] = source[1:, :6]
    points = np.array([[x, y] for x in range(4, 40, 7) for y in range(12, 60, 9)], np.float32)
    found = match_points(source, target, points, source_size=(64, 64), target_size=(64, 64))
    np.testing.assert_array_equal(found, points + np.array([16, -8]))


def test_a_copy_at_another_image_size_scales_the_points() -> None:
    source = random_map(8, 8, 32, 0)
    points = np.array([[16.0, 20.0], [31.0, 8.0]], np.float32)
    found = match_points(source, source, points, source_size=(64, 64), target_size=(192, 192))
    np.testing.assert_array_equal(found, 3 * points + 1)


def test_points_round_to_whole_pixels() -> None:
    source = random_map(8, 8, 32, 0)
    points = np.array([[20.49, 30.5], [-0.4, 63.4]])
    found = match_points(source, source, points, source_size=(64, 64), target_size=(64, 64))
    assert found[0].tolist() == [20, 31]


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = random_map(6, 6, 16, 0), random_map(6, 6, 16, 1)
    points = np.random.default_rng(2).uniform(0, 47, (30, 2))
    expected = match_points(source, target, points, source_size=(48, 48), target_size=(48, 48))
    monkeypatch.setattr(correspondence, "_BLOCK_VALUES", 1000)
    found = match_points(source, target, points, source_size=(48, 48), target_size=(48, 48))
    np.testing.assert_array_equal(found, expected)


def test_inputs_may_be_torch_or_half_and_stay_as_they_were() -> None:
    source = torch.from_numpy(random_map(6, 6, 16, 0))
    before = source.clone()
    points = np.array([[20.0, 30.0], [7.0, 9.0]])
    for same in (source, source.half(), source.bfloat16(), source.double()):
        found = match_points(same, same, points, source_size=(48, 48), target_size=(48, 48))
        np.testing.assert_array_equal(found, points)
    torch.testing.assert_close(source, before, atol=0, rtol=0)


def test_bad_input_is_refused() -> None:
    feature_map, points = random_map(4, 4, 8, 0), np.array([[1.0, 1.0], [32.0, 5.0]])
    sizes = {"source_size": (32, 32), "target_size": (32, 32)}
    with pytest.raises(ValueError, match=r"point 1 = \(32\.0, 5\.0\).*32 pixels wide and 32 high"):
        match_points(feature_map, feature_map, points, **sizes)
    with pytest.raises(ValueError, match=r"points must have shape \(K, 2\), got \(2, 3\)"):
        match_points(feature_map, feature_map, np.zeros((2, 3)), **sizes)
    with pytest.raises(ValueError, match=r"share D, got \(4, 4, 8\) and \(4, 4, 7\)"):
        match_points(feature_map, feature_map[..., :7], points[:1], **sizes)
    with pytest.raises(ValueError, match=r"source_map must have shape \(h, w, D\).*\(4, 8\)"):
        match_points(feature_map[0], feature_map, points[:1], **sizes)
    with pytest.raises(ValueError, match="target_map: row 2 of 4 holds NaN"):
        broken = feature_map.copy()
        broken[2, 1, 3] = np.nan
        match_points(feature_map, broken, points[:1], **sizes)


def test_the_positional_basis_holds_what_depends_on_the_place_alone() -> None:
    """Features are a code for their place, in two directions, and content in all: the former alone is taken out."""
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.standard_normal((12, 12)))[0][:2]
    places = 20 * generator.standard_normal((5, 6, 2)) @ axes
    noise = generator.standard_normal((400, 5, 6, 12))
    basis = positional_basis((places + noise).astype(np.float32), 2)
    assert basis.shape == (2, 12)
    torch.testing.assert_close(basis @ basis.T, torch.eye(2), atol=1e-5, rtol=0)
    np.testing.assert_allclose(np.abs(np.linalg.det(basis.numpy() @ axes.T)), 1, atol=1e-3)  # they span one plane
    content = generator.standard_normal((5, 6, 12))
    left = remove_basis(content + places, basis).numpy()
    expected = content - content @ axes.T @ axes
    np.testing.assert_allclose(left, expected, atol=0.15)


def test_removing_a_basis_by_hand() -> None:
    maps = np.array([[[3.0, 4.0, 5.0], [1.0, 0.0, 2.0]]], np.float32)
    basis = torch.tensor([[0.6, 0.8, 0.0]])
    expected = torch.tensor([[[0.0, 0.0, 5.0], [0.64, -0.48, 2.0]]])
    torch.testing.assert_close(remove_basis(maps, basis), expected)
    torch.testing.assert_close(remove_basis(remove_basis(maps, basis), basis), expected)


def test_without_its_position_a_moved_pattern_is_found() -> None:
    """The same content elsewhere, under a strong code for places: found only once that is gone."""
    generator = np.random.default_rng(3)
    places = 8 * generator.standard_normal((6, 6, 16)) @ np.diag([1] * 4 + [0] * 12)
    content = generator.standard_normal((6, 6, 16))
    source, target = content + places, np.roll(content, (1, 2), (0, 1)) + places
    basis = positional_basis(places[None] + 0.01 * generator.standard_normal((50, 6, 6, 16)), 4)
    points = np.array([[x, y] for x in (12.0, 20.0, 28.0) for y in (12.0, 28.0)])
    sizes = {"source_size": (48, 48), "target_size": (48, 48)}
    with_position = match_points(source, target, points, **sizes)
    without = match_points(remove_basis(source, basis), remove_basis(target, basis), points, **sizes)
    moved = points + np.array([16, 8])
    assert (np.abs(without - moved).max(1) <= 4).all()
    assert (np.abs(with_position - moved).max(1) > 4).mean() > 0.5


def test_bases_that_do_not_fit_are_refused() -> None:
    maps = random_map(2, 3, 8, 0)[None]
    with pytest.raises(ValueError, match=r"within 1 … 6, the fewer of 6 places and 8 features, got 7"):
        positional_basis(maps, 7)
    with pytest.raises(ValueError, match="one of 8 features, the maps have 5"):
        remove_basis(maps[..., :5], positional_basis(maps, 2))


def test_similarity_maps_are_the_cosines_of_up_sampled_features() -> None:
    source, target = random_map(6, 5, 16, 0), random_map(4, 7, 16, 1)
    points = np.array([[3, 9], [20, 40]], np.float32)
    found = similarity_maps(source, target, points, source_size=(47, 33), target_size=(39, 60))
    large, small = (
        F.interpolate(torch.from_numpy(m).permute(2, 0, 1)[None], size, mode="bilinear")[0]
        for m, size in ((source, (47, 33)), (target, (39, 60)))
    )
    for (x, y), cosines in zip(points.astype(int), found, strict=True):
        expected = F.cosine_similarity(small, large[:, y, x][:, None, None], dim=0)
        np.testing.assert_allclose(cosines, expected, atol=1e-5)


def test_no_cosine_is_above_one() -> None:
    same, points = random_map(16, 16, 384, 0), np.indices((16, 16)).reshape(2, -1).T.astype(np.float32)
    cosines = similarity_maps(same, same, points, source_size=(16, 16), target_size=(16, 16))
    assert cosines.max() == 1
