"""The option system: a dataclass says what a command takes; the command line and YAML files fill it.

How to write a command, here `randar count FOLDER --batch-size 8`:

    @dataclass(frozen=True, kw_only=True)
    class CountOptions:
        '''Count images.                                    ← the help's first line

        Attributes:
            data: folder of images.                         ← the help of each option
            read: at which tokens features are taken.
            batch_size: images in one step; None: as many as fit.
        '''

        data: Path = positional()                           # no "--data"; option("-d") adds a short name
        read: Literal["image", "query"] = "image"           # choices
        batch_size: Count | None = None                     # a range, see `randar_features.options.types`
        loop: LoopConfig = field(default_factory=LoopConfig)    # another dataclass: --loop.log-every

    def count(options: CountOptions) -> int | None: ...     # the exit status, None for 0

    def main(arguments: Sequence[str] | None = None) -> int:
        return run(count, CountOptions, arguments)

`run` is that of `options/command.py`. `--config FILE` reads a YAML file whose keys are the names of the fields. An
option that follows it on the command line wins. `run(…, recipe=FILE)` names the file to read where `--config` is not
given. Python code reads a YAML file by `read_options`.
"""

import argparse
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_origin, get_type_hints

import docstring_parser
import jsonargparse
import yaml

from randar_features.options.types import element, fits, in_words, nearest, without_none

Options = TypeVar("Options")


class OptionError(ValueError):
    """An option, or a line of a YAML file, that cannot be taken."""


def positional(default: Any = dataclasses.MISSING) -> Any:
    """A field that the command line takes by its place, not by its name."""
    return dataclasses.field(default=default, metadata={"positional": True})


def option(*names: str, default: Any = dataclasses.MISSING, metavar: str | None = None) -> Any:
    """A field with further names, such as "-k"."""
    return dataclasses.field(default=default, metadata={"names": names, "metavar": metavar})


def parse(
    options: type[Options],
    arguments: Sequence[str] | None = None,
    *,
    program: str | None = None,
    recipe: Path | None = None,
) -> Options:
    """The options from a command line; arguments as for `run`.

    Raises:
        OptionError: an argument, or a line of a YAML file, cannot be taken.
        SystemExit: `--help` was given, and printed.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    files, others = _without_files(given)
    if recipe is not None and not files:
        files, given = [recipe], ["--config", str(recipe), *given]
    own = options.__annotations__  # they come first in the help
    settings = sorted(_settings(options), key=lambda setting: setting.key.partition(".")[0] not in own)
    defaults = [(_read_yaml(file), file) for file in files]
    _, given = _without_files(given, [file for values, file in defaults if not values])  # jsonargparse refuses them
    _check_lists(settings, defaults)
    parser = _parser(options, settings, program, defaults)

    def taken(words: list[str]) -> Options:
        try:
            return _filled(options, parser.parse_args(_spelled(words, settings)))
        except (argparse.ArgumentError, RecursionError) as error:
            raise OptionError(_one_line(str(error), settings)) from None

    try:
        return taken(given)
    except (OptionError, TypeError, KeyError, AttributeError, ValueError) as error:
        # What is wrong without the files too is the command line's.
        if not files or str(error) == _error_of(taken, others):
            raise
        raise OptionError(f"{', '.join(map(str, files))}: {' '.join(str(error).split())}") from None


def _error_of(taken: Callable[[list[str]], object], words: list[str]) -> str | None:
    try:
        taken(words)
    except Exception as error:
        return str(error)
    return None


def _without_files(arguments: list[str], only: Collection[Path] | None = None) -> tuple[list[Path], list[str]]:
    """The files that `--config` names, all or those of `only`, and the other arguments."""
    files, others, words = [], [], iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--config":
            others.append(word)
            continue
        file = value if equals else next(words, None)
        if file is None:
            raise OptionError("--config needs the name of a YAML file")
        if only is None or Path(file) in only:
            files.append(Path(file))
        else:
            others.append(f"--config={file}")
    return files, others


def read_options(options: type[Options], file: Path, changes: Sequence[str] = ()) -> Options:
    """The dataclass from a YAML file and arguments that change it, such as "--batch-size=64" or "loop.log_every=5".

    Raises:
        OptionError: see `parse`.
    """
    return parse(options, ["--config", str(file), *map(as_option, changes)])


def as_option(word: str) -> str:
    """An argument `key=value` as `--key=value`; any other as it is."""
    return f"--{word}" if re.match(r"[a-z][\w.]*=", word) else word


def flag(name: str) -> str:
    """A field as the command line has it: "--log-every" of "log_every"."""
    return f"--{name.replace('_', '-')}"


def part(options: object, kind: type[Options]) -> Options:
    """The fields of a dataclass that `options`, of a class that extends it, has too."""
    return kind(**{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


class _Setting(NamedTuple):
    """A field of the dataclass, or of one inside it."""

    key: str  # "loop.log_every"
    hint: Any
    field: dataclasses.Field[Any]
    text: str
    group: str

    @property
    def name(self) -> str:
        """The option as the command line has it."""
        return self.key if self.field.metadata.get("positional") else flag(self.key)

    @property
    def default(self) -> Any:
        """The field's default; MISSING where there is none."""
        if self.field.default_factory is not dataclasses.MISSING:
            return self.field.default_factory()
        return self.field.default

    @property
    def shape(self) -> tuple[Any, Any, bool]:
        """The type of a value, or of each of several; how many there are, None for one; whether None may be given."""
        hint, optional = without_none(self.hint)
        return *element(hint), optional


def _settings(options: type, prefix: str = "", group: str = "") -> Iterator[_Setting]:
    """Every option of a dataclass; those of a dataclass inside it with its name and a dot before theirs."""
    hints, texts = get_type_hints(options, include_extras=True), _texts(options)
    for field in dataclasses.fields(options):
        hint, key = hints[field.name], prefix + field.name
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _settings(hint, f"{key}.", _about(hint).split("\n")[0].rstrip("."))
        else:
            yield _Setting(key, hint, field, texts.get(field.name, ""), group)


def _texts(options: type) -> dict[str, str]:
    """What the docstrings of a class and of those that it extends say about each attribute."""
    found: dict[str, str] = {}
    for base in reversed(options.__mro__[:-1]):
        for parameter in docstring_parser.parse(base.__doc__ or "").params:
            text = " ".join((parameter.description or "").split())
            found |= dict.fromkeys(parameter.arg_name.split(", "), text)
    return found


def _parser(
    options: type, settings: list[_Setting], program: str | None, defaults: list[tuple[dict[str, Any], Path]]
) -> jsonargparse.ArgumentParser:
    """The parser, with the defaults of YAML files in its help."""
    parser = jsonargparse.ArgumentParser(
        prog=program,
        description=_about(options),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        print_config="--print-config",
    )
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML file of options; may be repeated")
    groups: dict[str, Any] = {"": parser}
    for setting in settings:
        if setting.group not in groups:
            groups[setting.group] = parser.add_argument_group(setting.group)
        _add(groups[setting.group], setting, _given_by(setting, defaults))
    return parser


def _about(options: type) -> str:
    """The docstring up to its "Attributes:"."""
    return inspect.cleandoc(options.__doc__ or "").partition("Attributes:")[0].strip()


def _add(parser: Any, setting: _Setting, given: tuple[Any, Path] | None) -> None:
    """One option, with help that gives type or choices, range, default, and the file that sets the default."""
    kind, several, optional = setting.shape
    positional, metavar = setting.field.metadata.get("positional"), setting.field.metadata.get("metavar")
    required = setting.default is dataclasses.MISSING
    more: dict[str, Any] = {"help": _help(setting, given)}
    if not required:
        more["default"] = list(setting.default) if isinstance(setting.default, tuple) else setting.default
    if kind is bool:
        more["action"] = jsonargparse.ActionYesNo(no_prefix="no-")
    else:
        more["type"] = kind | None if optional else kind
        if several is not None:
            more["nargs"] = several
        if metavar or get_origin(kind) is not Literal:
            more["metavar"] = metavar or setting.key.rpartition(".")[2].upper()
    if positional:
        if not required:
            more["nargs"] = "*" if several else "?"
        parser.add_argument(setting.key, **more)
        return
    if required and given is None:
        more["required"] = True
    parser.add_argument(setting.name, *setting.field.metadata.get("names", ()), **more)


def _help(setting: _Setting, given: tuple[Any, Path] | None) -> str:
    facts = [in_words(setting.hint)]
    if given is not None:
        facts.append(f"default: {_shown(given[0])}, from {given[1].name}")
    elif setting.default is dataclasses.MISSING:
        facts.append("required")
    else:
        facts.append(f"default: {_shown(setting.default)}")
    return f"{setting.text.rstrip('.')} ({', '.join(facts)})".strip().replace("%", "%%")


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file, empty where each line is a comment; errors name the file."""
    if not file.is_file():
        raise OptionError(f"there is no file {file}, expected YAML with options")
    try:
        text = file.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise OptionError(f"{file} uses YAML aliases (*name), which are not read: write the values out")
        _check_keys(yaml.compose(text, yaml.SafeLoader), file)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"{file} is no YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict | None):
        raise OptionError(f"{file} holds a {type(values).__name__}, expected options as key: value")
    return values or {}


def _check_keys(node: yaml.Node | None, file: Path) -> None:
    """Raise OptionError if a mapping has a key twice; YAML itself would silently take the last one."""
    if not isinstance(node, yaml.MappingNode):
        return
    keys = [key.value for key, _ in node.value]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise OptionError(f"{file} gives {twice[0]} {keys.count(twice[0])} times: give each option once")
    for _, value in node.value:
        _check_keys(value, file)


def _check_lists(settings: list[_Setting], defaults: list[tuple[dict[str, Any], Path]]) -> None:
    """OptionError if a YAML file gives one value where a list is expected, which the parser would take to pieces."""
    for setting in settings:
        value, file = _given_by(setting, defaults) or (None, None)
        if setting.shape[1] and value is not None and not isinstance(value, list):
            words = in_words(setting.hint)
            raise OptionError(f"{file}: {setting.name}: expected {words}, as a list such as [a, b], got {value!r}")


def _given_by(setting: _Setting, defaults: list[tuple[dict[str, Any], Path]]) -> tuple[Any, Path] | None:
    """The last value that a YAML file gives for a setting, and the file."""
    for values, file in reversed(defaults):
        found: Any = values
        for part in setting.key.split("."):
            found = found.get(part, dataclasses.MISSING) if isinstance(found, dict) else dataclasses.MISSING
        if found is not dataclasses.MISSING:
            return found, file
    return None


def _spelled(arguments: list[str], settings: list[_Setting]) -> list[str]:
    """The arguments as the parser reads them.

    "--batch_size" becomes "--batch-size"; none becomes null, YAML's word, where None may be given; "--betas=[0, 0.9]"
    becomes "--betas 0 0.9". OptionError for an empty path, which pathlib takes for the working directory.
    """
    by_name = {setting.name: setting for setting in settings}
    changed: list[str] = []
    setting: _Setting | None = None  # that the last option named
    for word in arguments:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if name:
            name = name if name in by_name or name.replace("_", "-") not in by_name else name.replace("_", "-")
            setting = by_name.get(name)
        kind, several, optional = (None, None, False) if setting is None else setting.shape
        if optional and value.lower() == "none":
            value = "null"
        if kind is Path and not value and (equals or not name):
            raise OptionError(f"{setting and setting.name}: an empty path; '.' is the working directory")
        if name and several and value.startswith("["):
            changed += [name, *map(str, yaml.safe_load(value))]
        else:
            changed.append(name + equals + value)
    return changed


def _one_line(message: str, settings: list[_Setting]) -> str:
    """What jsonargparse says in several lines, in one that has the option's name and what it takes."""
    by_key = {setting.key: setting for setting in settings}
    if found := re.match(r'Parser key "([^"]+)"', message):
        value = re.search(r"(?:Got|Given) value: (.*)", message)
        setting = by_key.get(found[1])
        if setting is not None:
            got = f", got {value[1]!r}" if value else f": {' '.join(message.split()[3:])}"
            return f"{setting.name}: expected {in_words(setting.hint)}{got}"
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        return _unknown(found[1].partition("=")[0], [setting.name for setting in settings])
    if found := re.match(r"Option '([^']+)' is not accepted", message):
        return _unknown(found[1], [setting.key for setting in settings])
    if found := re.match(r"the following arguments are required: (.*)", message):
        missing = (by_key[key] for key in found[1].split(", "))
        return "needed: " + ", ".join(f"{setting.name} ({in_words(setting.hint)})" for setting in missing)
    return " ".join(message.split())


def _unknown(name: str, known: list[str]) -> str:
    if "=" not in name and not name.startswith("-") and "." not in name and name not in known:
        return f"unexpected argument {name!r}; {nearest(name, known)}"
    return f"there is no option {name!r}; {nearest(name, known)}"


def _filled(options: type[Options], found: jsonargparse.Namespace, prefix: str = "") -> Options:
    """The dataclass with what was parsed, ranges checked."""
    hints = get_type_hints(options, include_extras=True)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        hint, value = hints[field.name], found[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            values[field.name] = _filled(hint, value, f"{prefix}{field.name}.")
            continue
        kind = get_origin(without_none(hint)[0])
        if value == [None]:  # "--layers none"
            value = None
        values[field.name] = tuple(value) if kind is tuple and value is not None else value
        if not fits(values[field.name], hint):
            name = flag(f"{prefix}{field.name}")
            raise OptionError(f"{name}: expected {in_words(hint)}, got {_shown(values[field.name])}")
    return options(**values)
