from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets.point_pairs import digits, drawn_affine, moved_crop, photographs, view
from benchmarks.datasets.spair import load_spair


def marked(size: tuple[int, int], points: np.ndarray) -> np.ndarray:
    """A grey image with a white pixel at every point (x, y)."""
    image = np.full((*size, 3), 90, np.uint8)
    columns, rows = np.floor(points + 0.5).astype(int).T
    image[rows, columns] = 255
    return image


# Photographs


def test_a_view_shows_what_lies_under_its_map() -> None:
    """Turned by a right angle and enlarged twice: a bright spot lands where the inverse map says."""
    photograph = np.zeros((40, 60, 3), np.uint8)
    photograph[11:13, 23:25] = 255  # its middle is (24, 12), counted from the edge of the first pixel
    affine = np.array([[0.0, -0.5, 32.0], [0.5, 0.0, 4.0]])
    seen = view(Image.fromarray(photograph), affine, 32)
    weights = seen[..., 0].astype(float)
    rows, columns = np.mgrid[:32, :32] + 0.5
    centre = (weights * columns).sum() / weights.sum(), (weights * rows).sum() / weights.sum()
    np.testing.assert_allclose(np.array(affine) @ (*centre, 1), (24, 12), atol=0.05)


def test_beyond_its_edges_a_photograph_is_mirrored() -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    seen = view(Image.fromarray(photograph), np.array([[1.0, 0, -5], [0, 1.0, 0]]), 20)
    np.testing.assert_array_equal(seen[:, 5:], photograph[:, :15])
    np.testing.assert_array_equal(seen[:, :5], photograph[:, 1:6][:, ::-1])


def test_maps_keep_within_what_they_are_drawn_from() -> None:
    generator = np.random.default_rng(0)
    affines = np.stack([drawn_affine(64, generator) for _ in range(300)])
    areas = np.sqrt(np.linalg.det(affines[:, :, :2]))
    assert 0.75 <= areas.min() < 0.78 and 1.3 < areas.max() <= 1.33
    middles = affines @ (32, 32, 1)
    assert 15 < np.abs(middles - 32).max() <= 16


@pytest.mark.parametrize("seed", range(4))
def test_points_of_a_moved_crop_show_the_same_place(seed: int) -> None:
    """A photograph of smooth random colours, moved but not recoloured: both points have nearly one colour."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    picture = small.resize((320, 240), Image.Resampling.BICUBIC)
    first, second, points, targets = moved_crop(picture, 64, 30, generator, colours=False)
    assert first.shape == second.shape == (64, 64, 3)
    assert len(points) == len(targets) == 30
    assert (targets >= -0.5).all() and (targets < 63.5).all() and (points == np.rint(points)).all()
    columns, rows = points.astype(int).T
    moved_columns, moved_rows = np.floor(targets + 0.5).astype(int).clip(0, 63).T
    same = np.abs(first[rows, columns].astype(int) - second[moved_rows, moved_columns]).mean()
    other = np.abs(first[rows, columns].astype(int) - second[moved_rows[::-1], moved_columns[::-1]]).mean()
    assert same < 8 < 25 < other


def test_photographs_are_seeded_and_splits_differ() -> None:
    options: dict[str, Any] = {"size": 32, "count": 3, "points": 5, "seed": 1}
    first, again, other = (
        photographs("test", **options),
        photographs("test", **options),
        photographs("validation", **options),
    )
    for pair, same in zip(first.pairs, again.pairs, strict=True):
        np.testing.assert_array_equal(pair.targets, same.targets)
        np.testing.assert_array_equal(first.load(pair.target), again.load(same.target))
    assert not np.array_equal(first.load(0), other.load(0))
    assert first.name != other.name
    assert [pair.box for pair in first.pairs] == [(32, 32)] * 3 and first.sizes == [(32, 32)] * 6


def test_a_folder_of_photographs_is_shared_out_and_bad_files_are_named(tmp_path: Path) -> None:
    for number in range(6):
        Image.new("RGB", (60, 50), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"x")
    options: dict[str, Any] = {"folder": tmp_path, "size": 16, "count": 5, "points": 2, "seed": 0}
    seen = {
        split: {int(made.load(pair.source)[0, 0, 0]) for pair in made.pairs}
        for split in ("validation", "test")
        for made in [photographs(split, **options)]
    }
    assert seen == {"validation": {0, 200}, "test": {40, 80, 120, 160}}
    assert Path(photographs("test", **options).unreadable[0]["path"]).name == "bad.png"


def test_digits_are_pairs_of_one_scan() -> None:
    data = digits("validation", size=24, count=4, points=6, seed=0)
    assert len(data.pairs) == 4 and len(data.sizes) == 8
    for number, pair in enumerate(data.pairs):
        assert (pair.source, pair.target) == (2 * number, 2 * number + 1)
        assert pair.category is not None and 0 <= int(pair.category) <= 9
        assert data.load(pair.source).shape == (24, 24, 3)
        assert max(pair.box) <= 24 and pair.points.shape == pair.targets.shape


# SPair-71k


SIZES = {"a": (40, 60), "b": (50, 30), "c": (32, 32)}
POINTS = {
    "a": np.array([[5, 6], [50, 30], [20, 10]]),
    "b": np.array([[10, 40], [25, 5], [3, 3]]),
    "c": np.array([[1, 2], [30, 30], [16, 8]]),
}


def write_spair(folder: Path) -> Path:
    """Three images of one class with a white pixel at each of their key points, and two pairs of them."""
    (folder / "JPEGImages" / "cat").mkdir(parents=True)
    for name, size in SIZES.items():
        Image.fromarray(marked(size, POINTS[name])).save(folder / "JPEGImages" / "cat" / f"{name}.jpg", quality=100)
    for number, (source, target) in enumerate((("a", "b"), ("b", "c"))):
        write_annotation(folder, f"{number:06d}-{source}-{target}:cat", source, target)
    return folder


def write_annotation(folder: Path, name: str, source: str, target: str, **changes: Any) -> None:
    path = folder / "PairAnnotation" / "test" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "filename": name,
        "src_imname": f"{source}.jpg",
        "trg_imname": f"{target}.jpg",
        "category": "cat",
        "src_kps": POINTS[source].tolist(),
        "trg_kps": POINTS[target].tolist(),
        "src_bndbox": [0, 0, 10, 10],
        "trg_bndbox": [2, 3, 28, 19],
        "mirror": 0,
    }
    path.write_text(json.dumps(about | changes))


def test_spair_is_read_as_it_is_annotated(tmp_path: Path) -> None:
    data = load_spair(write_spair(tmp_path))
    assert data.sizes == [SIZES["a"], SIZES["b"], SIZES["c"]] and not data.unreadable
    first, second = data.pairs
    assert (first.source, first.target, second.source, second.target) == (0, 1, 1, 2)
    assert first.box == (26, 16) and first.category == "cat"
    np.testing.assert_array_equal(second.points, POINTS["b"])
    np.testing.assert_array_equal(second.targets, POINTS["c"])
    columns, rows = first.targets.astype(int).T
    assert (data.load(first.target)[rows, columns] > 200).all()


def test_bad_annotations_are_named_and_cost_no_other(tmp_path: Path) -> None:
    write_spair(tmp_path)
    write_annotation(tmp_path, "1a", "a", "b", trg_imname="missing.jpg")
    write_annotation(tmp_path, "1b", "a", "b", src_kps=[[1, 2]])
    write_annotation(tmp_path, "1c", "a", "b", trg_kps=[[10, 40], [31, 5], [3, 3]])
    (tmp_path / "PairAnnotation" / "test" / "1d.json").write_text("{")
    (tmp_path / "PairAnnotation" / "test" / "1e.json").write_text("{}")
    (tmp_path / "JPEGImages" / "cat" / "d.jpg").write_bytes(b"x")
    write_annotation(tmp_path, "1f", "a", "b", src_imname="d.jpg")
    write_annotation(tmp_path, "1g", "a", "b", trg_bndbox=[28, 3, 2, 19])
    write_annotation(tmp_path, "1h", "a", "b", trg_kps=[[10, 40], [None, None], [3, 3]])
    data = load_spair(tmp_path)
    assert len(data.pairs) == 2
    reasons = [entry["reason"] for entry in data.unreadable]
    expected = (
        "missing.jpg",
        "as many points (x, y) in both images, got (1, 2) and (3, 2)",
        "trg_kps holds a point outside its image, 30x50 pixels",
        "1d.json is not valid JSON",
        "lacks 'category'",
        "not an image",
        "trg_bndbox must be left, top, right, bottom, got [28, 3, 2, 19]",
        "trg_kps holds a point outside its image",
    )
    for reason, words, name in zip(reasons, expected, "abcdefgh", strict=True):
        assert words in reason and reason.startswith(f"1{name}.json")


def test_a_choice_of_pairs_is_seeded(tmp_path: Path) -> None:
    write_spair(tmp_path)
    for number in range(8):
        write_annotation(tmp_path, f"2{number}", "a", "b")
    first, again = (load_spair(tmp_path, count=4, seed=3) for _ in range(2))
    assert len(first.pairs) == 4
    for pair, same in zip(first.pairs, again.pairs, strict=True):
        np.testing.assert_array_equal(pair.points, same.points)


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not SPair-71k: expected JPEGImages/CLASS"):
        load_spair(tmp_path)
    with pytest.raises(ValueError, match="the splits trn, val, test, got 'train'"):
        load_spair(tmp_path, "train")
    write_spair(tmp_path)
    for file in (tmp_path / "PairAnnotation" / "test").iterdir():
        file.write_text("[]")
    with pytest.raises(ValueError, match=r"none of 2 pairs could be read; the first: 000000-a-b:cat\.json"):
        load_spair(tmp_path)
