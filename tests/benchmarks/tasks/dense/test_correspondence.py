from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.datasets.photographs import PHOTOGRAPHS
from benchmarks.datasets.point_pairs import PairSet, PointPair
from benchmarks.encoders import Encoder, load_encoder
from benchmarks.tasks.dense import correspondence
from benchmarks.tasks.dense.correspondence import Config, content_free, run, same_place, scores, stacked
from probes import pck, positional_basis, remove_basis
from randar_features import Model
from tests.benchmarks.datasets.test_point_pairs import POINTS, write_spair


class Landmarks(Encoder):
    """What lies within 4 pixels of each second one of 64×64, and besides the place, which says nothing of it."""

    def __init__(self) -> None:
        super().__init__(name="landmarks", image_size=64, weights="none", outputs={"spots": {}, "spots and place": {}})

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        grey = images.mean(1, keepdim=True) - 0.35
        around = F.unfold(F.pad(grey, (4, 4, 4, 4)), 9, stride=2).unflatten(2, (32, 32)).permute(0, 2, 3, 1)
        where = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"), -1) / 3
        place = torch.cat([where, where.flip(1), 10 - where], -1).expand(len(images), -1, -1, -1)
        maps = {"spots": around, "spots and place": torch.cat([around, place], -1)}
        return {name: maps[name] for name in outputs}


@pytest.fixture(autouse=True)
def few_images_without_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correspondence, "PLACELESS", 8)


@pytest.fixture
def landmarks(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    encoder = Landmarks()
    monkeypatch.setattr(correspondence, "load_encoders", lambda names, **_: [encoder])
    return encoder


def config(tmp_path: Path, **options: Any) -> Config:
    given: dict[str, Any] = {"encoder": ("x",), "cache": str(tmp_path / "cache"), "pairs": 4, "validation_pairs": 3}
    return Config(**(given | options))


def rows_of(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["output"], row["components"]): row for row in json.loads(path.read_text())["results"]}


PLANTED = {"p": np.array([[8, 8], [40, 12], [24, 50]]), "q": np.array([[20, 30], [50, 36], [38, 8]])}


def planted() -> PairSet:
    """Three spots of different shapes, each elsewhere in the second image."""
    shapes = [np.eye(5), np.ones((5, 2)), np.ones((2, 5))]
    images = []
    for points in PLANTED.values():
        image = np.full((64, 64, 3), 90, np.uint8)
        for (x, y), shape in zip(points, shapes, strict=True):
            image[y - 2 : y - 2 + shape.shape[0], x - 2 : x - 2 + shape.shape[1]][shape > 0] = 255
        images.append(image)
    pair = PointPair(0, 1, PLANTED["p"].astype(float), PLANTED["q"].astype(float), (40.0, 30.0), "spots")
    return PairSet("planted", lambda n: images[n], [(64, 64)] * 2, [pair])


def test_planted_points_are_found(tmp_path: Path, landmarks: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correspondence, "load_pairs", lambda *_: planted())
    path = run(config(tmp_path, data="digits", components=(0,), outputs=("spots",)), tmp_path / "out")
    row = rows_of(path)["spots", 0]
    assert row["box_per_image@0.05"] == row["image_per_point@0.05"] == row["validation"] == 1
    assert row["categories"]["spots"]["box_per_point"] == 1
    assert rows_of(path)["same place", 0]["box_per_image@0.1"] == 0


def test_spair_from_its_layout_to_a_result(tmp_path: Path, landmarks: Encoder) -> None:
    write_spair(tmp_path / "spair")
    (tmp_path / "spair" / "PairAnnotation" / "val").mkdir()
    for file in (tmp_path / "spair" / "PairAnnotation" / "test").iterdir():
        (tmp_path / "spair" / "PairAnnotation" / "val" / file.name).write_bytes(file.read_bytes())
    path = run(config(tmp_path, data=str(tmp_path / "spair"), pairs=None), tmp_path / "out")
    result = json.loads(path.read_text())
    rows = rows_of(path)
    assert set(rows) == {("same place", 0)} | {(name, k) for name in landmarks.outputs for k in (0, 8)}
    for row in rows.values():
        variants = [name for name in row if "@" in name]
        assert len(variants) == 12 and variants[0] == "box_per_image@0.1"
        assert row["interval"] == row["intervals"]["box_per_image@0.1"]
        assert set(row["categories"]) == {"cat"}
    assert rows["spots", 0]["normalization"] == "cosine"
    assert rows["spots", 8]["normalization"] == "cosine, 8 positional directions removed"
    assert "2 pairs" in result["card"]["data"]["evaluation"]
    assert (tmp_path / "out" / "matches.png").read_bytes().startswith(b"\x89PNG")


def test_no_more_directions_are_removed_than_a_map_has_places(caplog: pytest.LogCaptureFixture) -> None:
    assert correspondence._removable((0, 3, 4, 8), "layer 4", places=4) == [0, 3]
    assert "layer 4" in caplog.text and "[4, 8]" in caplog.text


@pytest.mark.parametrize("data", ["digits", "photographs"])
def test_built_in_pairs_with_a_generator(
    tmp_path: Path, data: str, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        correspondence, "load_encoders", lambda names, **options: [load_encoder(small_model, **options)]
    )
    given = config(
        tmp_path, data=data, size=32, points=4, context=("single", "reverse"), read=("image",), components=(0, 2)
    )
    first = run(given, tmp_path / "first")
    rows = rows_of(first)
    assert data == "photographs" or rows == rows_of(run(given, tmp_path / "again"))
    assert len(rows) == 1 + 2 * 2 * 3
    compared = json.loads((tmp_path / "first" / "differences.json").read_text())
    contexts = [each for each in compared if each["second"] == "single"]
    assert len(contexts) == 2 * 3 and {each["first"] for each in contexts} == {"reverse"}
    for each in contexts:
        ends = [rows[f"{each[end]}/image/{each['layer']}", each["components"]] for end in ("first", "second")]
        assert each["difference"] == pytest.approx(ends[0]["box_per_image@0.1"] - ends[1]["box_per_image@0.1"])
    for name, row in rows.items():
        assert 0 <= row["interval"][0] <= row["box_per_image@0.1"] <= row["interval"][1] <= 1
        same = row["box_per_image@0.1"] == row["image_per_image@0.1"]
        assert same or data == "digits", name
    for row in rows.values() if data == "photographs" else []:
        each = [row[f"box_per_image@0.1 of {name}"] for name in PHOTOGRAPHS["test"]]
        assert min(each) <= row["box_per_image@0.1"] <= max(each)
        of_one_pair = [row["intervals"][f"box_per_image@0.1 of {name}"] for name in PHOTOGRAPHS["test"]]
        assert of_one_pair == [[None, None]] * 4
    warnings = json.loads(first.read_text())["card"]["warnings"]
    assert any("four photographs" in warning for warning in warnings) == (data == "photographs")
    assert any("box is the whole image" in warning for warning in warnings) == (data == "photographs")


def test_options_that_would_change_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digits are built in"):
        config(tmp_path, data="digits:photos/")
    with pytest.raises(ValueError, match=r"--stride 8 .* give --resolution"):
        config(tmp_path, data="digits", stride=8)


def test_scores_by_hand() -> None:
    """Points off by 1 and 5 pixels of a box of 20, image of 100: 0.1 asks for 2 and for 10 pixels."""
    pairs = [
        PointPair(0, 1, np.zeros((2, 2)), np.array([[11.0, 10.0], [15.0, 10.0]]), (20.0, 8.0), "a"),
        PointPair(1, 0, np.zeros((1, 2)), np.array([[10.0, 10.0]]), (20.0, 8.0), "b"),
    ]
    data = PairSet("x", lambda n: np.zeros(0), [(100, 50), (60, 100)], pairs)
    found = [np.full((2, 2), 10), np.full((1, 2), 10)]
    row = scores(found, data, 0)
    assert row["box_per_image@0.1"] == 3 / 4 and row["box_per_point@0.1"] == pytest.approx(2 / 3)
    assert row["image_per_image@0.1"] == 1 and row["image_per_image@0.01"] == 3 / 4
    assert (row["box_per_image@0.1 of a"], row["box_per_image@0.1 of b"]) == (1 / 2, 1), (
        "few categories: each by itself"
    )
    assert np.isnan(row["intervals"]["box_per_image@0.1 of b"]).all(), "of a single pair"
    assert row["categories"]["a"]["box_per_point"] == 1 / 2 and row["categories"]["b"]["box_per_point"] == 1
    assert pck(**stacked(found, data, [1]))["box_per_image"] == 1


def test_the_same_place_is_scaled_to_the_target() -> None:
    pair = PointPair(0, 1, np.array([[9.5, 19.5]]), np.array([[0.0, 0.0]]), (1.0, 1.0))
    (found,) = same_place(PairSet("x", lambda n: np.zeros(0), [(40, 20), (80, 100)], [pair]))
    assert found.tolist() == [[49.5, 39.5]]


def test_content_free_images_are_random_codes_or_noise(small_model: Model) -> None:
    generator = load_encoder(small_model, contexts=["reverse"], reads=["image"])
    for encoder, output, side in ((generator, "reverse/image/1", 4), (Landmarks(), "spots", 32)):
        maps = content_free(encoder, [output], 0)[output]
        assert maps.shape[:3] == (8, side, side)
        torch.testing.assert_close(maps, content_free(encoder, [output], 0)[output], atol=0, rtol=0)
        assert not torch.equal(maps, content_free(encoder, [output], 1)[output])


def test_what_stands_at_the_same_place_in_all_images_is_taken_out() -> None:
    encoder = Landmarks()
    basis = positional_basis(content_free(encoder, ["spots and place"], 0)["spots and place"], 8)
    image = torch.full((1, 3, 64, 64), 0.35)
    maps = encoder.encode(image)["spots and place"][0]
    assert maps[..., -6:].std() > 2 > 0.2 > remove_basis(maps, basis)[..., -6:].std()


def test_points_of_the_miniature_lie_within_its_images() -> None:
    assert {name: int(points.max()) for name, points in POINTS.items()} == {"a": 50, "b": 40, "c": 30}
