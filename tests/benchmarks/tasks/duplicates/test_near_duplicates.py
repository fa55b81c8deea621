"""Planted near-duplicates are found, and nothing else."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.encoders import extract, load_encoder
from benchmarks.result import read_result
from benchmarks.tasks.duplicates import duplicate_recall, near_duplicates
from benchmarks.tasks.duplicates.duplicate_pairs import Pair, Part, between, detail, find, warnings
from benchmarks.tasks.duplicates.near_duplicates import Config
from randar_features.data import open_images
from tests.benchmarks.image_folders import write_classes


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=60)
    return Image.open(buffer)


CHANGES = {
    "copied": lambda image: image,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "mirrored": ImageOps.mirror,
    "recompressed": recompressed,
    "resized": lambda image: image.resize((45, 45), Image.Resampling.BICUBIC),
    "shifted": lambda image: duplicate_recall.shifted(image, 1 / 32),
}


@pytest.fixture
def planted(tmp_path: Path) -> dict[int, tuple[int, str]]:
    """Row of a test image: the row of the training image that it is, changed, and how."""
    trained = write_classes(tmp_path / "data/train", per_class=20, seed=0)
    tested = write_classes(tmp_path / "data/test", per_class=8, seed=1)
    truth = {}
    for number, (name, change) in enumerate(CHANGES.items()):
        row, other = 7 + 9 * number, 2 + 4 * number
        change(Image.open(trained[row])).save(tested[other])
        truth[other] = (row, name)
    tested[23].write_bytes(b"no image")
    return truth


def pairs_of(folder: Path, output: str = "patches", **options: float) -> list[Pair]:
    encoder, parts = load_encoder("pixels"), [folder / "data/train", folder / "data/test"]
    stores = [
        extract(encoder, part, folder=folder / "cache", outputs=[output], name=part.name, progress=False)
        for part in parts
    ]
    return find(*stores, output, *map(open_images, parts), **options)


def test_planted_pairs_are_found_and_no_others(tmp_path: Path, planted: dict[int, tuple[int, str]]) -> None:
    pairs = pairs_of(tmp_path, output="32x32", similarity=0.3)
    straight = {other: row for other, (row, name) in planted.items() if name != "mirrored"}
    assert {pair.other: pair.row for pair in pairs} == straight, "features of whole pictures know nothing of mirrors"
    # The mean over patches of 8 pixels is much the same in a mirror image.
    pairs = pairs_of(tmp_path, similarity=0.3)
    assert {pair.other: pair.row for pair in pairs} == {other: row for other, (row, _) in planted.items()}
    by_name = {planted[pair.other][1]: pair for pair in pairs}
    assert by_name["copied"].identical and by_name["copied"].correlation == pytest.approx(1)
    assert [name for name, pair in by_name.items() if pair.identical] == ["copied"]
    assert [name for name, pair in by_name.items() if pair.mirrored] == ["mirrored"]
    assert by_name["copied"].path is not None and by_name["copied"].path.endswith("train/blue/07.png")
    assert [pair.other for pair in pairs] == sorted(pair.other for pair in pairs)


def test_thresholds_decide(tmp_path: Path, planted: dict[int, tuple[int, str]]) -> None:
    exact = pairs_of(tmp_path, similarity=0.3, correlation=0.999999)
    assert {planted[pair.other][1] for pair in exact} <= {"copied", "mirrored"}
    assert pairs_of(tmp_path, similarity=1.1) == []


def test_pairs_within_a_split_come_once(tmp_path: Path) -> None:
    paths = write_classes(tmp_path / "data", per_class=5, seed=0)
    paths[12].write_bytes(paths[1].read_bytes())
    paths[7].write_bytes(b"no image")
    path = near_duplicates.run(
        Config(data=str(tmp_path / "data"), encoder="pixels", cache=str(tmp_path / "cache")), tmp_path / "out"
    )
    (pair,) = json.loads((tmp_path / "out/pairs.json").read_text())
    assert (pair["row"], pair["other"], pair["identical"]) == (1, 12, True)
    result = read_result(path)
    (row,) = result["results"]
    assert row["share_with_near_duplicate"] == 2 / 14  # both are one of the other
    assert row["looked_up"] == 14 and "1 of 15 images could not be read: row 7" in result["card"]["warnings"][1]
    assert (row["with_near_duplicate"], row["with_identical"], row["pairs"]) == (2, 2, 1)
    assert "cosine of standardised features ≥ 0.6" in result["card"]["protocol"]
    with Image.open(tmp_path / "out/pairs.png") as shown:
        assert shown.format == "PNG"


def test_a_card_warns_only_of_what_is_there(tmp_path: Path, planted: dict[int, tuple[int, str]]) -> None:
    pairs = pairs_of(tmp_path, similarity=0.3)
    (warning,) = warnings(pairs, 24, "pixels, patches")
    assert warning.startswith("6 of 24 evaluation images have a near-duplicate") and "1 of them with equal" in warning
    assert all(change in warning for change in ("1/32", "2/32", "90 %", "3 degrees")), "how many are found"
    assert "pixels, patches" in warning and warnings([], 24, "pixels, patches") == []


def test_parts_of_a_benchmark(tmp_path: Path, planted: dict[int, tuple[int, str]]) -> None:
    parts = [Part(tmp_path / "data" / name) for name in ("train", "test")]
    (warning,) = between(*parts, str(tmp_path / "cache"))
    assert warning.startswith("5 of 23 evaluation images have a near-duplicate") and "randar-tiny" in warning
    few = parts[1]._replace(rows=np.array([2, 3, 23]))  # one planted, one not, one unreadable
    (warning,) = between(parts[0], few, str(tmp_path / "cache"))
    assert warning.startswith("1 of 2 evaluation images")
    assert between(parts[0]._replace(rows=np.arange(7)), parts[1], str(tmp_path / "cache")) == []


def test_rows_of_one_store_are_paired_in_both_orders(tmp_path: Path) -> None:
    paths = write_classes(tmp_path / "data", per_class=5, seed=0)
    for first, second in ((1, 12), (13, 2), (3, 4)):
        paths[second].write_bytes(paths[first].read_bytes())
    stores = [extract(load_encoder("pixels"), tmp_path / "data", folder=tmp_path / "cache", progress=False)] * 2
    images = [open_images(tmp_path / "data")] * 2
    trained, evaluated = np.array([1, 3, 4, 13]), np.array([12, 2, 5])
    pairs = find(*stores, "patches", *images, rows=trained, other_rows=evaluated)
    assert [(pair.row, pair.other) for pair in pairs] == [(13, 2), (1, 12)]


def test_detail_is_compared_not_brightness_or_coarse_shapes() -> None:
    def spot(row: int, column: int, height: float = 100) -> np.ndarray:
        picture = np.full((32, 32, 3), 120.0)
        picture[row - 2 : row + 3, column - 2 : column + 3] += height
        return picture

    def agreement(first: np.ndarray, second: np.ndarray) -> float:
        return float((detail(first) * detail(second)).sum())

    assert agreement(spot(8, 8), 10 + 0.5 * spot(8, 8)) == pytest.approx(1)
    assert agreement(spot(8, 8), spot(8, 8, -60)) == pytest.approx(-1)
    assert abs(agreement(spot(8, 8), spot(8, 24))) < 0.05
    sky = 60 * np.cos(np.pi * (np.arange(32)[:, None, None] + 0.5) / 32)
    assert abs(agreement(spot(16, 8) + sky, spot(16, 24) + sky)) < 0.1
    assert np.corrcoef((spot(16, 8) + sky).ravel(), (spot(16, 24) + sky).ravel())[0, 1] > 0.85
    assert not detail(np.full((32, 32, 3), 9)).any()
