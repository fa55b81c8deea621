from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from randar_features.cli.extract import ExtractOptions
from randar_features.options.command import run
from randar_features.options.parse import OptionError, option, parse, positional, read_options
from randar_features.options.types import Count, Seed


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """When things happen.

    Attributes:
        log_every: steps between two lines.
    """

    log_every: Count = 10


@dataclass(frozen=True, kw_only=True)
class Base:
    """What the options below extend.

    Attributes:
        seed: of the sample, 100 % of it.
        names: of a base class.
    """

    seed: Seed = 0
    names: tuple[str, ...] = ("a", "b")


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """Measure something.

    Attributes:
        data: where the images are.
        pooling: how locations become one vector.
        layers, count: numbers of two kinds, in a text that goes
            on in a second line.
    """

    data: Path = positional()
    pooling: Literal["mean", "none"] = "mean"
    layers: tuple[int, ...] | None = None
    count: Count | Literal["all"] = option("-k", default=3)
    box: tuple[int, int, int, int] | None = None
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    rate: float | None = 0.5
    fast: bool = False
    checked: bool = True
    intervals: Intervals = field(default_factory=Intervals)
    model: dict[str, Any] = field(default_factory=dict)


def given(text: str) -> Options:
    return parse(Options, text.split())


def refused(text: str) -> str:
    with pytest.raises(OptionError) as error:
        given(text)
    assert "\n" not in str(error.value)
    return str(error.value)


@dataclass(frozen=True, kw_only=True)
class Written:
    """Write something.

    Attributes:
        data: where the images are.
        out_dir: where the result goes.
    """

    data: Path = positional()
    out_dir: Path


def test_what_is_missing_is_named_as_the_command_line_spells_it():
    for words, named in (([], "data (path), --out-dir (path)"), (["x"], "--out-dir (path)")):
        with pytest.raises(OptionError, match=re.escape(named)):
            parse(Written, words)


def test_defaults_are_those_of_the_dataclass():
    assert given("x") == Options(data=Path("x"))


def test_values_have_the_types_of_the_fields():
    found = given("x --layers 1 -1 --rate 1e-3 --names c --fast --no-checked --box 1 2 3 4 --betas 0 1 -k 5")
    expected = Options(
        data=Path("x"), layers=(1, -1), rate=1e-3, names=("c",), fast=True, checked=False,
        box=(1, 2, 3, 4), betas=[0.0, 1.0], count=5,
    )  # fmt: skip
    assert found == expected
    assert isinstance(found.betas[0], float)
    assert given("x --count all").count == "all"


def test_a_dataclass_and_a_mapping_inside():
    found = given("x --intervals.log-every 4 --model.dim=8 --model.type par")
    assert found.intervals == Intervals(log_every=4)
    assert found.model == {"dim": 8, "type": "par"}


@pytest.mark.parametrize("text", ["x --rate none", "x --rate=none", "x --rate null"])
def test_none_can_be_given(text: str):
    assert given(text).rate is None
    assert given("x --layers none").layers is None


def test_underscores_are_understood():
    found = given("x --intervals.log_every 4 --model.inner_size 8")
    assert (found.intervals.log_every, found.model) == (4, {"inner_size": 8})


def test_a_list_may_be_written_as_in_yaml():
    assert given("x --betas=[0,0.5]").betas == [0.0, 0.5]
    assert parse(Options, ["x", "--model.widths=[1, 2]"]).model == {"widths": [1, 2]}


def test_none_may_be_a_choice():
    assert given("x --pooling none").pooling == "none"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("x --count 0", ["--count", "at least 1", "0"]),
        ("x --intervals.log-every 0", ["--intervals.log-every", "at least 1"]),
        ("x --seed 18446744073709551616", ["--seed", "2^63"]),
        ("x --seed -1", ["--seed"]),
        ("x --count 2.5", ["--count", "int", "2.5"]),
        ("x --pooling median", ["--pooling", "mean, none", "median"]),
        ("x --layers 1 a", ["--layers", "int", "a"]),
        ("x --rate fast", ["--rate", "float", "fast"]),
        ("x --box 1 2", ["--box", "4"]),
        ("x --poolin mean", ["--poolin", "--pooling"]),
        ("x --pool mean", ["--pool", "--pooling"]),
        ("x y", ["y"]),
        ("", ["data"]),
        ("x --config nowhere.yaml", ["nowhere.yaml"]),
        ("x --config", ["--config"]),
    ],
)
def test_a_bad_value_is_refused_in_one_line(text: str, named: list[str]):
    message = refused(text)
    assert [word for word in named if word not in message] == []


def test_a_file_gives_options_and_the_command_line_wins(tmp_path: Path):
    file = tmp_path / "options.yaml"
    file.write_text("rate: 1e-3\nlayers: [1, 2]\nintervals: {log_every: 7}\nmodel: {dim: 8}\ndata: y\n")
    expected = Options(
        data=Path("y"), rate=1e-3, layers=(1, 2), intervals=Intervals(log_every=7), model={"dim": 8}
    )  # fmt: skip
    assert parse(Options, ["--config", str(file)]) == expected
    assert read_options(Options, file) == expected
    changed = read_options(Options, file, ["--layers", "3", "--model.dim", "9", "--model.depth", "1"])
    assert (changed.layers, changed.rate, changed.model) == ((3,), 1e-3, {"dim": 9, "depth": 1})


def test_a_file_whose_lines_are_all_comments_gives_the_defaults(tmp_path: Path):
    file, other = tmp_path / "options.yaml", tmp_path / "other.yaml"
    file.write_text("# rate: 2\n")
    other.write_text("rate: 1\n")
    assert parse(Options, ["x", "--config", str(file)], recipe=other) == Options(data=Path("x"))
    assert parse(Options, ["x", "--config", str(other), f"--config={file}"]).rate == 1
    file.write_text("{}\n")
    assert read_options(Options, file, ["x"]) == Options(data=Path("x"))


def test_a_recipe_is_read_where_no_file_is_named(tmp_path: Path):
    recipe, other = tmp_path / "recipe.yaml", tmp_path / "other.yaml"
    recipe.write_text("seed: 5\nrate: 2\n")
    other.write_text("seed: 6\n")
    assert parse(Options, ["x"], recipe=recipe).seed == 5
    found = parse(Options, ["x", f"--config={other}"], recipe=recipe)
    assert (found.seed, found.rate) == (6, 0.5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("pooling: median\n", "median"),
        ("poling: mean\n", "pooling"),
        ("intervals: {log_evry: 1}\n", "intervals.log_every"),
        ("- 1\n", "list"),
        ("a: [1\n", "options.yaml"),
        ("a: &a [1]\nb: *a\n", "alias"),
        ("a: " + "[" * 600, "options.yaml"),
        ("[]\n", "list"),
        ("intervals:\n  log_every: 1\n  log_every: 2\n", "log_every 2 times"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, text: str, named: str):
    file = tmp_path / "options.yaml"
    file.write_text(text)
    assert named in refused(f"x --config {file}")


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str, **more: Any) -> str:
    assert run(lambda options: None, Options, [*arguments, "--help"], program="randar measure", **more) == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_shows_texts_types_choices_and_defaults(capsys: pytest.CaptureFixture[str]):
    shown = help_of(capsys)
    assert "Measure something." in shown
    assert "where the images are (path, required)" in shown
    assert "{mean,none} how locations become one vector (one of mean, none, default: mean)" in shown
    assert "in a text that goes on in a second line (one or more of int or none, default: none)" in shown
    assert "of the sample, 100 % of it (int, from 0 to 2^63 - 1, default: 0)" in shown
    assert "of a base class (one or more of text, default: a b)" in shown
    assert "When things happen" in shown and "--intervals.log-every LOG_EVERY steps between two lines" in shown
    assert "--checked, --no-checked (yes or no, default: yes)" in shown


def test_help_names_the_file_that_sets_a_default(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("rate: 2\nintervals: {log_every: 7}\n")
    shown = help_of(capsys, recipe=recipe)
    assert "default: 2, from r.yaml" in shown
    assert "default: 7, from" in shown


@pytest.mark.parametrize("words", [["--out", ""], ["--out="]])
def test_an_empty_path_is_not_the_working_directory(words: list[str]):
    """`--out "$UNSET"` would write there."""
    with pytest.raises(OptionError, match="--out: an empty path"):
        parse(ExtractOptions, ["photos", *words])
