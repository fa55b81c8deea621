"""Configurations: a dataclass, filled from a YAML file, overridden by `key=value`."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

Config = TypeVar("Config")


def load_config(kind: type[Config], path: Path, overrides: Iterable[str] = ()) -> Config:
    """`kind` built from the YAML file at `path` and `overrides` such as `batch_size=64` or `network.channels=32`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no mapping, a key is unknown (the message names the nearest) or missing, or a
            value is not of its field's type.
    """
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected options as key: value")
    return build_config(kind, overridden(values, overrides), str(path))


def overridden(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values`, changed in place as the overrides `key=value` say; ValueError for one that does not read so."""
    for override in overrides:
        _override(values, override)
    return values


def build_config(kind: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """The dataclass `kind` with `values`; errors as for `load_config`, naming `where` the values come from."""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    check_keys(values, known, f"{where}: {kind.__name__}")
    required = [name for name, field in known.items() if field.default is field.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{where}: {kind.__name__} lacks {', '.join(missing)}")
    hints = get_type_hints(kind)
    return kind(**{name: _typed(f"{where}: {name}", value, hints[name]) for name, value in values.items()})


def typed_arguments(function: Callable[..., Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` as keyword arguments of `function`, a class or another; errors as for `load_config`, by annotations."""
    known = inspect.signature(function, eval_str=True).parameters
    check_keys(values, known, where)
    return {name: _typed(f"{where}: {name}", value, known[name].annotation) for name, value in values.items()}


def check_keys(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """ValueError for the first key of `values` that is not `known`."""
    names = list(known)
    for key in values:
        if key not in names:
            nearest = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(names)}"
            raise ValueError(f"{where} has no option {key!r}; {hint}")


RANGES: dict[str, Callable[[float], bool]] = {
    "at least 1": lambda value: 1 <= value < math.inf,
    "above 0": lambda value: 0 < value < math.inf,
    "0 or more": lambda value: 0 <= value < math.inf,
    "from 0 to 1": lambda value: 0 <= value <= 1,
    "from 0 to below 1": lambda value: 0 <= value < 1,
    "from 0 to 2^32 - 1": lambda value: 0 <= value < 2**32,
}


def check_ranges(options: Any, expected: Mapping[str, Iterable[str]], where: str = "") -> None:
    """ValueError for the first attribute of `options` that is out of its range, in all numbers of a list; None passes.

    expected: names of attributes by their range, a key of `RANGES`. where: stands before a name in the message.
    """
    for words, names in expected.items():
        for name in names:
            given = getattr(options, name)
            numbers = given if isinstance(given, list) else [given]
            if not all(number is None or RANGES[words](number) for number in numbers):
                raise ValueError(f"{where}{name} = {given}, expected {words}")


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise ValueError(f"an override must read key=value, got {override!r}")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ValueError(f"override {override!r}: {parent} is {values!r} and has no options inside")
    values[last] = yaml.safe_load(text)


CONTAINERS: dict[Any, tuple[type, ...]] = {list: (list,), Sequence: (list, tuple), dict: (dict,)}
NAMES = {types.NoneType: "none", Sequence: "list"}


def _typed(where: str, value: Any, kind: Any) -> Any:
    """`value` if it is of type `kind`, else what it stands for: YAML 1.1 reads 1e-3 as text, and no as False."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if kind in (Any, inspect.Parameter.empty):
        return value
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, Mapping):
        return build_config(kind, value, where)
    choices = [choice for one in kinds if get_origin(one) is Literal for choice in get_args(one)]
    word = ("no", "yes")[value] if isinstance(value, bool) else value
    if word in choices:
        return word
    for one in kinds:
        if type(value) in CONTAINERS.get(get_origin(one) or one, (one,)):
            return _typed_inside(where, value, get_args(one))
    plain = [get_origin(one) or one for one in kinds if get_origin(one) is not Literal]
    if float in plain and type(value) in (int, str):
        try:
            return float(value)
        except ValueError:
            pass
    names = [NAMES.get(one) or one.__name__ for one in plain]
    expected = " or ".join([*map(str, choices), *names])
    raise ValueError(f"{where} is {value!r}, expected {expected}")


def _typed_inside(where: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    """A list or a dict whose items are of the last of the `kinds` in its annotation, if any; others as they are."""
    if not kinds:
        return value
    if isinstance(value, dict):
        return {key: _typed(f"{where}.{key}", item, kinds[-1]) for key, item in value.items()}
    return type(value)(_typed(f"{where}[{index}]", item, kinds[-1]) for index, item in enumerate(value))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where two nested settings differ, as "model.dim: 16 → 32"; what one of them lacks is "absent"."""
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = (side.get(key, "absent") for side in (old, new))
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += [f"{key}.{difference}" for difference in differences(before, after)]
        elif json.dumps(before, sort_keys=True) != json.dumps(after, sort_keys=True):
            found.append(f"{key}: {before!r} → {after!r}")
    return found
