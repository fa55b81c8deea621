from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from randar_features.data import ImageError, PhotoDigits, load_mask, open_pairs


def image_and_mask(seed: int, size: tuple[int, int] = (6, 8)) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (*size, 3), dtype=np.uint8), generator.integers(0, 4, size, dtype=np.uint8)


def write_folder(folder: Path, names: list[str], images: str = "images", masks: str = "masks") -> Path:
    for seed, name in enumerate(names):
        for kind, array in zip((images, masks), image_and_mask(seed), strict=True):
            path = folder / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return folder


def encoded(array: np.ndarray, **options: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", **options)
    return {"bytes": buffer.getvalue(), "path": "street.png"}


def write_parquet(path: Path, count: int, mask_name: str = "mask") -> None:
    rows = [image_and_mask(seed) for seed in range(count)]
    columns = {"image": [encoded(image) for image, _ in rows], mask_name: [encoded(mask) for _, mask in rows]}
    pq.write_table(pa.table(columns), path, row_group_size=2)


def check(pairs: Any, count: int) -> None:
    assert len(pairs) == count
    for seed in range(count):
        image, mask = image_and_mask(seed)
        np.testing.assert_array_equal(pairs[seed].image, image)
        np.testing.assert_array_equal(pairs[seed].mask, mask)


def test_a_folder_of_pairs_in_the_order_of_their_names(tmp_path: Path) -> None:
    pairs = open_pairs(write_folder(tmp_path, ["a/one", "a/two", "b/one"]))
    check(pairs, 3)
    assert pairs[1].path == str(tmp_path / "images" / "a" / "two.png")


@pytest.mark.parametrize("form", ["split first", "split last"])
def test_splits_of_a_folder(tmp_path: Path, form: str) -> None:
    if form == "split first":
        write_folder(tmp_path / "val", ["a", "b"])
        write_folder(tmp_path / "train", ["a"])
    else:
        write_folder(tmp_path, ["a", "b"], "images/val", "annotations/val")
        write_folder(tmp_path, ["a"], "images/train", "annotations/train")
    check(open_pairs(tmp_path, split="val"), 2)
    with pytest.raises(
        ValueError, match=r"no split 'test' in|holds no pairs of a split 'test': expected .* 'test/images'"
    ):
        open_pairs(tmp_path, split="test")


@pytest.mark.parametrize("name", ["mask", "annotation", "label"])
def test_parquet(tmp_path: Path, name: str) -> None:
    write_parquet(tmp_path / "train-00000-of-00001.parquet", 5, name)
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", 2, name)
    check(open_pairs(tmp_path, split="train"), 5)
    pairs = open_pairs(tmp_path, split="validation")
    check(pairs, 2)
    assert pairs[1].path == "street.png"
    with pytest.raises(ValueError, match="no split 'test'"):
        open_pairs(tmp_path, split="test")


def test_photo_digits_and_plain_pairs() -> None:
    digits = PhotoDigits("test", size=16)
    pairs = open_pairs(digits, num_classes=11)
    assert len(pairs) == len(digits)
    np.testing.assert_array_equal(pairs[7].mask, digits[7].mask)
    assert pairs[7].path == "row 7"
    check(open_pairs([image_and_mask(0), image_and_mask(1)]), 2)
    check(open_pairs([(image, torch.from_numpy(mask)) for image, mask in map(image_and_mask, range(2))]), 2)


def test_bad_pairs_are_named_and_cost_no_other(tmp_path: Path) -> None:
    write_folder(tmp_path, list("abcdefgh"))
    (tmp_path / "images" / "b.png").write_bytes(b"no image")
    (tmp_path / "masks" / "c.png").unlink()
    (tmp_path / "images" / "d.png").unlink()
    Image.new("L", (9, 6)).save(tmp_path / "masks" / "e.png")
    Image.new("L", (8, 6), 77).save(tmp_path / "masks" / "f.png")
    Image.new("RGB", (8, 6)).save(tmp_path / "masks" / "g.png")
    Image.new("L", (8, 6), 255).save(tmp_path / "masks" / "h.png")
    pairs = open_pairs(tmp_path, num_classes=4, ignore_index=255)
    unreadable: list[dict[str, Any]] = []
    rows = dict(pairs.readable(unreadable))
    assert sorted(rows) == [0, 7]
    np.testing.assert_array_equal(rows[0].image, image_and_mask(0)[0])
    reasons = {entry["row"]: entry["reason"] for entry in unreadable}
    assert [Path(entry["path"]).stem for entry in unreadable] == list("bcdefg")
    for row, reason in {
        1: "not an image of a known format",
        2: "there is no mask",
        3: "there is no image",
        4: "one size, got 8x6 and 9x6 pixels",
        5: "the mask holds [77]: expected classes 0 to 3, or 255 for pixels to ignore",
        6: "a mask of mode 'RGB': expected one class number a pixel",
    }.items():
        assert reason in reasons[row] and reasons[row].startswith(unreadable[row - 1]["path"])


def test_masks_of_nothing_but_ignored_pixels_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a"])
    Image.new("L", (8, 6), 255).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match="all pixels of all 1 masks are 255, which is to be ignored"):
        list(open_pairs(tmp_path, num_classes=4, ignore_index=255).readable([]))


def test_opening_counts_images_and_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path, ["a", "b"])
    (tmp_path / "masks" / "b.png").unlink()
    with caplog.at_level("INFO"):
        open_pairs(tmp_path)
    assert "2 images and 1 masks" in caplog.text


def test_without_one_good_pair_it_says_why(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a"])
    (tmp_path / "masks" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of 1 pairs could be read; the first: .*a\.png"):
        list(open_pairs(tmp_path).readable([]))


def test_palettes_and_bits_give_their_numbers(tmp_path: Path) -> None:
    numbers = image_and_mask(0)[1]
    palette = Image.fromarray(numbers).convert("P")
    palette.putdata(numbers.ravel().tolist())
    palette.putpalette([200, 10, 30, 5, 5, 250, 0, 0, 0, 90, 90, 90])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "palette.png"), numbers)
    Image.fromarray(numbers > 1).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "bits.png"), numbers > 1)
    deep = numbers.astype(np.uint16) * 300
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "deep.png"), deep)


def test_what_holds_no_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        open_pairs(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no pairs: expected folders 'images' and 'masks'"):
        open_pairs(tmp_path)
    with pytest.raises(TypeError, match="cannot read pairs from int"):
        open_pairs(3)
    with pytest.raises(ValueError, match="list is empty"):
        open_pairs([])
    with pytest.raises(ImageError, match=r"row 0: a mask must be integers \(H, W\), got float64 \(6, 8\)"):
        open_pairs([(image_and_mask(0)[0], np.zeros((6, 8)))])[0]
    with pytest.raises(ImageError, match=r"row 0: an item has no image: got \['photo', 'mask'\]"):
        open_pairs([{"photo": image_and_mask(0)[0], "mask": image_and_mask(0)[1]}])[0]
    assert open_pairs([{"img": image_and_mask(0)[0], "mask": image_and_mask(0)[1]}])[0].path == "row 0"
    write_folder(tmp_path, ["a"])
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "b.png")
    with pytest.raises(ValueError, match=r"no image in .* has a mask .* there are a … and b …"):
        open_pairs(tmp_path)
    (tmp_path / "images" / "a.png").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"no image in .* has a mask .* there are none and b …"):
        open_pairs(tmp_path)
    (tmp_path / "a.png").rename(tmp_path / "images" / "a.png")
    (tmp_path / "masks" / "b.png").rename(tmp_path / "masks" / "a.png")
    Image.new("RGB", (8, 6)).save(tmp_path / "images" / "a.jpg")
    with pytest.raises(ValueError, match=r"two files for one name in .*: a\.jpg and a\.png"):
        open_pairs(tmp_path)


def test_a_table_without_masks_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [encoded(image_and_mask(0)[0])]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"no column of masks in .*train\.parquet: got \['image'\]"):
        open_pairs(tmp_path)
