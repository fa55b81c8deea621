"""The report's tables hold the numbers of the result files, and its pictures what they are said to."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.report import charts
from benchmarks.report import write as report
from benchmarks.report.tables import is_share, number, result_table, shared_words
from benchmarks.result import AXES, open_run, write_result
from benchmarks.run import Measurement, card
from probes import confusion_matrix
from tests.full_disk import full_disk

SHARED = {"resolution": 64, "threshold_basis": None, "selection": "a tenth of train", "normalization": None}
LABELS = np.array([0, 0, 1, 1])


def row(context: str, layer: int | list[int], accuracy: float, **more: Any) -> dict[str, Any]:
    axes = {"encoder": "tiny", "context": context, "layer": layer, "read": "image", "orders": "raster"}
    name = f"{context}/image/{layer}"
    return {**axes, "output": name, "pooling": "mean", "probe": "knn", "accuracy": accuracy, **more}


def pixels(accuracy: float) -> dict[str, Any]:
    absent = dict.fromkeys(("context", "layer", "read", "orders", "pooling"))
    return {**absent, "encoder": "pixels", "output": "pixels", "probe": "knn", "accuracy": accuracy}


RESULTS = [
    pixels(0.25),
    row("single", 0, 0.5),
    row("single", 1, 0.25, interval=[0.2, 0.3]),
    row("reverse", 0, 0.5, seconds=2.5),
    row("reverse", 1, 0.75, interval=[0.7, 0.8], rows=4),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = card(
        Measurement(
            protocol="kNN, k = 20",
            results=[],
            axes=SHARED,
            data={"train": "a"},
            weights={"tiny": "random (seed 0)", "pixels": "none"},
        )
    )
    run = tmp_path / "suite" / "cifar10" / "knn"
    run.mkdir(parents=True)
    Image.fromarray(np.full((4, 4, 3), 7, np.uint8)).save(run / "a.png")
    predictions = np.array([[0, 0, 0, 0]] * 4 + [[0, 1, 1, 1]])
    np.savez(run / "p.npz", labels=LABELS, predictions=predictions, label_names=["cat", "dog"])
    write_result(run, made, RESULTS, artifacts={"neighbours": "a.png", "predictions": "p.npz"})
    other = card(Measurement(protocol="maps", results=[], axes=SHARED, data={}, weights={}))
    write_result(tmp_path / "suite" / "maps", other, [])
    return tmp_path / "suite"


def test_runs_are_named_by_their_folders(folder: Path) -> None:
    assert [run.name for run in report.find_runs([folder])] == ["cifar10/knn", "maps"]
    both = report.find_runs([folder / "maps", folder / "maps" / "result.json"])
    assert [run.name for run in both] == ["maps", "maps"]
    (folder / "maps" / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no result.json below .*maps: run a benchmark"):
        report.find_runs([folder / "cifar10", folder / "maps"])


def test_the_overview_sets_the_best_row_beside_the_baseline(folder: Path) -> None:
    table = report.overview(report.find_runs([folder]))
    best = ["cifar10/knn", "tiny, reverse/image/1", "accuracy", "pixels: 25.0 %"]
    assert table.rows == [["75.0 % (70.0 % … 80.0 %)", *best]]


def test_the_best_row_is_chosen_on_tuning_rows(tmp_path: Path) -> None:
    scores = [("single", 0.9, 0.1), ("reverse", 0.5, 0.3), ("repeat", 0.7, 0.2)]
    rows = [row(context, 0, accuracy, tuning=tuning) for context, accuracy, tuning in scores]
    rows += [pixels(0.4) | {"tuning": 0.1}, pixels(0.3) | {"tuning": 0.2, "output": "patches"}]
    write_result(tmp_path, card(Measurement(protocol="kNN", results=[], axes=SHARED, data={}, weights={})), rows)
    table = report.overview(report.find_runs([tmp_path]))
    assert table.rows[0][0] == "50.0 %"
    assert table.rows[0][2:] == ["tiny, reverse/image/0", "accuracy", "pixels, patches: 30.0 %"]


def test_a_head_at_the_end_of_its_grid_is_told_wherever_its_number_stands(tmp_path: Path) -> None:
    ended = "end of grid: C 10, the highest that was tried, was chosen"
    rows = [pixels(0.3), row("reverse", 0, 0.5, warnings=[ended])]
    write_result(tmp_path, card(Measurement(protocol="kNN", results=[], axes=SHARED, data={}, weights={})), rows)
    runs = report.find_runs([tmp_path])
    for table in (report.overview(runs), result_table(runs[0])):
        assert table.header[-1] == "warnings" and table.rows[-1][-1] == ended
    assert report.markdown(runs, "Results").count(ended) == 2


def test_the_table_has_what_varies_and_every_number(folder: Path) -> None:
    table = result_table(report.find_runs([folder])[0])
    axes = ["encoder", "output", "layer", "context", "read", "orders", "pooling"]
    assert table.header == ["accuracy, 95 % interval", *axes, "seconds", "rows"]
    assert table.rows[0] == ["25.0 %", "pixels", "pixels", "", "", "", "", "", "", ""]
    shown = ["tiny", "reverse/image/1", "1", "reverse", "image", "raster", "mean"]
    assert table.rows[4] == ["75.0 % (70.0 % … 80.0 %)", *shown, "", "4"]
    shared = shared_words(report.find_runs([folder])[0])
    assert "resolution 64" in shared and "probe knn" in shared and "reverse" not in shared
    assert table.rows[3][-2:] == ["2.5", ""]
    assert table.marked == 4


def test_numbers() -> None:
    assert [number(value) for value in (1234567, 12.3456, 1, None)] == ["1,234,567", "12.35", "1", ""]
    assert [number(value, True) for value in (0.5, -0.125, None)] == ["50.0 %", "-12.5 %", ""]
    named = {"build_seconds": False, "mean_rank": False, "recall_at_1": True, "box_per_point@0.1": True}
    assert {name: is_share(name, [0.5]) for name in named} == named
    assert not is_share("gain", [0.5, 1.5]) and is_share("gain", [0.5, None])
    no_shares = (
        "FID (ADM)",
        "sFID (ADM)",
        "FD-EfficientNet-Lite0@64",
        "KD-EfficientNet-Lite0@64",
        "guidance",
        "density",
        "weights_gib",
        "gpu_days",
        "epochs",
        "tflop_per_image",
        "straightforward_gflops_per_image",
        "floor_by_memory",
        "tokenizer_mse",
        "gradient_norm",
        "ratio",
        "least_cosine_similarity",
        "this seconds",
    )
    assert not any(is_share(name, [0.5]) for name in no_shares)


def test_a_number_that_is_none_is_not_the_best(tmp_path: Path) -> None:
    axes = dict.fromkeys(AXES)
    rows = [{**axes, "encoder": name, "FID (ADM)": value} for name, value in (("a", np.nan), ("b", 9.0), ("c", 3.0))]
    about = card(Measurement(protocol="distances", results=[], axes={}, data={}, weights={}))
    assert open_run(write_result(tmp_path, about, rows)).best()["encoder"] == "c"


def test_one_heat_map_of_contexts_by_layers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(charts, "heat_map", lambda values, **names: drawn.append((values, names)) or b"png")
    captions = [caption for caption, _ in report.heat_maps(report.find_runs([folder])[0])]
    assert captions == ["accuracy, %: contexts and reads by layer. tiny, raster, mean, 64, a tenth of train, knn"]
    values, names = drawn[0]
    assert np.array_equal(values, [[0.5, 0.25], [0.5, 0.75]])
    assert (names["rows"], names["columns"]) == (["single image", "reverse image"], ["0", "1"])


def test_the_confusion_matrix_is_the_best_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(charts, "confusion_picture", lambda *given: drawn.append(given) or b"png")
    runs = report.find_runs([folder])
    assert report.confusion(runs[0]) == b"png" and report.confusion(runs[1]) is None
    matrix, names = drawn[0]
    assert np.array_equal(matrix, confusion_matrix(np.array([0, 1, 1, 1]), LABELS, num_classes=2))
    assert np.array_equal(matrix, [[1, 1], [0, 2]]) and names == ["cat", "dog"]


def test_learning_curves_are_of_each_encoders_best_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(charts, "curves", lambda panels, **more: drawn.append(panels[""]) or b"png")
    rows = [row("single", 0, 0.1, shots=1, interval=[0, 0.2]), row("single", 0, 0.4, shots=5, interval=[0.3, 0.5])]
    rows += [row("reverse", 0, 0.2, shots=1, interval=[0.1, 0.3]), row("reverse", 0, 0.3, shots=5, interval=[0.2, 0.4])]
    write_result(tmp_path, card(Measurement(protocol="few-shot", results=[], axes=SHARED, data={}, weights={})), rows)
    assert report.learning_curve(report.find_runs([tmp_path])[0]) == b"png"
    assert drawn == [{"tiny, single/image/0": [(1, 0.1, (0, 0.2)), (5, 0.4, (0.3, 0.5))]}]


def test_learning_curves_do_not_mix_poolings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(charts, "curves", lambda panels, **more: drawn.append(panels[""]) or b"png")
    values = {("mean", 1): 0.1, ("mean", 5): 0.4, ("max", 1): 0.2, ("max", 5): 0.3}
    rows = [row("single", 0, value, shots=n, interval=[0, 1]) | {"pooling": p} for (p, n), value in values.items()]
    write_result(tmp_path, card(Measurement(protocol="few-shot", results=[], axes=SHARED, data={}, weights={})), rows)
    report.learning_curve(report.find_runs([tmp_path])[0])
    assert drawn == [{"tiny, single/image/0, mean": [(1, 0.1, (0, 1)), (5, 0.4, (0, 1))]}]


def test_a_picture_that_was_not_kept_is_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "cifar10/knn/a.png").unlink()
    (folder / "cifar10/knn/p.npz").unlink()
    text = report.write_report([folder], tmp_path / "report.html").read_text()
    assert "neighbours" not in text and "75.0 %" in text


def test_a_report_takes_the_place_of_no_other_kind_of_file(folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "photo.png"
    picture.write_bytes(b"pixels")
    with pytest.raises(ValueError, match=r"\.html, got .*photo\.png"):
        report.write_report([folder], picture)
    assert picture.read_bytes() == b"pixels"


def test_the_page_is_whole_and_every_figure_names_its_command(folder: Path, tmp_path: Path) -> None:
    out = report.write_report([folder], tmp_path / "out" / "report.html", "All & more")
    text = out.read_text()
    assert not re.search(r"https?:|url\(|@import|<link|<script [^>]", text)
    pictures = [base64.b64decode(found) for found in re.findall(r"base64,([^\"]+)", text)]
    assert (folder / "cifar10/knn/a.png").read_bytes() in pictures
    assert len(pictures) == 4  # with the summary, the heat map and the confusion matrix
    assert len(re.findall(r"<figcaption>.*?<code>python ", text)) == 4
    assert "Warning: weights are random, not trained: tiny." in text
    assert "<title>All &amp; more</title>" in text


def test_a_full_disk_leaves_the_page_that_was_there(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("earlier")
    with full_disk(1000), pytest.raises(OSError, match=r"could not write .*report\.html"):
        report.write_report([folder], page)
    assert page.read_text() == "earlier"


def test_markdown_has_the_same_tables(folder: Path, tmp_path: Path) -> None:
    report.write_report([folder], tmp_path / "report.html")
    text = (tmp_path / "report.md").read_text()
    assert "| **75.0 % (70.0 % … 80.0 %)** | **tiny** | **reverse/image/1** | **1** |" in text
    assert "| cifar10/knn | tiny, reverse/image/1 | accuracy |" in text
    assert "## maps\n\nmaps\n\n`python " in text


class TestCharts:
    def test_a_heat_maps_largest_cell_is_the_darkest(self) -> None:
        values = np.array([[0.1, 0.2, np.nan], [0.3, 0.9, 0.2]])
        png = charts.heat_map(values, rows=["a", "b"], columns=["0", "1", "2"], label="x")
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
        darkest = np.argwhere(pixels == pixels.min()).mean(axis=0)
        height, width = pixels.shape
        assert darkest[0] > height / 2 and abs(darkest[1] - width / 2) < width / 4

    def test_a_heat_map_needs_its_names(self) -> None:
        with pytest.raises(ValueError, match=r"\(1, 2\) values for 1 rows and 1 columns"):
            charts.heat_map(np.ones((1, 2)), rows=["a"], columns=["b"], label="x")

    def test_a_confusion_matrix_needs_a_name_a_class(self) -> None:
        with pytest.raises(ValueError, match=r"shape \(2, 2\) for 1 class names"):
            charts.confusion_picture(np.ones((2, 2)), ["a"])


def test_lines_of_a_chart_differ_also_where_colours_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(charts, "to_png", lambda figure: drawn.append(figure) or b"png")
    charts.curves(
        {"": {f"line {n}": [(0, n, None), (1, n, None)] for n in range(12)}}, x_label="x", y_label="y", shares=False
    )
    lines = drawn[0].axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines) == 12
