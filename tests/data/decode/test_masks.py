"""A mask lies on its image in every EXIF orientation, keeps its numbers, and says when it cannot."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from randar_features.data import ImageError, load_mask, open_pairs
from randar_features.data.decode.decoding import TURNS
from randar_features.data.decode.masks import turn


def exif_of(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def write_pair(
    folder: Path, image: np.ndarray, mask: np.ndarray, *, stored: int | None, own: int | None, kind: str = "png"
) -> Path:
    for name, array, orientation in (("images", image, stored), ("masks", mask, own)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        options = {} if orientation is None else exif_of(orientation)
        Image.fromarray(array).save(folder / name / f"a.{kind}", **options)
    return folder


def an_object(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image as a sensor stored it, with a bright object in a corner, and its mask."""
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 3, : width // 4] = 1
    return np.repeat(mask[..., None] * 200, 3, axis=-1), mask


def overlap(folder: Path, **options: Any) -> float:
    pair = open_pairs(folder, **options)[0]
    bright, marked = pair.image.mean(-1) > 100, pair.mask == 1
    return float((bright & marked).sum() / (bright | marked).sum())


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(20, 30), (24, 24)])
def test_a_mask_with_the_exif_of_its_image_lies_on_it(
    tmp_path: Path, size: tuple[int, int], orientation: int, kind: str
) -> None:
    image, mask = an_object(*size)
    assert overlap(write_pair(tmp_path, image, mask, stored=orientation, own=orientation, kind=kind)) == 1


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("upright", [False, True])
def test_the_size_tells_which_way_a_mask_without_exif_lies(tmp_path: Path, orientation: int, upright: bool) -> None:
    image, mask = an_object(20, 30)
    mask = turn(mask, orientation) if upright else mask
    assert overlap(write_pair(tmp_path, image, mask, stored=orientation, own=None)) == 1


@pytest.mark.parametrize(("orientation", "size"), [(2, (20, 30)), (3, (20, 30)), (4, (20, 30)), (6, (24, 24))])
def test_where_nothing_tells_it_is_stated_or_refused(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    image, mask = an_object(*size)
    folder = write_pair(tmp_path, image, mask, stored=orientation, own=None)
    with pytest.raises(ImageError, match=rf"a\.png: .*orientation {orientation}.*state mask_orientation"):
        open_pairs(folder)[0]
    assert overlap(folder, mask_orientation="stored") == 1
    folder = write_pair(tmp_path, image, turn(mask, orientation), stored=orientation, own=None)
    assert overlap(folder, mask_orientation="upright") == 1
    write_pair(tmp_path, image, turn(mask, orientation), stored=orientation, own=1)
    assert overlap(folder) == 1  # the mask says itself that it is upright
    with pytest.raises(ValueError, match="mask_orientation must be one of"):
        open_pairs(folder, mask_orientation="sideways")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"num_classes": 2.0}, {"ignore_index": True}])
def test_numbers_of_classes_are_checked_at_opening(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        open_pairs([], **options)


@pytest.mark.parametrize(("stored", "own"), [(1, 6), (None, 3), (6, 8)])
def test_a_mask_that_is_turned_otherwise_than_its_image_is_refused(
    tmp_path: Path, stored: int | None, own: int
) -> None:
    folder = write_pair(tmp_path, *an_object(24, 24), stored=stored, own=own)
    with pytest.raises(ImageError, match=rf"a\.png: the mask is turned by its EXIF orientation {own}"):
        open_pairs(folder)[0]
    assert overlap(folder, mask_orientation="upright") < 1


def test_arrays_turn_as_pillow_turns_images() -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for orientation in range(1, 9):
        expected = Image.fromarray(array)
        expected = expected.transpose(TURNS[orientation]) if orientation in TURNS else expected
        np.testing.assert_array_equal(turn(array, orientation), np.asarray(expected))


def pairs_of(*masks: np.ndarray, **options: Any) -> Any:
    return open_pairs([(np.full((*mask.shape, 3), 99, np.uint8), mask) for mask in masks], **options)


def test_0_and_255_are_two_classes() -> None:
    mask = np.array([[0, 255], [255, 0]], np.uint8)
    np.testing.assert_array_equal(pairs_of(mask, num_classes=2)[0].mask, mask // 255)
    np.testing.assert_array_equal(pairs_of(mask, num_classes=2, ignore_index=7)[0].mask, mask // 255)
    np.testing.assert_array_equal(pairs_of(mask)[0].mask, mask)
    with pytest.raises(ImageError, match=r"holds \[255\]: expected classes 0 to 2"):
        pairs_of(mask, num_classes=3)[0]


def test_two_classes_of_which_one_is_ignored_are_refused() -> None:
    masks = [np.array([[0, 255]], np.uint8), np.array([[0, 0]], np.uint8)]
    with pytest.raises(ValueError, match="255 is to be ignored: nothing is left"):
        list(pairs_of(*masks, num_classes=2, ignore_index=255).readable([]))
    masks.append(np.array([[1, 0]], np.uint8))
    assert len(list(pairs_of(*masks, num_classes=2, ignore_index=255).readable([]))) == 3


def test_classes_that_no_mask_holds_are_named() -> None:
    masks = [np.array([[0, 2]], np.uint8), np.array([[0, 255]], np.uint8)]
    with pytest.warns(UserWarning, match="5 classes were declared, and 3 occur in none of 2 masks: 1, 3, 4"):
        list(pairs_of(*masks, num_classes=5, ignore_index=255).readable([]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(pairs_of(np.arange(5, dtype=np.uint8)[None], num_classes=5).readable([]))


@pytest.mark.parametrize("transparency", [0, 1, bytes([0, 0, 0, 0])])
def test_a_transparent_palette_keeps_its_numbers(tmp_path: Path, transparency: Any) -> None:
    numbers = np.arange(16, dtype=np.uint8).reshape(4, 4) % 4
    image = Image.fromarray(numbers).convert("P")
    image.putdata(numbers.ravel().tolist())
    image.putpalette([200, 10, 30, 5, 5, 250, 0, 0, 0, 90, 90, 90])
    image.save(tmp_path / "mask.png", transparency=transparency)
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.png"), numbers)


def test_a_mask_of_truth_values_has_two_classes() -> None:
    drawn = np.eye(4, dtype=bool)
    mask = load_mask(drawn)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, drawn)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "F"])
def test_opacity_and_fractions_are_no_classes(mode: str) -> None:
    with pytest.raises(ImageError, match=f"a mask of mode '{mode}'"):
        load_mask(Image.new(mode, (4, 4)))


def test_a_mask_compressed_with_loss_is_refused() -> None:
    file = io.BytesIO()
    Image.new("L", (8, 8), 1).save(file, "JPEG")
    with pytest.raises(ImageError, match="format JPEG, which changes class numbers"):
        load_mask(file.getvalue())


def test_dark_images_of_pairs_are_counted(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    pairs = open_pairs([(Image.fromarray(image), np.zeros((4, 4), np.uint8))] * 3)
    with pytest.warns(UserWarning, match=r"3 of 3 images .*row 0.* nearly black"):
        list(pairs.readable([]))


def test_a_number_in_the_place_of_a_mask_closes_no_open_file(tmp_path: Path) -> None:
    """Python takes a number for an open file, such as 1 for the log that stdout is sent to, and closes it."""
    with (tmp_path / "log").open("w") as file:
        with pytest.raises(TypeError, match="not int"):
            load_mask(file.fileno())  # type: ignore[arg-type]
        pairs = open_pairs([{"image": np.zeros((4, 4, 3), np.uint8), "label": file.fileno()}])
        with pytest.raises(ImageError, match="not int"):
            _ = pairs[0]
        file.write("still open")
    assert (tmp_path / "log").read_text() == "still open"
