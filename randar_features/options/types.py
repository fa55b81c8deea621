"""Types of options, with their ranges: one table for the command line, YAML files and dataclasses in Python."""

import difflib
import inspect
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import jsonargparse

RANGES: dict[str, Callable[[float], bool]] = {
    "at least 1": lambda value: 1 <= value < math.inf,
    "above 0": lambda value: 0 < value < math.inf,
    "0 or more": lambda value: 0 <= value < math.inf,
    "from 0 to 1": lambda value: 0 <= value <= 1,
    "from 0 to below 1": lambda value: 0 <= value < 1,
    "from 0 to 2^32 - 1": lambda value: 0 <= value < 2**32,
    "from 0 to 2^63 - 1": lambda value: 0 <= value < 2**63,
}
"""What `Annotated[int, WORDS]` means; the words stand in the help and in the message of a refusal."""

Count = Annotated[int, "at least 1"]
Natural = Annotated[int, "0 or more"]
Positive = Annotated[float, "above 0"]
NonNegative = Annotated[float, "0 or more"]
Share = Annotated[float, "from 0 to 1"]
Decay = Annotated[float, "from 0 to below 1"]
Seed = Annotated[int, "from 0 to 2^63 - 1"]
Seed32 = Annotated[int, "from 0 to 2^32 - 1"]

TYPE_WORDS = {bool: "yes or no", Path: "path", str: "text", dict: "mapping", Any: "any value"}
MANY_WORDS = {"+": "one or more of", "*": "a list of"}


def check_ranges(options: object, where: str = "") -> None:
    """ValueError for the first field that holds none of its choices, or no number of its range; for `__post_init__`.

    Fields of other types pass. `where` stands before the field's name in the message.
    """
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        if not fits(value := getattr(options, name), hint):
            raise ValueError(f"{where}{name} = {value!r}, expected {in_words(hint)}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is one of the choices of a hint, or a number of its range; others are not looked at."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inside)
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(fits(one, inside[0]) for one in value)
    if origin is Annotated:
        is_number = isinstance(value, Integral if inside[0] is int else Real) and not isinstance(value, bool)
        return is_number and RANGES[hint.__metadata__[0]](value)
    if origin is Literal:
        return value in inside
    return value is None if hint is types.NoneType else True


def typed(function: Callable[..., Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` as keyword arguments of a function or class, converted to the types of its annotations.

    Raises:
        ValueError: a name that is not among its arguments, a value of another type, or one that is missing; begins
            with `where`.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    if unknown := [name for name in values if name not in parameters]:
        raise ValueError(f"{where} has no option {unknown[0]!r}; {nearest(unknown[0], list(parameters))}")
    found = {name: _typed(f"{where}: {name}", value, parameters[name].annotation) for name, value in values.items()}
    needed = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    return found


def _typed(where: str, value: Any, hint: Any) -> Any:
    if hint is inspect.Parameter.empty:
        return value
    try:
        return _reader(hint).parse_object({"value": value}).value
    except Exception as error:  # jsonargparse raises several kinds
        raise ValueError(f"{where} is {value!r}, expected {in_words(hint)}") from error


@cache
def _reader(hint: Any) -> jsonargparse.ArgumentParser:
    """What reads one value of that type; it takes milliseconds to make."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name that is most like the given one, else all."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {found[0]}?" if found else f"known: {', '.join(known)}"


def without_none(hint: Any) -> tuple[Any, bool]:
    """The hint without None, and whether None was in it."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    others = tuple(one for one in get_args(hint) if one is not types.NoneType)
    return (Union[others], len(others) < len(get_args(hint)))  # noqa: UP007 - a union of any number of types


def element(hint: Any) -> tuple[Any, str | int | None]:
    """The type of one value without its range, and as nargs how many there are; None: one."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (list, tuple, Sequence):
        several = len(inside) if origin is tuple and Ellipsis not in inside else "*" if origin is list else "+"
        return element(inside[0])[0], several
    if origin is Annotated:
        return inside[0], None
    if origin in (Union, types.UnionType):
        return Union[tuple(element(one)[0] for one in inside)], None  # noqa: UP007
    return hint, None


def range_words(hint: Any) -> str | None:
    """The words of a range inside a hint, None where there are none."""
    if get_origin(hint) is Annotated:
        return next(iter(hint.__metadata__))
    if get_origin(hint) is Literal:
        return None
    return next((words for one in get_args(hint) if (words := range_words(one))), None)


def in_words(hint: Any) -> str:
    """A type as the help and the messages have it, such as "one of mean, max" or "int at least 1 or none"."""
    hint, optional = without_none(hint)
    kind, several = element(hint)
    parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    plain = [one for one in parts if get_origin(one) is not Literal]
    words = [TYPE_WORDS.get(get_origin(one) or one) or getattr(one, "__name__", str(one)) for one in plain]
    choices = [str(choice) for one in parts if get_origin(one) is Literal for choice in get_args(one)]
    text = " or ".join(words + ([", ".join(choices)] if choices else []))
    if choices and not several and not plain:
        text = f"one of {text}"
    if range_text := range_words(hint):
        text += f", {range_text}"
    if several:
        text = f"{several} × {text}" if isinstance(several, int) else f"{MANY_WORDS[several]} {text}"
    return f"{text} or none" if optional else text


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
