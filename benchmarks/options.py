"""Command lines out of a benchmark's Config: its fields are the options, its docstring says what they mean."""

from __future__ import annotations

import argparse
import dataclasses
import re
import types
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Config = TypeVar("Config")


def add_options(parser: argparse.ArgumentParser, config: type, *, without: Collection[str] = ()) -> None:
    """Add an option for each field of a dataclass: `--train-split` for train_split.

    Fields are str, int, float, bool (a flag; where it is True by default, `--no-…` too), tuples of one of these
    (several values), or None besides, written none. Those without a default are required. Help is what the
    docstring, or that of a class it extends, says under "Attributes:".
    """
    hints = get_type_hints(config)
    texts = {name: text for base in config.__mro__[::-1] for name, text in attribute_texts(base.__doc__ or "").items()}
    for field in dataclasses.fields(config):
        if field.name in without:
            continue
        given: dict[str, Any] = {"help": texts.get(field.name)}
        kind, several = _kind(hints[field.name])
        if field.default is dataclasses.MISSING:
            given["required"] = True
        else:
            given["default"] = field.default
        if kind is bool:
            given["action"] = argparse.BooleanOptionalAction if field.default is True else "store_true"
        else:
            given |= {"type": kind, **({"nargs": "+"} if several else {})}
        parser.add_argument(f"--{field.name.replace('_', '-')}", **given)


def read_options(config: type[Config], given: argparse.Namespace, **more: Any) -> Config:
    """The dataclass with what was parsed by `add_options`, and `more` for fields that were left out there."""
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    values = {name: getattr(given, name) for name in names if hasattr(given, name) and name not in more}
    return config(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}, **more)


def from_command_line(config: type[Config], description: str | None, out: Path | None = None) -> tuple[Config, Any]:
    """A benchmark's options and `--out`, by default `out`, from the command line; `description` is its help."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, config)
    parser.add_argument("--out", type=Path, default=out, help="where results are written")
    given = parser.parse_args()
    return read_options(config, given), given.out


def check_names(option: str, given: Collection[str], known: Collection[str]) -> None:
    """ValueError for the first of the names given to an option that is not known."""
    for name in given:
        if name not in known:
            raise ValueError(f"--{option} must be of {', '.join(known)}, got {name!r}")


def attribute_texts(docstring: str) -> dict[str, str]:
    """What a docstring says of each attribute; one line may speak of several, as in "train, test: splits."."""
    _, found, section = docstring.partition("Attributes:\n")
    if not found:
        return {}
    texts: dict[str, str] = {}
    names: list[str] = []
    indent = len(section) - len(section.lstrip(" "))
    for line in section.splitlines():
        entry = re.match(rf" {{{indent}}}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            texts |= dict.fromkeys(names, entry[2])
        elif line.startswith(" " * (indent + 1)):
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
        elif line.strip():
            break
    return {name: text.replace("%", "%%") for name, text in texts.items()}


def _kind(hint: Any) -> tuple[Callable[[str], Any], bool]:
    """What reads a value, and whether there are several."""
    optional = get_origin(hint) is types.UnionType
    if optional:
        hint = next(option for option in get_args(hint) if option is not type(None))
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    if hint not in (str, int, float, bool):
        raise TypeError(f"an option must be str, int, float, bool, a tuple of one of these or None, got {hint}")
    return _or_none(hint) if optional else hint, False


def _or_none(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return None if text == "none" else kind(text)

    read.__name__ = f"{kind.__name__} (or none)"  # argparse says it of other words
    return read
