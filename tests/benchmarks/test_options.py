from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.options import add_options, attribute_texts, read_options


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the numbers depend on.

    Attributes:
        data: where the images are.
        first_split, second_split: of the data, 100 % of each;
            the rest is left out.
        layers: which ones.

    More words: that are no attribute.
    """

    data: str
    first_split: str = "train"
    second_split: str | None = None
    layers: tuple[int, ...] | None = None
    most: int | None = 5
    names: tuple[str, ...] = ("a",)
    rate: float = 0.5
    fast: bool = False
    checked: bool = True


def parser(without: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_options(made, Options, without=without)
    return made


@dataclass(frozen=True, kw_only=True)
class MoreOptions(Options):
    """Those of a class that extends it.

    Attributes:
        count: how many.
        rate: of the other kind.
    """

    count: int = 3
    rate: float = 0.25


def test_options_of_a_base_class_are_told_too() -> None:
    made = argparse.ArgumentParser()
    add_options(made, MoreOptions)
    helped = {action.dest: action.help for action in made._actions}
    assert (helped["data"], helped["count"]) == ("where the images are.", "how many.")
    assert helped["rate"] == "of the other kind."
    assert read_options(MoreOptions, made.parse_args(["--data=x", "--count=5"])) == MoreOptions(data="x", count=5)


def test_defaults_are_those_of_the_dataclass() -> None:
    assert read_options(Options, parser().parse_args(["--data", "x"])) == Options(data="x")


def test_values_have_the_types_of_the_fields() -> None:
    given = ["--data=x", "--second-split=val", "--layers", "1", "-1", "--names", "b", "c", "--rate=2", "--fast"]
    expected = Options(data="x", second_split="val", layers=(1, -1), names=("b", "c"), rate=2.0, fast=True)
    found = read_options(Options, parser().parse_args(given))
    assert found == expected and isinstance(found.rate, float)


def test_none_can_be_given_where_it_is_not_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert read_options(Options, parser().parse_args(["--data=x", "--most=none"])).most is None
    assert read_options(Options, parser().parse_args(["--data=x", "--most=7"])).most == 7
    with pytest.raises(SystemExit):
        parser().parse_args(["--data=x", "--most=all"])
    assert "invalid int (or none) value: 'all'" in capsys.readouterr().err


def test_flags_that_are_on_can_be_turned_off() -> None:
    assert read_options(Options, parser().parse_args(["--data=x"])).checked is True
    assert read_options(Options, parser().parse_args(["--data=x", "--no-checked"])).checked is False


def test_a_field_without_a_default_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([])
    assert "--data" in capsys.readouterr().err


def test_fields_may_be_left_out_and_given_otherwise() -> None:
    arguments = parser(without=("data",)).parse_args([])
    assert read_options(Options, arguments, data="y").data == "y"


def test_help_is_what_the_docstring_says() -> None:
    texts = attribute_texts(Options.__doc__ or "")
    assert texts["data"] == "where the images are."
    assert texts["first_split"] == texts["second_split"] == "of the data, 100 %% of each; the rest is left out."
    assert set(texts) == {"data", "first_split", "second_split", "layers"}
    assert "100 % of each; the rest" in " ".join(parser().format_help().split())
    assert attribute_texts("No attributes.") == {}


def test_other_types_are_refused() -> None:
    @dataclass
    class Wrong:
        path: Path = Path()

    Wrong.__annotations__["path"] = Path
    with pytest.raises(TypeError, match="an option must be str"):
        add_options(argparse.ArgumentParser(), Wrong)
