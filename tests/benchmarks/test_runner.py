"""The one runner: every task goes through it, and every result has a card, tables and a line in one table of all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

import benchmarks
from benchmarks.options import EncoderOptions, RunOptions
from benchmarks.report.diff import compare_folders
from benchmarks.report.tables import with_interval
from benchmarks.result import NO_AXES, Result, plain, read_result
from benchmarks.run import TASKS, Measurement, Task, find_task, main
from benchmarks.suite import Settings, jobs
from benchmarks.tasks.dense.correspondence import Config as Correspondence
from benchmarks.tasks.whole_images.classification import Config as Classification
from benchmarks.tasks.whole_images.classification_probes import interval_over_draws
from randar_features.options.parse import parse
from randar_features.options.types import range_words

ROOT = Path(benchmarks.__file__).parent


@dataclass(frozen=True, kw_only=True)
class Options(EncoderOptions):
    data: str = "x"


def found(accuracy: float = 0.5, **changes: Any) -> Measurement:
    row = {**NO_AXES, "encoder": "tiny", "output": "=1+1", "accuracy": accuracy, "interval": (0.4, 0.6)}
    row |= {"probe": "knn", "chosen": {"C": 2.0}, "warnings": ("C = 2 is the largest that was tried",)}
    given = {"protocol": "kNN", "interval": "bootstrap", "data": {"train": "aa"}, "weights": {"tiny": "cc"}}
    return Measurement(**{"results": [Result.of(row)], **given, **changes})


def run(out: Path, options: Options | None = None, **changes: Any) -> dict[str, Any]:
    return read_result(Task("knn", Options, lambda *_: found(**changes))(options or Options(), out))


def test_a_refusal_leaves_no_empty_folder(tmp_path: Path) -> None:
    def refuse(options: Options, out: Path) -> Measurement:
        raise ValueError("no such data")

    def write_and_refuse(options: Options, out: Path) -> Measurement:
        (out / "picture.png").touch()
        return refuse(options, out)

    (tmp_path / "own").mkdir()
    for name, measure in (("new", refuse), ("own", refuse), ("half", write_and_refuse)):
        with pytest.raises(ValueError, match="no such data"):
            Task("knn", Options, measure)(Options(), tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "own"]


def test_an_earlier_result_is_named_before_it_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def interrupt(options: Options, out: Path) -> Measurement:
        raise KeyboardInterrupt

    with caplog.at_level("INFO", "benchmarks"):
        run(tmp_path)
        assert not caplog.messages
        with pytest.raises(KeyboardInterrupt):
            Task("knn", Options, interrupt)(Options(), tmp_path)
    assert str(tmp_path) in caplog.text and read_result(tmp_path)["results"]


@pytest.mark.parametrize("name", TASKS)
def test_every_measurement_is_a_task_of_the_runner(name: str):
    task = find_task(name)
    assert task.name == name and issubclass(task.options, RunOptions)
    assert main(name, ["--help"]) == 0


CHECKED_ELSEWHERE = {"steps", "layer", "layers", "ignore_index", "guidance", "value_range", "max_pixels"}


@pytest.mark.parametrize("name", TASKS)
def test_every_number_states_its_range(name: str):
    hints = get_type_hints(find_task(name).options, include_extras=True)
    bare = {field for field, hint in hints.items() if {int, float} & set(kinds(hint)) and not range_words(hint)}
    assert bare <= CHECKED_ELSEWHERE


def kinds(hint: Any) -> Iterator[Any]:
    yield hint
    for one in () if get_origin(hint) is Literal else get_args(hint):
        yield from kinds(one)


def test_an_encoder_is_named_once():
    with pytest.raises(ValueError, match="pixels 2 times"):
        Classification(data="x", encoder=("pixels", "codes", "pixels"))


def test_no_module_writes_results_but_the_runner():
    names = ("write_result(", "card(")
    written = [
        path.name
        for folder in ("tasks", "speed")
        for path in (ROOT / folder).glob("*.py")
        if any(name in path.read_text(encoding="utf-8") for name in names)
    ]
    assert written == []


def test_few_files_on_the_top_level():
    assert len([path for path in ROOT.iterdir() if path.suffix == ".py"]) <= 12


def test_the_card_says_device_formats_and_batch(tmp_path: Path):
    card = run(tmp_path, Options(device="cpu", dtype="bfloat16", batch_size=7))["card"]
    expected = {"device": "cpu", "dtype": "bfloat16", "store_dtype": "float16", "batch_size": 7}
    assert card["encoding"] == expected
    assert (card["task"], card["interval"], card["config"]["data"]) == ("knn", "bootstrap", "x")
    assert card["warnings"] == ["C = 2 is the largest that was tried (1 of 1 results)"]
    assert "out" not in card["config"] and card["seconds"] >= 0


def test_all_results_are_one_table(tmp_path: Path):
    run(tmp_path / "a", accuracy=0.25)
    run(tmp_path / "b")
    table = benchmarks.load_results(tmp_path)
    assert table["run"].tolist() == ["a", "b"] and table["value"].tolist() == table["accuracy"].tolist() == [0.25, 0.5]
    assert table["low"].tolist() == [0.4, 0.4] and table["chosen_C"].tolist() == [2.0, 2.0]
    assert table["output"][0] == "'=1+1", "a spreadsheet would run it"
    assert (tmp_path / "a/results.csv").read_text().splitlines()[0].startswith("run,task,encoder,output")


def test_many_runs_are_one_table_and_one_table_of_a_paper(tmp_path: Path):
    rows = [("tiny", 0.5, 0.6), ("tiny", 0.9, 0.2), ("pixels", 0.25, 0.3)]
    made = [{**NO_AXES, "encoder": n, "accuracy": a, "interval": (a - 0.1, a + 0.1), "tuning": t} for n, a, t in rows]
    compared = {"first": "tiny, a", "second": "pixels, b", "difference": 0.25, "interval": (0.1, 0.4), "p_value": 0.01}
    for folder, rows in (("one/knn", made), ("two/knn", made[:1])):
        run(tmp_path / folder, results=[Result.of(row) for row in rows], differences=[compared | {"planned": False}])
    table = benchmarks.load_results([tmp_path / "one", tmp_path / "two"])
    assert table["run"].unique().tolist() == ["one/knn", "two/knn"] and len(table) == 4
    assert table["best_of_encoder"].tolist() == [True, False, True, True], "the best by tuning images"
    paper = benchmarks.paper_table(table)
    assert paper.index.tolist() == ["tiny", "pixels"]
    assert paper.columns.tolist() == ["one/knn: accuracy"], "of one protocol on the same data"
    assert paper.loc["tiny", "one/knn: accuracy"] == "50.0 (40.0 … 60.0)"
    assert "50.0 (40.0 … 60.0)" in paper.to_latex(escape=True) and "50.0 (40.0 … 60.0)" in paper.to_markdown()
    unknown = compared | {"interval": (np.nan, np.nan), "p_value": np.nan, "planned": False}
    run(tmp_path / "one-image", differences=[unknown])
    alone = benchmarks.load_differences(tmp_path / "one-image")
    assert alone[["low", "high", "p_value"]].dtypes.tolist() == [np.float64] * 3 and alone["low"].isna().all()
    differences = benchmarks.load_differences([tmp_path / "one", tmp_path / "two"])
    assert differences["difference"].tolist() == [0.25, 0.25] and differences["low"].tolist() == [0.1, 0.1]


@pytest.mark.parametrize("changed", [{"dtype": "bfloat16"}, {"store_dtype": "float32"}])
def test_other_formats_are_not_comparable(tmp_path: Path, changed: dict[str, Any]):
    run(tmp_path / "a/knn")
    run(tmp_path / "b/knn")
    run(tmp_path / "c/knn", Options(**changed))
    assert compare_folders(tmp_path / "a", tmp_path / "b")[1]
    lines, comparable = compare_folders(tmp_path / "a", tmp_path / "c")
    assert not comparable and any(next(iter(changed)) in line for line in lines)


def test_other_devices_are_not_comparable(tmp_path: Path):
    run(tmp_path / "a")
    run(tmp_path / "b")
    text = (tmp_path / "b/result.json").read_text()
    assert '"device": "cpu"' in text
    (tmp_path / "b/result.json").write_text(text.replace('"device": "cpu"', '"device": "cuda"'))
    lines, comparable = compare_folders(tmp_path / "a", tmp_path / "b")
    assert not comparable and any("encoding: device" in line for line in lines)


def test_other_intervals_are_not_comparable(tmp_path: Path):
    run(tmp_path / "a")
    run(tmp_path / "b", interval="bootstrap over blocks of 25 consecutive images")
    assert not compare_folders(tmp_path / "a", tmp_path / "b")[1]


@pytest.mark.parametrize(
    ("option", "value"),
    [("hold_out", "first"), ("normalization", "l3"), ("evaluation_images", 0), ("dtype", "int8"), ("probe", ("svm",))],
)
def test_bad_options_are_refused_before_any_work(option: str, value: Any):
    with pytest.raises(ValueError, match=option.replace("_", ".")):
        Classification(data="nowhere", **{option: value})


def test_options_that_would_have_no_effect_are_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ValueError, match=r"--evaluation-images 9 .*--evaluation-split test"):
        Classification(data="x", evaluation_images=9, evaluation_split="test")
    for wrong in ({"data": "spair", "split": "val"}, {"data": "digits", "split": "trn"}, {"data": "spair", "size": 9}):
        with pytest.raises(ValueError, match=f"--{[*wrong][1]}"):
            Correspondence(**wrong)  # type: ignore[arg-type]
    for option in ("--encoder", "--outputs"):
        assert main("generative_classification", ["--data", "x", option, "pixels"]) == 2
        assert f"no option '{option}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "options", "named"),
    [
        ("classification", {"epochs": 5}, "--epochs .*--probe linear or attentive"),
        ("classification", {"probe": ("knn", "attentive"), "normalization": "none"}, "--normalization"),
        ("classification", {"probe": ("few-shot",), "knn_normalization": ("auto",)}, "--knn-normalization"),
        ("classification", {"probe": ("linear",), "buffer_rows": 9}, "--buffer-rows .*--on-disk"),
        ("classification", {"attentive_outputs": ("a",)}, "--attentive-outputs"),
        ("segmentation", {"num_classes": 2, "head": "knn", "iterations": 9}, "--iterations .*--head linear"),
        ("segmentation", {"num_classes": 2, "max_patches": None}, "--max-patches .*--head knn or logistic"),
        ("segmentation", {"num_classes": 2, "size": 32}, "--size .*photo-digits"),
        ("correspondence", {"points": 3}, "--points .*digits or photographs"),
        ("generation", {"reference": "r", "probe_images": 5}, "--probe-images .*--probe-data"),
        ("generation", {"reference": "r", "samples_split": "a"}, "--samples-split .*--samples"),
        ("generation", {"reference": "r", "samples": "s", "probe_images": 5}, "--probe-images"),
        ("index_speed", {"construction": 9}, "--construction .*hnsw"),
        ("probe_speed", {"probe": ("knn",), "epochs": 9}, "--epochs .*linear"),
        ("paired_speed", {"other": ROOT.parent, "works": ("features",), "steps": 9}, "--steps .*generation"),
    ],
)
def test_an_option_of_what_was_not_chosen_is_refused(task: str, options: dict[str, Any], named: str):
    kind = find_task(task).options
    data = {"data": "x"} if "data" in {field.name for field in fields(kind)} else {}
    with pytest.raises(ValueError, match=named):
        kind(**data, **options)


def test_the_suite_gives_iterations_to_the_linear_head_alone():
    with pytest.raises(ValueError, match=r"--iterations .*--head linear"):
        Settings(data=("photo-digits",), head=("knn",), iterations=9)
    settings = Settings(data=("photo-digits",), head=("linear", "knn"), iterations=9)
    planned = {job.name: job.config for job in jobs(settings) if "segmentation" in job.name}
    assert [config.iterations for config in planned.values()] == [9, 1000]


def test_an_output_that_no_encoder_has_is_told(tmp_path: Path):
    row = {**NO_AXES, "encoder": "tiny", "output": "b", "accuracy": 0.5}
    card = run(tmp_path, Options(encoder=("a", "b"), outputs=("b", "misspelt")), results=[Result.of(row)])["card"]
    assert card["warnings"] == ["no encoder has the output misspelt"]


@pytest.mark.parametrize("old", ["max", "train", "evaluation"])
def test_earlier_names_of_options_are_read(old: str):
    given = ["--data", "x", f"--{old}-rows", "7"]
    for options in (Classification, Settings):
        assert getattr(parse(options, given), f"{old}_images") == 7
        assert parse(options, given) == parse(options, ["--data", "x", f"--{old}-images", "7"])


def test_an_error_is_one_line_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    given = ["--data", str(tmp_path / "nothing"), "--cache", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main("classification", [*given, "--encoder", "pixels"]) == 2
    assert main("classification", [*given, "--hold-out", "first"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "nothing" in errors[0] and "--hold-out" in errors[1]


def test_results_as_json_and_back():
    row = {"encoder": "a", "accuracy": np.float64(0.5), "interval": (0.4, 0.6), "probe": "knn", "by_k": {"10": 0.5}}
    result = Result.of({**row, "chosen": {"C": 1.0}})
    assert (result.metric, result.settings, result.details) == ("accuracy", {"probe": "knn"}, {"by_k": {"10": 0.5}})
    assert Result.of(json.loads(json.dumps(result.to_json()))) == result


def test_unknown_bounds_are_none_or_null_and_not_nan():
    of_one = {"interval": (np.nan, np.nan), "other_interval": [np.nan, np.nan]}
    for result in (Result.of({"accuracy": 1.0, **of_one}), Result({}, {"accuracy": 1.0}, (np.nan, np.nan))):
        assert "interval" not in plain(result.to_json()) and with_interval(result, "accuracy") == "100.0 %"
    assert Result.of(of_one).details == {"other_interval": [None, None]}
    assert with_interval(Result.of({"accuracy": 1.0, "other": 0.5, **of_one}), "other") == "50.0 %"


def test_few_shot_intervals_include_the_draws():
    hits = np.repeat([[1.0], [0.0], [1.0], [0.0]], 1000, axis=1)  # all that varies is the draw
    low, high = interval_over_draws(hits, seed=0)
    assert low <= 0.05 and high >= 0.95
    low, high = interval_over_draws(np.ones((4, 10)), seed=0)
    assert (low, high) == (1.0, 1.0)
    assert np.isnan(interval_over_draws(np.ones((4, 1)), seed=0)).all()
