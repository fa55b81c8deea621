from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.encoders import extract, load_encoder
from benchmarks.report.write import depth_curves
from benchmarks.result import open_run, read_result
from benchmarks.run import main
from benchmarks.tasks.whole_images import classification, classification_probes
from benchmarks.tasks.whole_images.classification import Config
from benchmarks.tasks.whole_images.classification_probes import top_hits
from benchmarks.tasks.whole_images.labelled import LabelledData, Split, choose_rows, fewer, hold_out
from probes import KNNProbe, LogisticProbe, few_shot, stratified_holdout
from tests.benchmarks.image_folders import write_classes
from tests.small_models import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes by colour, 24 images each."""
    root = tmp_path_factory.mktemp("colours") / "images"
    write_classes(root, per_class=24, seed=0)
    return root


@pytest.fixture(scope="module")
def pixels(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Their mean patch by the encoder "pixels", in the precision of the cache, and the labels."""
    store = extract(load_encoder("pixels"), str(folder), folder=folder.parent / "cache", progress=False)
    return store.array("patches").astype(np.float16), store.labels


def config(folder: Path, cache: Path, **options: object) -> Config:
    probes = options.get("probe", ("logistic",))
    shared = {"evaluation_images": 12, "cache": str(cache / "cache"), "duplicates": False}
    shared |= {"epochs": 2} if {"linear", "attentive"} & {*probes} else {}
    shared |= {"draws": 2, "shots": (2,)} if "few-shot" in probes else {}
    return Config(data=str(folder), **{**shared, **options})


def test_the_command_reports_what_the_probe_gives(
    folder: Path, pixels: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = write_folder(tmp_path / "model")
    arguments = ["--data", str(folder), "--encoder", "pixels", str(model), "--cache", str(tmp_path / "cache")]
    arguments += ["--evaluation-images", "12", "--contexts", "reverse", "--reads", "image", "--no-duplicates", "--out"]
    arguments.append(str(tmp_path / "out"))
    assert main("classification", [*arguments]) == 0
    report = read_result(tmp_path / "out")
    by_name = {row["output"]: row for row in report["results"]}
    outputs = {"32x32", "patches", *(f"reverse/image/{i}" for i in range(3)), "reverse/image/all"}
    assert set(by_name) == outputs
    assert by_name["reverse/image/all"]["layer"] == [0, 1, 2]
    assert by_name["reverse/image/all"]["dimensions"] == 3 * by_name["reverse/image/1"]["dimensions"]

    # By hand: four rows of each class are held out, the probe never sees them.
    vectors, labels = pixels
    kept, held_out = stratified_holdout(labels, fraction=12 / 72, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [4, 4, 4]
    probe = LogisticProbe(seed=0).fit(vectors[kept], labels[kept])
    row = by_name["patches"]
    assert row["accuracy"] == (probe.predict(vectors[held_out]) == labels[held_out]).mean()
    assert row["chosen"] == {"C": probe.C}
    assert row["tuning"] == probe.validation_accuracy
    assert (row["probe"], row["layer"], row["pooling"], row["normalization"]) == (
        "logistic",
        None,
        "mean",
        "standardize",
    )
    kept_predictions = np.load(tmp_path / "out" / report["artifacts"]["predictions"])
    np.testing.assert_array_equal(kept_predictions["labels"], labels[held_out])
    np.testing.assert_array_equal(kept_predictions["predictions"][1], probe.predict(vectors[held_out]))
    assert kept_predictions["label_names"].tolist() == ["blue", "green", "red"]
    assert len(kept_predictions["predictions"]) == len(report["results"])
    assert "patches" in (tmp_path / "out/result.md").read_text()
    assert (depth_curves(open_run(tmp_path / "out")) or b"").startswith(b"\x89PNG")


@pytest.mark.parametrize("iterations", [1, 1000])
def test_a_probe_that_has_not_converged_says_so(
    folder: Path, tmp_path: Path, iterations: int, monkeypatch: pytest.MonkeyPatch
):
    probe = partial(LogisticProbe, max_iterations=iterations, C_grid=(1.0,))
    monkeypatch.setattr(classification_probes, "LogisticProbe", probe)
    options = {"encoder": ("pixels",), "outputs": ("patches",), "probe": ("logistic",)}
    classification.run(config(folder, tmp_path, **options), tmp_path)
    [row] = read_result(tmp_path)["results"]
    assert row["converged"] == (iterations > 1)
    assert any("not converged" in warning for warning in row.get("warnings", [])) == (iterations == 1)


def test_every_probe_on_the_same_rows(folder: Path, pixels: tuple[np.ndarray, np.ndarray], tmp_path: Path):
    probes = ("logistic", "linear", "knn", "few-shot", "attentive")
    options = {"encoder": ("pixels",), "outputs": ("patches",), "probe": probes}
    classification.run(config(folder, tmp_path, **options), tmp_path)
    rows = read_result(tmp_path)["results"]
    assert [(row["probe"], row["output"]) for row in rows] == [(probe, "patches") for probe in probes]
    vectors, labels = pixels
    kept, held_out = stratified_holdout(labels, fraction=12 / 72, seed=0)
    sets = vectors[kept].astype(np.float32), labels[kept], vectors[held_out].astype(np.float32), labels[held_out]
    knn = KNNProbe(k=(10, 20)).fit(*sets[:2]).predict(sets[2])
    by_probe = {row["probe"]: row for row in rows}
    assert by_probe["knn"]["accuracy"] == (knn[20] == sets[3]).mean()
    assert by_probe["knn"]["by_k"] == {str(k): (knn[k] == sets[3]).mean() for k in (10, 20)}
    (shots,) = few_shot(*sets, shots=(2,), seeds=2)
    assert (by_probe["few-shot"]["accuracy"], by_probe["few-shot"]["deviation"]) == (shots.mean, shots.deviation)
    assert by_probe["few-shot"]["shots"] == 2  # the report's learning curve needs it
    assert all(row["interval"][0] <= row["accuracy"] <= row["interval"][1] for row in rows)
    assert rows[-1]["pooling"] is None and rows[0]["pooling"] == "mean"


def test_features_on_disk_give_the_same_but_for_the_order_of_batches(folder: Path, tmp_path: Path):
    options = {"encoder": ("pixels",), "probe": ("logistic", "knn"), "outputs": ("patches",)}
    for name, on_disk in (("memory", False), ("disk", True)):
        classification.run(config(folder, tmp_path, on_disk=on_disk, **options), tmp_path / name)
    first, second = (read_result(tmp_path / name)["results"] for name in ("memory", "disk"))
    assert [row["accuracy"] for row in first] == [row["accuracy"] for row in second]
    assert first[0]["chosen"] == second[0]["chosen"]


def test_near_duplicates_between_held_back_and_training_rows_are_warned_of(tmp_path: Path):
    paths = write_classes(tmp_path / "images", per_class=12, seed=3)
    options = {"encoder": ("pixels",), "probe": ("knn",)}
    found = classification.run(config(tmp_path / "images", tmp_path, **options), tmp_path / "first")
    assert read_result(found)["card"]["warnings"] == []
    labels = np.repeat(np.arange(3), 12)
    kept, held_out = stratified_holdout(labels, fraction=12 / 36, seed=0)
    for first, second in ((kept[0], held_out[3]), (kept[9], held_out[5]), (kept[17], kept[18])):
        paths[second].write_bytes(paths[first].read_bytes())
    looking = config(tmp_path / "images", tmp_path / "other", duplicates=True, **options)
    card = read_result(classification.run(looking, tmp_path / "second"))["card"]
    (warning,) = card["warnings"]
    assert warning.startswith("2 of 12 evaluation images have a near-duplicate") and "2 of them with equal" in warning
    assert card["config"]["duplicates"] is True and card["config"]["encoder"] == ["pixels"]


def test_one_split_cannot_be_both(folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="must differ, got the split 'train' twice"):
        config(folder, tmp_path, train_split="train", evaluation_split="train", evaluation_images=None)


def test_few_shot_probes_can_do_without_standardisation(folder: Path, tmp_path: Path):
    options = {"encoder": ("pixels",), "outputs": ("patches",), "probe": ("few-shot",)}
    chosen = []
    for name in ("none", "standardize"):
        path = classification.run(config(folder, tmp_path, normalization=name, **options), tmp_path / name)
        (row,) = read_result(path)["results"]
        chosen.append(row["chosen"]["C"])
        assert row["normalization"] == name
    assert chosen[0] != chosen[1]


def test_top_hits_count_an_unknown_label_as_missed():
    table = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
    assert top_hits(table, np.array([2, 4, 8]), np.array([4, 2, 9]), 2) == pytest.approx(1 / 3)
    assert top_hits(table, np.array([2, 4, 8]), np.array([9, 9, 9]), 2) == 0


def test_unusable_data_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/a.png").write_bytes((folder / "blue/00.png").read_bytes())
    options = {"encoder": ("histogram",)}
    with pytest.raises(ValueError, match=r"the first of 1 images of .*plain has no label"):
        classification.run(config(tmp_path / "plain", tmp_path, **options), tmp_path)
    with pytest.raises(ValueError, match="72 readable images cannot hold out 72"):
        classification.run(config(folder, tmp_path, evaluation_images=72, **options), tmp_path)
    with pytest.raises(ValueError, match=r"the last 24 images hold none of 2 classes, \[0, 1\]"):
        classification.run(config(folder, tmp_path, evaluation_images=24, hold_out="last", **options), tmp_path)
    with pytest.raises(ValueError, match=r"probe = .*'svm'.*, expected .*logistic, "):
        classification.run(config(folder, tmp_path, probe=("svm",), **options), tmp_path)
    with pytest.raises(ValueError, match="--normalization batch is for --probe linear"):
        classification.run(config(folder, tmp_path, normalization="batch", **options), tmp_path)


def test_the_last_rows_are_held_back_when_asked_for():
    split = Split(np.array([0, 1, 3, 4, 5, 7]), np.array([0, 1, 2, 0, 1, 2]))
    kept, held_out = hold_out(split, LabelledData(data="", evaluation_images=3, hold_out="last"))
    assert kept.rows.tolist() == [0, 1, 3] and held_out.rows.tolist() == [4, 5, 7]
    assert held_out.labels.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="hold_out = 'first', expected one of stratified, last"):
        hold_out(split, LabelledData(data="", evaluation_images=3, hold_out="first"))


def test_an_unreadable_image_is_left_out_and_named(folder: Path, tmp_path: Path):
    for label, name in enumerate(("a", "b")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(12):
            picture = folder / ("blue", "red")[label] / f"{number:02d}.png"
            (tmp_path / "images" / name / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / "images/a/03.png").write_text("no picture")
    classification.run(
        config(tmp_path / "images", tmp_path, encoder=("histogram",), evaluation_images=4), tmp_path / "out"
    )
    report = json.loads((tmp_path / "out/result.json").read_text())
    assert report["card"]["warnings"][0].startswith("1 of 24 images could not be read: row 3: ")
    assert np.load(tmp_path / "out/predictions.npz")["labels"].tolist() == [0, 0, 1, 1]


def test_splits_of_other_classes_are_refused(folder: Path, tmp_path: Path):
    for split, names in (("train", "abc"), ("validation", "ac")):
        for name in names:
            (tmp_path / "images" / split / name).mkdir(parents=True)
            (tmp_path / "images" / split / name / "0.png").write_bytes((folder / "blue/00.png").read_bytes())
    splits = {
        "train_split": "train",
        "evaluation_split": "validation",
        "evaluation_images": None,
        "encoder": ("histogram",),
    }
    with pytest.raises(ValueError, match=r"are \['a', 'b', 'c'\], those of validation are \['a', 'c'\]"):
        classification.run(config(tmp_path / "images", tmp_path, **splits), tmp_path)


def test_two_splits_are_trained_and_evaluated_on(tmp_path: Path):
    write_classes(tmp_path / "images/train", per_class=10, seed=0)
    write_classes(tmp_path / "images/validation", per_class=3, seed=1)
    splits = {
        "train_split": "train",
        "evaluation_split": "validation",
        "evaluation_images": None,
        "encoder": ("histogram",),
        "train_images": 18,
    }
    classification.run(config(tmp_path / "images", tmp_path, **splits), tmp_path / "out")
    report = read_result(tmp_path / "out")
    assert report["card"]["data"]["evaluation"].endswith(" validation")
    assert report["card"]["data"]["train"].endswith(" train, at most 18, seed 0")
    assert np.load(tmp_path / "out/predictions.npz")["labels"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_only_the_first_images_are_read_where_wanted(folder: Path, tmp_path: Path):
    """Of 24 images each of three classes, 40: all of the first and 16 of the second."""
    options = config(folder, tmp_path, encoder=("histogram",), max_images=40, evaluation_images=10)
    classification.run(options, tmp_path / "out")
    assert np.load(tmp_path / "out/predictions.npz")["labels"].tolist() == [0] * 6 + [1] * 4
    parts = read_result(tmp_path / "out")["card"]["data"]
    assert all("first 40 images of each split, " in part for part in parts.values())


def test_fewer_training_rows_are_of_all_classes():
    split = Split(np.arange(100, 148), np.repeat([0, 1, 2], 16))
    few = fewer(split, 6, seed=0)
    assert np.bincount(few.labels).tolist() == [2, 2, 2]
    assert (split.labels[few.rows - 100] == few.labels).all()
    assert fewer(split, None, seed=0) is split
    with pytest.raises(ValueError, match="got 0"):
        fewer(split, 0, seed=0)


def test_rows_are_chosen_by_the_labels_alone(folder: Path, tmp_path: Path):
    """Encoders of other sizes and contents are given the same rows."""
    options = config(folder, tmp_path)
    found = []
    for name in ("pixels", "codes"):
        store = extract(load_encoder(name), str(folder), folder=options.cache)
        found.append(choose_rows(store, None, options))
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first.rows, second.rows)


@pytest.mark.parametrize(("classes", "told"), [((), "no label"), (("red", "blue"), "of each class leave none")])
def test_labels_that_allow_no_probe_are_refused_before_features_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: tuple[str, ...], told: str
):
    monkeypatch.setattr("benchmarks.tasks.whole_images.labelled.extract", lambda *_, **__: pytest.fail("computed"))
    for name in classes or (".",):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / "images" / name / f"{number}.png")
    options = config(tmp_path / "images", tmp_path, encoder=("pixels",), evaluation_images=2)
    with pytest.raises(ValueError, match=told):
        classification.measure(options, tmp_path / "out")
