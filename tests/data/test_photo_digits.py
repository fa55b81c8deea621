from __future__ import annotations

import hashlib
from itertools import chain

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from randar_features.data import PhotoDigit, PhotoDigits, corresponding_points, open_images, photo_digits

LUMINANCE = np.array([0.299, 0.587, 0.114])


def _samples(count: int = 60, **options: int) -> list[PhotoDigit]:
    dataset = PhotoDigits("train", **options)
    return [dataset[index] for index in range(count)]


def _to_pixels(sample: PhotoDigit, u: float, v: float) -> np.ndarray:
    return sample.affine @ np.array([u, v, 1.0])


# Splits


def test_splits_share_out_all_scans_and_none_is_in_two() -> None:
    scans = {split: PhotoDigits(split).scans for split in ("train", "validation", "test")}
    assert {split: len(found) for split, found in scans.items()} == {
        "train": 1074,
        "validation": 359,
        "test": 364,
    }
    assert sorted(chain.from_iterable(scans.values())) == list(range(1797))


def test_every_class_has_its_share_in_each_split() -> None:
    total = np.bincount(load_digits().target)
    for split, share in {"train": 0.6, "validation": 0.2, "test": 0.2}.items():
        assert np.abs(np.bincount(PhotoDigits(split).labels) - share * total).max() <= 1


def test_neither_seed_nor_placements_move_a_scan_to_another_split() -> None:
    dataset = PhotoDigits("test", seed=5, placements=3)
    assert dataset.scans == PhotoDigits("test").scans
    assert len(dataset) == len(dataset.labels) == 3 * 364
    assert [(dataset[i].scan, dataset[i].placement) for i in (0, 2, 3)] == [
        (dataset.scans[0], 0),
        (dataset.scans[0], 2),
        (dataset.scans[1], 0),
    ]


# Determinism


def test_pictures_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256()
    dataset = PhotoDigits("test", placements=2, seed=3)
    for sample in (dataset[index] for index in range(len(dataset))):
        digest.update(sample.image.tobytes() + sample.mask.tobytes() + sample.affine.tobytes())
    assert digest.hexdigest()[:20] == "62dbec5488124e5309e8"


def test_a_sample_depends_on_its_scan_placement_and_seed_alone() -> None:
    one, many = PhotoDigits("train", seed=1), PhotoDigits("train", seed=1, placements=4)
    for index in (0, 17, -1):
        first = many[(index % len(one)) * 4]
        np.testing.assert_array_equal(one[index].image, first.image)
        np.testing.assert_array_equal(one[index].affine, first.affine)
    assert not np.array_equal(many[0].image, many[1].image)
    assert not np.array_equal(one[0].image, PhotoDigits("train", seed=2)[0].image)


# Pictures


def test_shapes_labels_and_masks_agree() -> None:
    targets = load_digits().target
    for sample in _samples():
        assert sample.image.shape == (64, 64, 3)
        assert sample.image.dtype == sample.mask.dtype == np.uint8
        assert sample.label == targets[sample.scan]
        assert set(np.unique(sample.mask)) == {0, sample.label + 1}


@pytest.mark.parametrize("size", [32, 64, 160])
def test_digits_lie_inside_and_cover_half_to_seven_eighths_of_a_side(size: int) -> None:
    for sample in _samples(size=size):
        rows, columns = np.nonzero(sample.mask)
        longer = 1 + max(np.ptp(rows), np.ptp(columns))
        assert 0.5 * size * 0.75 <= longer <= 0.875 * size + 2


def test_ink_stands_out_from_every_pixel_around_it() -> None:
    scans = load_digits().images
    for sample in _samples(200):
        luminance = sample.image @ LUMINANCE / 255
        ink = photo_digits._sample(
            photo_digits._enlarged(scans[sample.scan]),
            photo_digits._inverse(sample.affine),
            64,
        )
        inside = luminance[ink > photo_digits.INK + photo_digits.EDGE]
        outside = luminance[ink < photo_digits.INK - photo_digits.EDGE]
        gap = inside.min() - outside.max() if inside.mean() > outside.mean() else outside.min() - inside.max()
        assert gap > 0.095  # 0.1 less the rounding to 8 bit


def test_backgrounds_come_from_both_photographs_at_several_scales() -> None:
    pyramid = photo_digits._photo_pyramid(64)
    assert sorted({min(photo.shape[:2]) for photo in pyramid}) == [64, 90, 128, 179, 256]
    corners = np.stack([sample.image[:4, :4].mean((0, 1)) for sample in _samples(100)])
    assert (corners.std(axis=0) > 40).all()


# Geometry


def test_the_affine_carries_a_marked_cell_to_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan with one inked cell: the ink's centre is where the affine maps the cell's."""
    scan = np.zeros((1, 8, 8))
    scan[0, 2, 5] = 16
    monkeypatch.setattr(photo_digits, "_digits", lambda: (scan, np.array([7])))
    for placement in range(20):
        sample = photo_digits._compose(0, placement, 64, 0)
        rows, columns = np.nonzero(sample.mask == 8)
        found = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
        np.testing.assert_allclose(found, _to_pixels(sample, 5.5 / 8, 2.5 / 8), atol=0.3)


def test_upright_placement_enlarges_the_scan() -> None:
    """At the identity, 8 pixels a cell, centres of cells keep the sign of ink and background."""
    values = load_digits().images[0]
    affine = np.array([[64.0, 0, 0], [0, 64.0, 0]])
    ink = photo_digits._sample(photo_digits._enlarged(values), photo_digits._inverse(affine), 64)
    centres = (ink[3::8, 3::8] + ink[3::8, 4::8] + ink[4::8, 3::8] + ink[4::8, 4::8]) / 4
    assert np.corrcoef(centres.ravel(), values.ravel())[0, 1] > 0.99
    np.testing.assert_allclose(centres, values, atol=1.0)


def test_rotations_and_shears_stay_in_their_range() -> None:
    angles = [np.degrees(np.arctan2(sample.affine[1, 0], sample.affine[0, 0])) for sample in _samples(200)]
    assert 20 < max(angles) <= 25.001
    assert -25.001 <= min(angles) < -20


def test_corresponding_points_are_one_point_of_the_scan() -> None:
    dataset = PhotoDigits("validation", placements=2)
    for index in range(0, 60, 2):
        first, second = dataset[index], dataset[index + 1]
        points, moved = corresponding_points(first, second)
        assert points.shape == moved.shape == (len(points), 2)
        assert len(points) > 0.8 * (first.mask > 0).sum()
        for sample, place in ((first, points), (second, moved)):
            column, row = np.floor(place).astype(int).T
            assert (sample.mask[row, column] == sample.label + 1).all()
        uv = [
            np.linalg.solve(sample.affine[:, :2], (place - sample.affine[:, 2]).T)
            for sample, place in ((first, points), (second, moved))
        ]
        np.testing.assert_allclose(uv[0], uv[1], atol=1e-9)


def test_corresponding_points_to_itself_are_the_ink_pixels() -> None:
    sample = PhotoDigits("test")[3]
    points, moved = corresponding_points(sample, sample)
    np.testing.assert_allclose(points, moved, atol=1e-9)
    assert len(points) == (sample.mask > 0).sum()


def test_corresponding_points_of_two_scans_are_refused() -> None:
    dataset = PhotoDigits("test")
    with pytest.raises(ValueError, match=rf"scans {dataset.scans[0]} and {dataset.scans[1]}"):
        corresponding_points(dataset[0], dataset[1])


# As a data set


def test_open_images_takes_it_with_labels_and_names() -> None:
    dataset = PhotoDigits("validation")
    source = open_images(dataset)
    assert len(source) == 359
    assert source.label_names == list("0123456789")
    batch = next(source.batches(64, 8))
    assert batch.labels == dataset.labels[:8]
    expected = torch.from_numpy(np.stack([dataset[i].image for i in range(8)])).permute(0, 3, 1, 2) / 255
    assert torch.equal(batch.pixels, expected)
    loaded = next(open_images(DataLoader(dataset, batch_size=3)).batches(64, 8))
    assert torch.equal(loaded.pixels, expected)
    assert loaded.labels == dataset.labels[:8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, r"unknown split 'val': expected one of \['train', 'validation', 'test'\]"),
        ({"size": 8}, "size=8"),
        ({"placements": 0}, "placements=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhotoDigits(**options)  # type: ignore[arg-type]


def test_an_index_outside_is_refused() -> None:
    dataset = PhotoDigits("test")
    for index in (364, -365):
        with pytest.raises(IndexError, match=f"sample {index} of 364"):
            dataset[index]
