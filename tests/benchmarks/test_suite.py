"""The suite asks each data set for what it has, does nothing twice, and loses nothing to a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import suite
from benchmarks.result import AXES, read_result, write_result
from benchmarks.run import Measurement, card


def pictures(folder: Path, count: int = 3, mode: str = "RGB") -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        colour = number if mode == "L" else (40 * number, 10, 200)
        Image.new(mode, (16, 16), colour).save(folder / f"{number}.png")


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    """Folders of labelled images with and without splits, of images with masks, and of point pairs."""
    for split in ("train", "validation"):
        for name in ("cat", "dog"):
            pictures(tmp_path / "split" / split / name)
            if split == "train":
                pictures(tmp_path / "whole" / name)
        pictures(tmp_path / "masks" / split / "images")
        pictures(tmp_path / "masks" / split / "masks", mode="L")
    (tmp_path / "spair" / "PairAnnotation").mkdir(parents=True)
    return {name: str(tmp_path / name) for name in ("split", "whole", "masks", "spair")}


def test_what_data_sets_have(data: dict[str, str]) -> None:
    assert {name: suite.kinds_of(path) for name, path in data.items()} == {
        "split": {"labels"}, "whole": {"labels"}, "masks": {"masks"}, "spair": {"points"},
    }  # fmt: skip
    assert suite.kinds_of("photo-digits") == {"labels", "masks"}
    with pytest.raises(FileNotFoundError, match="no data at nowhere: expected a folder"):
        suite.kinds_of("nowhere")


def test_splits(data: dict[str, str]) -> None:
    assert suite.splits_of(data["split"]) == ("train", "validation")
    assert suite.splits_of(data["whole"]) == (None, None)
    assert suite.splits_of(data["masks"]) == ("train", "validation")
    assert suite.splits_of("photo-digits") == ("train", "test")
    (Path(data["split"]) / "validation").rename(Path(data["split"]) / "valid")
    assert suite.splits_of(data["split"]) == ("train", "valid")


def test_each_data_set_is_asked_for_what_it_has(data: dict[str, str]) -> None:
    settings = suite.Settings(data=(*data.values(), "digits"), encoder=("pixels", "tiny"), head=("knn",), seed=3)
    with pytest.raises(ValueError, match="give --num-classes of the masks"):
        list(suite.jobs(settings))
    settings = replace(settings, evaluation_images=2, num_classes=2)
    planned = {job.name: job.config for job in suite.jobs(settings)}
    assert list(planned) == [
        "split/classification", "split/retrieval", "whole/classification", "whole/retrieval",
        "masks/segmentation-knn", "masks/maps-tiny", "spair/correspondence", "digits/correspondence",
    ]  # fmt: skip
    held = planned["split/classification"]
    assert (held.train_split, held.evaluation_split, held.seed) == ("train", "validation", 3)
    assert planned["whole/classification"].evaluation_split is None
    assert planned["whole/classification"].evaluation_images == 2
    assert planned["split/retrieval"].split == "validation"
    assert planned["masks/segmentation-knn"].encoder == ("pixels", "tiny")
    assert planned["masks/segmentation-knn"].num_classes == 2
    assert suite.mask_classes("camvid/", settings) == {"labels": "camvid", "num_classes": None, "ignore_index": None}
    for name, known in (("VOC2012", "voc"), ("my_voc-2/", "voc"), ("PascalVOC", "voc"), ("vocals", None)):
        assert suite.mask_classes(name, settings)["labels"] == known
    assert suite.mask_classes("avocados/", settings) == {"labels": None, "num_classes": 2, "ignore_index": None}


@dataclass(frozen=True)
class Counted:
    """Options of a benchmark that counts its runs."""

    value: int = 0
    fails: bool = False


class Bench:
    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, config: Counted, out: Path) -> Path:
        if config.fails:
            raise ValueError("no luck")
        self.runs.append(config.value)
        axes = {"encoder": "pixels", "output": "pixels"}
        made = card(
            Measurement(protocol="counting", results=[], axes={**dict.fromkeys(AXES), **axes}, data={}, weights={})
        )
        return write_result(out, made, [{"accuracy": np.float64(0.5)}])


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench()

    def jobs(settings: suite.Settings) -> Iterator[suite.Job]:
        for name in settings.data:
            yield suite.Job(name, Counted(len(name), fails=name == "bad" and settings.seed == 0), bench)

    monkeypatch.setattr(suite, "jobs", jobs)
    return bench


def test_what_is_done_is_not_done_again(bench: Bench, tmp_path: Path) -> None:
    settings = suite.Settings(data=("a", "bb"), encoder=("pixels",))
    report = suite.run(settings, tmp_path)
    assert bench.runs == [1, 2]
    assert "50.0 %" in report.read_text() and "| bb |" in report.with_suffix(".md").read_text()
    (tmp_path / "bb" / "config.json").unlink()  # as a kill between the result and its description leaves it
    suite.run(settings, tmp_path)
    assert bench.runs == [1, 2, 2]
    described = json.loads((tmp_path / "a" / "config.json").read_text())
    assert described == {"config": {"value": 1, "fails": False}, "weights": {"pixels": "none"}, "data": {}}


def test_a_kill_while_measuring_again_leaves_nothing_that_looks_done(tmp_path: Path) -> None:
    def killed(config: Counted, out: Path) -> Path:
        raise KeyboardInterrupt

    suite.run_once(suite.Job("a", Counted(1), Bench()), tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        suite.run_once(suite.Job("a", Counted(2), killed), tmp_path, {})
    again = Bench()
    suite.run_once(suite.Job("a", Counted(1), again), tmp_path, {})
    assert again.runs == [1]


def test_an_option_that_is_newer_than_a_result_had_its_default(tmp_path: Path) -> None:
    bench = Bench()
    suite.run_once(suite.Job("a", Counted(1), bench), tmp_path, {})
    older = json.loads((tmp_path / "config.json").read_text())
    del older["config"]["fails"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    suite.run_once(suite.Job("a", Counted(1), bench), tmp_path, {})
    assert bench.runs == [1]
    older["config"]["value"] = 2
    (tmp_path / "config.json").write_text(json.dumps(older))
    suite.run_once(suite.Job("a", Counted(1), bench), tmp_path, {})
    assert bench.runs == [1, 1]


def test_data_sets_of_one_name_are_refused(data: dict[str, str], tmp_path: Path) -> None:
    pictures(tmp_path / "other" / "split" / "cat")
    settings = suite.Settings(data=(data["split"], str(tmp_path / "other" / "split")), encoder=("pixels",))
    with pytest.raises(ValueError, match="would share split/classification, split/retrieval: rename one"):
        suite.run(settings, tmp_path / "out")


def test_tokenizers_of_other_models_have_no_maps_and_names_are_files(data: dict[str, str]) -> None:
    settings = suite.Settings(data=(data["masks"],), encoder=("codes:tiny", "runs/my model"), head=())
    assert [job.name for job in suite.jobs(settings)] == ["masks/maps-runs-my-model"]


def test_other_weights_are_measured_again(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = suite.Settings(data=("a",), encoder=("tiny",))
    for weights, runs in (("aa", 1), ("aa", 1), ("bb", 2)):
        encoder = type("Encoder", (), {"weights": weights})
        monkeypatch.setattr(suite, "load_encoder", lambda name, encoder=encoder, **_: encoder)
        suite.run(settings, tmp_path)
        assert len(bench.runs) == runs


@pytest.mark.parametrize("name", ["data", "labels"])
def test_other_data_of_the_same_name_are_measured_again(name: str, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class OfData:
        data: str = "photo-digits"
        labels: str = "camvid"
        value: int = 1
        fails: bool = False

    bench, file = Bench(), tmp_path / "content.json"
    for content, runs in ((b"a", 1), (b"a", 1), (b"b", 2)):
        file.write_bytes(content)
        suite.run_once(suite.Job("a", OfData(**{name: str(file)}), bench), tmp_path / "out", {})
        assert len(bench.runs) == runs


def test_a_failure_costs_no_other_benchmark(bench: Bench, tmp_path: Path) -> None:
    names = ("a", "bad", "cc")
    with pytest.raises(RuntimeError, match="1 of 3 benchmarks failed:\nbad: ValueError: no luck"):
        suite.run(suite.Settings(data=names, encoder=("pixels",)), tmp_path)
    assert bench.runs == [1, 2] and (tmp_path / "report.html").exists()
    suite.run(suite.Settings(data=names, encoder=("pixels",), seed=1), tmp_path)
    assert 3 in bench.runs


def test_where_all_fail_the_reasons_are_said(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="1 of 1 benchmarks failed:\nbad: ValueError: no luck"):
        suite.run(suite.Settings(data=("bad",), encoder=("pixels",)), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probe": ("knnn",)}, "probe = .*'knnn'.*, expected .*logistic, "),
        ({"pooling": ("maen",)}, "pooling = .*'maen'.*, expected .*mean, "),
        ({"encoder": ("pixls",)}, "no encoder 'pixls': did you mean 'pixels'"),
        ({"encoder": ("randar-tiny",), "context": ("revers",)}, "revers"),
    ],
)
def test_misspelt_options_are_found_before_anything_is_done(
    data: dict[str, str], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    settings = {"data": (data["split"],), "encoder": ("pixels",), **options}
    with pytest.raises(ValueError, match=message):
        suite.run(suite.Settings(**settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_demo_is_a_preset() -> None:
    settings = suite.with_preset(suite.Settings(preset="demo", seed=4, head=("linear",)))
    assert (settings.seed, settings.head, settings.data) == (4, ("linear",), ("photo-digits", "digits"))
    names = [job.name for job in suite.jobs(settings)]
    assert "photo-digits/classification" in names and "digits/correspondence" in names
    assert names[-2:] == ["samples/randar-tiny", "samples/randar-tiny-aligned"]
    assert "photographs/maps-randar-tiny" in [job.name for job in suite.jobs(settings)]
    with pytest.raises(ValueError, match="--preset demo"):
        suite.Settings()


def test_results_stay_below_the_folder_whatever_the_data_are_called(
    data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data["whole"])
    names = [job.name for job in suite.jobs(suite.Settings(data=(".",), encoder=("pixels",)))]
    assert names == ["whole/classification", "whole/retrieval"]
    assert suite.name_of("/") == "data" and suite.name_of("../whole") == "whole"


def test_small_data_are_held_back_by_a_share(data: dict[str, str], tmp_path: Path) -> None:
    settings = suite.Settings(data=(data["whole"],), encoder=("pixels",), duplicates=False, cache=str(tmp_path / "c"))
    for name in ("cat", "dog"):
        pictures(Path(data["whole"]) / name / "more", 12)
    suite.run(replace(settings, probe=("knn",)), tmp_path / "out")
    content = read_result(tmp_path / "out/whole/classification")
    assert "a fifth of all" in content["card"]["data"]["evaluation"]
    searched = read_result(tmp_path / "out/whole/retrieval")["card"]
    assert "the query excluded by its id" in searched["protocol"]
