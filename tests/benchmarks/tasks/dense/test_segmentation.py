from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import rgb_to_hsv
from PIL import Image

from benchmarks.datasets.scenes import LABELS, Labels, Scenes, labels_of
from benchmarks.encoders import load_encoder
from benchmarks.encoders.base import NO_DETAILS
from benchmarks.report.overlays import class_colours, overlay, segmentations
from benchmarks.tasks.dense import segmentation
from benchmarks.tasks.dense.feature_maps import blended_probabilities
from benchmarks.tasks.dense.segmentation import Config, evaluate, heads_of, load_task, run
from probes import LinearSegmenter, segment
from randar_features import Model
from randar_features.features.tiling import tile_positions
from tests.benchmarks.tasks.dense.test_feature_maps import Means

COLOURS = np.array([[200, 30, 30], [20, 180, 40], [30, 40, 220]], np.uint8)


def write_scenes(folder: Path, count: int = 14, size: tuple[int, int] = (48, 64), bad: bool = True) -> Path:
    """Rectangles of three colours, which are the classes; a border of pixels to ignore (9)."""
    for split, seed in (("train", 0), ("validation", 1)):
        generator = np.random.default_rng(seed)
        for number in range(count):
            mask = generator.integers(0, 3, (3, 4), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
            noise = generator.integers(-15, 16, (*size, 3))
            image = (COLOURS[mask].astype(int) + noise).clip(0, 255).astype(np.uint8)
            mask[:2] = 9
            for kind, array in (("images", image), ("masks", mask)):
                path = folder / split / kind / f"{number:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    if bad:
        (folder / "train" / "masks" / "03.png").write_bytes(b"x")
    return folder


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch, small_model: Model) -> None:
    encoders = {"means": Means(), "small": load_encoder(small_model, contexts=["reverse"])}
    monkeypatch.setattr(segmentation, "load_encoders", lambda names, **_: map(encoders.get, names))


def config(tmp_path: Path, **options: Any) -> Config:
    given: dict[str, Any] = {"num_classes": 3, "ignore_index": 9, "encoder": ("means",), "outputs": ("fine",)}
    given |= {"resolution": 48, "cache": str(tmp_path / "cache"), "data": str(tmp_path / "scenes")}
    given |= {"duplicates": False} | ({"iterations": 40} if options.get("head", "linear") == "linear" else {})
    return Config(**(given | options))


@pytest.mark.parametrize(
    ("head", "blend"),
    [("linear", "features"), ("linear", "probabilities"), ("knn", "probabilities"), ("logistic", "features")],
)
def test_colours_are_segmented_by_their_means(tmp_path: Path, head: str, blend: str) -> None:
    write_scenes(tmp_path / "scenes", count=7)
    path = run(config(tmp_path, head=head, blend=blend, stride=8, resized=True), tmp_path / "out")
    result = json.loads(path.read_text())
    (row,) = result["results"]
    assert next(iter(k for k, v in row.items() if isinstance(v, float))) == "miou"
    assert row["miou"] > 0.8 and row["interval"][0] <= row["miou"] <= row["interval"][1]
    assert row["pixel_accuracy"] > 0.9 and row["validation"] > 0.8 and len(row["class_ious"]) == 3
    assert row["miou_resized"] == row["miou"]  # the canvas has the masks' size
    assert row["resolution"] == f"shorter side 48, tiles of 16 every 8 pixels, {blend} blended"
    assert "6 images" in result["card"]["data"]["train"]
    assert "1 train pairs could not be read" in result["card"]["warnings"][0]
    assert "03.png" in result["card"]["warnings"][0]
    assert (tmp_path / "out" / "overlays-means.png").read_bytes().startswith(b"\x89PNG")
    assert list(result["artifacts"].values()) == ["differences.json", "overlays-means.png"]
    assert row["settings"] == ("40 iterations" if head == "linear" else "at most 50000 training patches")


def test_frames_of_one_clip_are_drawn_in_blocks(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", bad=False)
    about: dict[str, Any] = {"num_classes": None, "labels": "camvid", "ignore_index": None}
    clip = load_task(config(tmp_path, **about))
    assert segmentation.block_of(clip) == 7, "half of the 14 images, which are fewer than two blocks of 25"
    assert "blocks of 7 consecutive" in segmentation.interval_words(clip)
    assert any("one clip" in warning for warning in segmentation.warnings_of(clip))
    assert segmentation.block_of(load_task(config(tmp_path, **about, block=3))) == 3
    assert segmentation.block_of(load_task(config(tmp_path))) is None


def test_near_duplicates_are_warned_of(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "scenes", count=7)
    for kind in ("images", "masks"):
        copied = (folder / "train" / kind / "05.png").read_bytes()
        (folder / "validation" / kind / "02.png").write_bytes(copied)
    warnings = segmentation.warnings_of(load_task(config(tmp_path, duplicates=True)))
    assert any(warning.startswith("1 of 7 evaluation images have a near-duplicate") for warning in warnings)


def test_what_masks_mean_is_part_of_the_data(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", bad=False)
    parts = [segmentation.data_parts(load_task(config(tmp_path, **given))) for given in ({}, {"num_classes": 10})]
    assert parts[0]["train"].endswith("3 classes, 9 ignored, 14 images (" + parts[0]["train"][-9:])
    assert parts[0] != parts[1]
    digits = {"data": "photo-digits", "num_classes": None, "ignore_index": None}
    digits |= {"train_images": 6, "evaluation_images": 4}
    sizes = [load_task(config(tmp_path, **digits, size=size)) for size in (16, 24)]
    assert segmentation.data_parts(sizes[0]) != segmentation.data_parts(sizes[1])
    names = {segmentation._cache_name(task.config, task.train, "train") for task in sizes}
    assert len(names) == 2  # features of one size are not taken for another's


def test_classes_of_few_images_are_warned_of(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "scenes", bad=False)
    for number in range(5, 14):  # class 2 is left in five images
        path = folder / "validation/masks" / f"{number:02d}.png"
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask == 2, 1, mask).astype(np.uint8)).save(path)
    task = load_task(config(tmp_path))
    assert segmentation.rare_classes(task) == ["2"]
    assert "may lack 2, which fewer than 10 evaluation images hold" in segmentation.warnings_of(task)[0]


def test_every_output_of_a_generator_has_a_row_and_its_weights_stay(tmp_path: Path, small_model: Model) -> None:
    write_scenes(tmp_path / "scenes", bad=False)
    before = {name: value.clone() for name, value in small_model.transformer.state_dict().items()}
    options: dict[str, Any] = {"encoder": ("small",), "outputs": None, "resolution": None, "iterations": 2}
    result = json.loads(run(config(tmp_path, **options), tmp_path / "out").read_text())
    outputs = [row["output"] for row in result["results"]]
    assert len(outputs) == 6 + 2 and "reverse/image/2" in outputs
    layers = {row["output"]: row["layer"] for row in result["results"] if isinstance(row["layer"], list)}
    assert layers == {"reverse/image/all": [0, 1, 2], "reverse/instruction/all": [0, 1, 2]}
    assert {row["context"] for row in result["results"]} == {"reverse"}
    assert json.loads((tmp_path / "out" / "differences.json").read_text()) == []  # of one context
    assert result["card"]["weights"] == {small_model.name: small_model.weights_hash}
    for name, value in small_model.transformer.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)


class Layers(Means):
    """Three layers: patches, coarser ones, and the patches moved to the side."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = {name: NO_DETAILS | {"layer": n} for n, name in enumerate(("fine", "coarse", "moved"))}

    def _encode(self, images: torch.Tensor, outputs: list[str]) -> dict[str, torch.Tensor]:
        found = super()._encode(images, ["fine", "coarse"])
        return found | {"moved": found["fine"].roll(1, 2)}


def test_all_layers_of_one_grid_have_a_head_together(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", bad=False, count=8)
    options: dict[str, Any] = {"resolution": None, "iterations": 3}
    task = load_task(config(tmp_path, outputs=("fine", "moved"), **options))
    rows = {row["output"]: row for row in (each.row.to_json() for each in evaluate(Layers(), task))}
    assert {name: row["layer"] for name, row in rows.items()} == {"fine": 0, "moved": 2, "all": [0, 2]}
    assert rows["all"]["grid"] == "4x4" and rows["all"]["miou"] != rows["fine"]["miou"]
    grids = Layers().grids()
    assert heads_of(Layers(), grids, task.config) == {name: [name] for name in grids}, "two grids"
    alone = replace(task.config, single_layers=True)
    assert list(heads_of(Layers(), {"fine": 4, "moved": 4}, alone)) == ["fine", "moved"]


def test_native_and_resized_scores_differ_where_details_are_lost(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", bad=False)
    for path in (tmp_path / "scenes" / "validation" / "masks").iterdir():
        mask = np.array(Image.open(path))
        mask[2::6] = (mask[2::6] + 1) % 3  # lines that a canvas of a third of the size passes over
        Image.fromarray(mask).save(path)
    task = load_task(config(tmp_path, resolution=16, resized=True))
    row = evaluate(Means(), task)[0].row
    assert row["miou"] < 0.8 * row["miou_resized"]


def test_photo_digits_need_no_files(tmp_path: Path) -> None:
    given: dict[str, Any] = {"data": "photo-digits", "num_classes": None, "ignore_index": None, "resolution": None}
    task = load_task(config(tmp_path, **given, size=16, train_images=20, evaluation_images=6))
    assert task.num_classes == 11 and len(task.train) == 20 and len(task.evaluation) == 6
    row = evaluate(Means(), task)[0].row
    assert 0 < row["miou"] < 1


def test_blended_probabilities_equal_the_untiled_ones_for_one_tile() -> None:
    generator = np.random.default_rng(0)
    maps = generator.standard_normal((12, 4, 4, 6)).astype(np.float32)
    masks = list(generator.integers(0, 3, (12, 16, 16)))
    head = LinearSegmenter(3, learning_rates=(1e-2,), iterations=10).fit(list(maps), masks)
    blended = blended_probabilities(head, maps[:1], [(0, 0)], (16, 16), 16)
    torch.testing.assert_close(blended.sum(2), torch.ones(16, 16))
    np.testing.assert_array_equal(segment(blended, (16, 16)), blended.argmax(2).numpy())
    plain = torch.nn.functional.interpolate(
        head.probabilities(maps[0]).permute(2, 0, 1)[None], size=(16, 16), mode="bilinear"
    )
    torch.testing.assert_close(blended, plain[0].permute(1, 2, 0))


def test_equal_tiles_blend_to_what_each_says() -> None:
    """Tiles of one class each, everywhere: a constant field stays one, and two fade by the hat's weights."""

    class Sure:
        num_classes = 2

        def probabilities(self, features: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.stack([1 - features[..., 0], features[..., 0]], 2))

    positions = tile_positions(4, 6, 4, 2)
    maps = np.stack([np.zeros((2, 2, 1), np.float32), np.ones((2, 2, 1), np.float32)])
    blended = blended_probabilities(Sure(), maps, positions, (4, 6), 4)  # type: ignore[arg-type]
    expected = torch.tensor([0, 0, 1 / 3, 2 / 3, 1, 1])  # weights 2 and 1, then 1 and 2
    torch.testing.assert_close(blended[..., 1], expected.expand(4, 6))


# Data and pictures


def test_scenes_leave_out_what_cannot_be_read_and_draw_by_seed(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    labels = Labels(("a", "b", "c"), 9)
    with pytest.warns(UserWarning, match=r"1 of 14 pairs of train are left out; .*03\.png"):
        whole = Scenes(str(tmp_path), "train", labels, size=64, count=None, seed=0)
    assert len(whole) == 13 and whole.unreadable[0]["row"] == 3
    assert Path(whole.paths[3]).name == "04.png"
    np.testing.assert_array_equal(whole.masks[3], np.array(Image.open(tmp_path / "train" / "masks" / "04.png")))
    some, again, other = (Scenes(str(tmp_path), "train", labels, size=64, count=5, seed=s) for s in (1, 1, 2))
    assert some.paths == again.paths != other.paths and some.fingerprint == again.fingerprint != other.fingerprint


def test_labels_by_name_or_number() -> None:
    assert labels_of("camvid", None, None).ignore_index == 11 and len(LABELS["camvid"].names) == 11
    assert len(LABELS["voc"].names) == 21
    assert labels_of(None, 4, 7) == Labels(("0", "1", "2", "3"), 7)
    with pytest.raises(ValueError, match=r"--num-classes .*--labels"):
        labels_of(None, None, None)
    with pytest.raises(ValueError, match="num_classes must be ≥ 2, got 1"):
        labels_of(None, 1, None)
    with pytest.raises(ValueError, match="unknown labels 'ade'"):
        labels_of("ade", None, None)
    with pytest.raises(ValueError, match="11 classes and that 11 is ignored, got --num-classes 3"):
        labels_of("camvid", 3, None)
    with pytest.raises(ValueError, match="--ignore-index 0"):
        labels_of("voc", None, 0)


def test_labels_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text('["road", "tree"]')
    assert labels_of(str(path), None, 0) == Labels(("road", "tree"), 0)
    with pytest.raises(ValueError, match="holds 2 class names, expected 3"):
        labels_of(str(path), 3, None)


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"head = .*, expected .*linear, knn, logistic"):
        config(tmp_path, head="mlp")
    with pytest.raises(ValueError, match=r"--stride 8 .* give --resolution"):
        config(tmp_path, resolution=None, stride=8)
    with pytest.raises(ValueError, match=r"--blend probabilities .* give --resolution"):
        config(tmp_path, resolution=None, blend="probabilities")
    with pytest.raises(ValueError, match="give --num-classes of the masks"):
        config(tmp_path, num_classes=None)
    write_scenes(tmp_path / "scenes")
    with pytest.raises(ValueError, match="the split 'train' twice"):
        load_task(config(tmp_path, evaluation_split="train"))
    with pytest.raises(ValueError, match="10% of 4 images leave none"):
        load_task(config(tmp_path, train_images=4, seed=1))


def test_overlays_by_hand() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    colours = np.array([[1.0, 0, 0], [0, 0, 1.0]])
    found = overlay(image, np.array([[0, 1, 255]]), colours)
    assert found.tolist() == [[[193, 40, 40], [40, 40, 193], [100, 100, 100]]]
    assert overlay(image * [0, 1, 2], np.array([[0, 1, 255]]), colours).tolist() == [
        [[193, 40, 40], [40, 40, 193], [0, 100, 200]]
    ]


def test_colours_of_classes_are_far_apart() -> None:
    bright, dark, pale = [1.0, 1.0], [1.0, 0.5], [0.45, 1.0]
    colours = rgb_to_hsv(class_colours(11))
    hues = np.rint(11 * colours[:, 0]).astype(int)
    np.testing.assert_allclose(11 * colours[:, 0], hues, atol=1e-9)
    assert hues.tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7]
    by_hue = [bright, dark, pale, bright, dark, pale, bright, dark, pale, bright, dark]
    np.testing.assert_allclose(colours[np.argsort(hues), 1:], by_hue)


def closest(colours: np.ndarray) -> float:
    """How much the hues of two classes differ at least, over places of any brightness, in steps of some channel."""
    places = np.array([0, 128, 255])[:, None, None].repeat(3, axis=2).astype(np.uint8)
    seen = [overlay(places, np.full((3, 1), n), colours).astype(float) for n in range(len(colours))]
    pairs = [one - other.transpose(1, 0, 2) for n, one in enumerate(seen) for other in seen[:n]]
    return min(np.abs(pair - pair.mean(axis=2, keepdims=True)).max(axis=2).min() for pair in pairs)


@pytest.mark.parametrize(("count", "steps"), [(3, 73), (11, 22), (20, 12)])
def test_a_class_over_a_bright_place_is_not_another_over_a_dark_one(count: int, steps: int) -> None:
    assert closest(class_colours(count)) >= steps


def test_colours_of_classes_differ_and_a_legend_names_them() -> None:
    for count in (3, 11, 20, 150):
        colours = class_colours(count)
        assert colours.shape == (count, 3) and colours.min() >= 0 and colours.max() <= 1
        assert len(np.unique(colours.round(4), axis=0)) == count
    image, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), int)
    names = [f"class {n}" for n in range(30)]
    small = segmentations([image], [mask], [mask], names, ignore_index=255)
    many = segmentations([image], [np.arange(600).reshape(20, 30) % 30], [mask], names, ignore_index=255)
    assert small.startswith(b"\x89PNG") and many.startswith(b"\x89PNG")
