"""`randar probe`: the benchmark's numbers, of images and of stores of their features."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.result import read_result
from benchmarks.tasks.whole_images.classification import Config
from randar_features.cli.commands import main
from tests.benchmarks.image_folders import write_classes
from tests.small_models import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes by colour, 10 images each, in `images`; a small model beside them."""
    root = tmp_path_factory.mktemp("probe")
    write_classes(root / "images", per_class=10, seed=0)
    write_folder(root / "model")
    return root


def accuracies(out: Path) -> dict[str, float]:
    return {row["output"]: row["accuracy"] for row in read_result(out)["results"]}


def test_images_and_a_store_of_their_maps_give_the_same_accuracy(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    images, model = str(folder / "images"), str(folder / "model")
    assert main(["probe", images, "--encoder", model, "--out", "of-images", "--no-duplicates"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy" in shown and "95 % interval" in shown and str(Path("of-images", "result.json")) in shown
    [(spec, accuracy)] = accuracies(tmp_path / "of-images").items()
    card = read_result(tmp_path / "of-images")["card"]
    assert (card["task"], card["encoding"]["dtype"]) == ("classification", "float32")

    extraction = ["--model", model, "--out", "store", "--pooling", "none", "--no-progress"]
    assert main(["extract", images, *extraction]) == 0
    assert main(["probe", "store", "--spec", spec, "--out", "of-store"]) == 0
    assert accuracies(tmp_path / "of-store") == {spec: accuracy}


def test_an_encoder_for_a_store_is_refused_and_bfloat16_is_on_the_card(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store, out = tmp_path / "store", tmp_path / "out"
    extraction = ["--model", str(folder / "model"), "--dtype", "bfloat16", "--out", str(store), "--no-progress"]
    assert main(["extract", str(folder / "images"), *extraction]) == 0
    assert main(["probe", str(store), "--probe", "knn", "--out", str(out)]) == 0
    assert read_result(out)["card"]["encoding"]["dtype"] == "bfloat16"
    capsys.readouterr()
    for option, value in (("--encoder", "pixels"), ("--split", "train"), ("--value-range", ("0", "9"))):
        assert main(["probe", str(store), option, *([value] if isinstance(value, str) else value)]) == 2
        assert option in capsys.readouterr().err
    with pytest.raises(ValueError, match="--max-images"):
        next(Config(data=str(store), max_images=5, dtype="bfloat16").encoders())
    assert main(["probe", str(store), "--probe", "attentive", "--out", str(out)]) == 2
    assert "maps" in capsys.readouterr().err
