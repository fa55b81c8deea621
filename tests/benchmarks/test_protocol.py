"""Cards, result files, and why two of them are not comparable."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.report.diff import compare, main
from benchmarks.result import AXES, Result, Run, data_hash, open_run, plain, read_result, write_result
from benchmarks.run import Measurement, card

SHARED = {"normalization": "standardised", "resolution": 64, "threshold_basis": None, "selection": "a tenth of train"}


@dataclass(frozen=True)
class Options:
    epochs: int
    head: str


def make_card(config: Any = None, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "protocol": "kNN, k = 20",
        "results": [],
        "axes": SHARED,
        "data": {"train": "aa", "evaluation": "bb"},
        "weights": {"tiny": "cc"},
        **changes,
    }
    return card(Measurement(**given), config)


def make_row(**changes: Any) -> dict[str, Any]:
    row = {
        "encoder": "tiny",
        "output": "reverse/image/2",
        "layer": 2,
        "context": "reverse",
        "read": "image",
        "orders": "raster",
        "pooling": "mean",
        "accuracy": 0.5,
        "interval": [0.45, 0.55],
    }
    return row | changes


def save(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Run:
    return open_run(write_result(folder, make_card(**changes), rows))


class TestCard:
    def test_says_what_ran_and_how(self) -> None:
        made = make_card()
        assert made["machine"]["torch"] == torch.__version__
        assert made["command"].startswith("python ")
        assert made["warnings"] == []

    def test_random_weights_are_a_warning(self) -> None:
        made = make_card(weights={"timm:vit": "random (seed 0)", "tiny": "cc"}, warnings=["class-informed features"])
        assert made["warnings"] == ["class-informed features", "weights are random, not trained: timm:vit"]

    def test_unknown_axis(self) -> None:
        with pytest.raises(ValueError, match="unknown axes poolign"):
            make_card(axes={"poolign": "mean"})


class TestWriteResult:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        row = make_row(accuracy=np.float64(0.25), interval=(np.float32(0.25), torch.tensor(0.5)))
        path = write_result(tmp_path, make_card(), [row], artifacts={"picture": "a.png"})
        assert path == tmp_path / "result.json"
        read = read_result(tmp_path)
        assert read["results"] == [make_row(accuracy=0.25, interval=[0.25, 0.5])]
        assert read["artifacts"] == {"picture": "a.png"}
        run = open_run(tmp_path)
        assert run.axes(run.results[0]) == {n: (SHARED | row).get(n) for n in AXES}

    def test_a_row_whose_interval_is_not_known_is_read_again(self, tmp_path: Path) -> None:
        path = write_result(tmp_path, make_card(), [make_row(interval=(math.nan, math.nan))])
        assert "interval" not in read_result(path)["results"][0]

    def test_every_axis_is_stated(self, tmp_path: Path) -> None:
        row = make_row()
        del row["pooling"], row["read"]
        with pytest.raises(ValueError, match="the axes read, pooling are stated neither"):
            write_result(tmp_path, make_card(), [row])
        assert not (tmp_path / "result.json").exists()

    def test_no_axis_is_stated_twice(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="resolution stated by the card and by the row"):
            write_result(tmp_path, make_card(), [make_row(resolution=32)])

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text("[1]")
        with pytest.raises(ValueError, match="is no result file"):
            read_result(tmp_path / "a.json")
        with pytest.raises(FileNotFoundError, match=r"no result at .*nothing: expected a result file, or a folder"):
            read_result(tmp_path / "nothing")

    @pytest.mark.parametrize(("name", "value"), [("read", 2), ("probe", 5), ("encoder", ["a"])])
    def test_words_that_are_none_are_refused_by_name(self, tmp_path: Path, name: str, value: Any) -> None:
        write_result(tmp_path, make_card(), [make_row(**{name: value})])
        with pytest.raises(ValueError, match=f"result.json is no result file.*{name} is"):
            read_result(tmp_path)

    @pytest.mark.parametrize("name", ["axes", "warnings", "machine", "config"])
    def test_a_part_of_the_card_that_is_null_is_refused_by_name(self, tmp_path: Path, name: str) -> None:
        path = write_result(tmp_path, make_card(), [make_row()])
        result = json.loads(path.read_text())
        result["card"][name] = None
        path.write_text(json.dumps(result))
        with pytest.raises(ValueError, match=f"{name} of its card is None"):
            read_result(path)

    def test_text_that_is_not_utf8_is_escaped_in_tables(self, tmp_path: Path) -> None:
        run = save(tmp_path / "a\udcff", [make_row(probe="b\udcff", chosen={"c\udcff": 1})])
        frame = run.frame()
        assert (frame["run"][0], frame["probe"][0], frame["chosen_c\\udcff"][0]) == ("a\\udcff", "b\\udcff", 1)

    def test_metrics_are_the_numbers_that_are_no_axes(self) -> None:
        assert Result.of(make_row(top_5=1, best=True)).metrics == {"accuracy": 0.5, "top_5": 1}

    def test_plain(self) -> None:
        made = plain({1: (np.arange(2), Path("a")), "b": np.bool_(True)})
        assert json.dumps(made) == '{"1": [[0, 1], "a"], "b": true}'


class TestDataHash:
    def test_changes_with_a_byte_and_with_a_name(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        file = tmp_path / "d" / "train.parquet"
        file.write_bytes(b"abc")
        first = data_hash(tmp_path / "d")
        file.write_bytes(b"abd")
        second = data_hash(tmp_path / "d")
        file.rename(tmp_path / "d" / "test.parquet")
        third = data_hash(tmp_path / "d")
        (tmp_path / "d" / "cat").mkdir()
        (tmp_path / "d" / "test.parquet").rename(tmp_path / "d" / "cat" / "test.parquet")
        assert len({first, second, third, data_hash(tmp_path / "d")}) == 4

    def test_built_in_data(self) -> None:
        assert data_hash("photo-digits") == "built-in photo-digits"


class TestDiff:
    def test_equal_results_are_comparable(self, tmp_path: Path) -> None:
        first = save(tmp_path / "a", [make_row()])
        lines, comparable = compare(first, save(tmp_path / "b", [make_row(accuracy=0.6, interval=[0.56, 0.64])]))
        assert comparable
        assert lines == [
            "tiny, reverse/image/2, mean: comparable",
            "    accuracy: 0.5 / 0.6 (+0.1)",
            "    95 % intervals do not overlap: [0.45, 0.55] / [0.56, 0.64]",
        ]

    def test_results_of_several_probes_are_told_apart(self, tmp_path: Path) -> None:
        ways: list[dict[str, Any]] = [{"probe": "knn", "normalization": name} for name in ("unit", "auto")]
        ways += [{"probe": "logistic", "normalization": None}]
        ways += [dict.fromkeys(("encoder", "output", "pooling", "normalization"))]
        shared = {name: value for name, value in SHARED.items() if name != "normalization"}
        runs = [save(tmp_path / name, [make_row(**way) for way in ways], axes=shared) for name in "ab"]
        lines, _ = compare(*runs)
        assert [line.split(": ")[0] for line in lines if line.endswith(": comparable")] == [
            "tiny, reverse/image/2, mean, unit, knn",
            "tiny, reverse/image/2, mean, auto, knn",
            "tiny, reverse/image/2, mean, logistic",
            "the result",
        ]

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"protocol": "kNN, k = 10"}, "protocol: 'kNN, k = 20' / 'kNN, k = 10'"),
            ({"data": {"train": "bb", "evaluation": "aa"}}, "data: "),
            ({"axes": SHARED | {"resolution": 256}}, "resolution: 64 / 256"),
            ({"axes": SHARED | {"selection": "the test set"}}, "selection: 'a tenth of train' / 'the test set'"),
        ],
    )
    def test_says_why_not(self, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
        lines, comparable = compare(save(tmp_path / "a", [make_row()]), save(tmp_path / "b", [make_row()], **changes))
        assert not comparable
        assert [line for line in lines if line.startswith("NOT COMPARABLE") and reason in line]
        assert len(lines) == 2 and lines[1].startswith("no row of the one can be compared")
        assert not [line for line in lines if "accuracy:" in line]

    def test_options_that_differ_are_named(self, tmp_path: Path) -> None:
        configs = [Options(epochs=epochs, head="linear") for epochs in (5, 10)]
        saved = [save(tmp_path / str(c.epochs), [make_row()], config=c) for c in configs]
        assert saved[0].card["config"] == {"epochs": 5, "head": "linear"}
        lines, comparable = compare(*saved)
        assert comparable and lines[0] == "differs         option epochs: 5 / 10"
        assert not [line for line in lines if "head" in line]

    def test_rows_are_matched_by_their_axes(self, tmp_path: Path) -> None:
        """Layers are compared, pooling decides; the nearest row is the one compared with."""
        first = save(tmp_path / "a", [make_row()])
        others = [make_row(pooling="max"), make_row(layer=1, output="reverse/image/1", accuracy=0.4)]
        lines, comparable = compare(first, save(tmp_path / "b", others))
        assert comparable
        assert "    differs         layer: 2 / 1" in lines
        assert "    accuracy: 0.5 / 0.4 (-0.1)" in lines
        lines, comparable = compare(first, save(tmp_path / "b", others[:1]))
        assert not comparable
        assert "    NOT COMPARABLE  pooling: 'mean' / 'max'" in lines

    @pytest.mark.parametrize("condition", ["images", "steps", "guidance", "shots"])
    def test_another_number_of_images_or_steps_is_another_question(self, tmp_path: Path, condition: str) -> None:
        first = save(tmp_path / "a", [make_row(**{condition: 8})])
        others = [make_row(**{condition: 64}), make_row(layer=3, **{condition: 8})]
        lines, comparable = compare(first, save(tmp_path / "b", others))
        assert comparable and "differs         layer: 2 / 3" in "\n".join(lines)
        lines, comparable = compare(first, save(tmp_path / "b", others[:1]))
        assert not comparable and f"NOT COMPARABLE  {condition}: 8 / 64" in "\n".join(lines)

    def test_rows_of_another_probe_answer_another_question(self, tmp_path: Path):
        first = save(tmp_path / "a", [make_row(probe="knn")])
        others = [make_row(probe="logistic"), make_row(probe="knn", layer=3)]
        lines, comparable = compare(first, save(tmp_path / "b", others))
        assert comparable and "differs         layer: 2 / 3" in "\n".join(lines)
        lines, comparable = compare(first, save(tmp_path / "b", others[:1]))
        assert not comparable
        assert "NOT COMPARABLE  probe: 'knn' / 'logistic'" in "\n".join(lines)

    def test_other_weights_are_said_and_do_not_forbid(self, tmp_path: Path) -> None:
        pair = save(tmp_path / "a", [make_row()]), save(tmp_path / "b", [make_row()], weights={"tiny": "dd"})
        lines, comparable = compare(*pair)
        assert comparable
        assert lines[0].split(None, 1) == ["differs", "weights of tiny: 'cc' / 'dd'"]

    def test_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        save(tmp_path / "a", [make_row()])
        save(tmp_path / "b", [make_row()], protocol="other")
        assert main([str(tmp_path / "a"), str(tmp_path / "b" / "result.json")]) == 1
        assert "NOT COMPARABLE  protocol: 'kNN, k = 20' / 'other'" in capsys.readouterr().out
        assert main([str(tmp_path / "a"), str(tmp_path / "c")]) == 2
        assert str(tmp_path / "c") in capsys.readouterr().err
