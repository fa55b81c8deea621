"""Several files that are one source: shards, recognised by their names, and patterns such as ``{000..003}.tar``."""

import glob
import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import braceexpand

from randar_features.data.containers.account import Account
from randar_features.data.containers.layout import find_splits, split_role, wrong_split
from randar_features.store.records import printable

TAR, PARQUET = ".tar", ".parquet"
SHARD_ENDINGS = (TAR, PARQUET)
SHARD_NUMBER = re.compile(
    r"[-_.]?(part|shard|chunk)?[-_.]?\d{1,}([-_.]of[-_.]\d+)?([-_.][0-9a-f-]+)?([-_.]c\d+)?(\.\w+)?$"
)
"""What a name says of the place among the files of a split: -00000-of-00004, part-0, 0000."""
OF_MANY = re.compile(r"^(?P<beginning>.*?)(?P<number>\d+)-of-(?P<count>\d+)(-\w+)?$")
NUMBERED = re.compile(r"(|.*[-_.])(part|shard|chunk)?\d+", re.IGNORECASE)
"""A name that ends in a separate number; a synset such as n01440764 does not."""
NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)")  # the ends of a range in a pattern
LARGEST_PATTERN = 10**6  # files of one pattern


def is_shard_name(stem: str) -> bool:
    """Whether the name of a file, without its ending, is that of a shard: shard-000, train, train-0000-of-0004."""
    beginning = SHARD_NUMBER.sub("", stem)
    return bool(NUMBERED.fullmatch(stem) or OF_MANY.match(stem) or split_role(stem) or split_role(beginning))


def choose_shards(
    folder: Path, files: Sequence[Path], split: str | None, account: Account, *, kind: str = "Parquet files"
) -> list[Path]:
    """Those of the files (relative to `folder`) that are one source.

    The split is the beginning of the name, as in ``train-00000-of-00004.parquet``, or the folder, as in
    ``train/0000.parquet``. The account hears of files that are missing of a number that the names state.

    Raises:
        ValueError: there is no such split, there are several and `split` is None, or they lie in several folders.
    """
    splits = {file: split_of(file) for file in files}
    names = sorted({name for name in splits.values() if name is not None})
    found = list(files)
    if split is not None:
        found = [file for file in files if split in (splits[file], file.stem)]
        if files and not found:
            raise ValueError(wrong_split(printable(folder), names, split))
    elif len(names) > 1 or (names and None in splits.values()):
        raise ValueError(wrong_split(printable(folder), names, None))
    folders = sorted({str(file.parent) for file in found})
    if len(folders) > 1:
        raise ValueError(
            f"'{printable(folder)}' holds {kind} in several folders ({', '.join(folders[:5])}): give one of them"
        )
    _note_missing(found, account)
    return [folder / file for file in found]


def split_of(file: Path) -> str | None:
    """The split that the name of a file states, else that of its folder; None where neither does."""
    numbered = re.search(r"-\d+-of-\d+(-\w+)?$", file.stem)
    if numbered:
        return file.stem[: numbered.start()]
    beginning = SHARD_NUMBER.sub("", file.stem)
    if split_role(beginning):
        return beginning
    return next((name for name in reversed(file.parent.parts) if find_splits([name])), None)


def _note_missing(files: Sequence[Path], account: Account) -> None:
    stated: dict[tuple[str, str], set[int]] = {}
    for file in files:
        if match := OF_MANY.match(file.stem):
            stated.setdefault((match["beginning"], match["count"]), set()).add(int(match["number"]))
    for (beginning, count), numbers in stated.items():
        if len(numbers) < int(count):
            name = f"{beginning}…-of-{count}: {len(numbers)} are there"
            account.pass_over("missing of the number that the names state", name)


# Patterns


def is_pattern(text: str) -> bool:
    """Whether a path that is not there stands for several: it holds {…}, * or ?."""
    return (("{" in text and "}" in text) or "*" in text or "?" in text) and not os.path.lexists(text)


def expand(text: str) -> list[Path]:
    """The files that a pattern stands for: in the order of its braces, those of a * sorted.

    Raises:
        FileNotFoundError: one that the braces name is not there, or nothing fits a *.
        ValueError: the braces cannot be read, or name more than a million files.
    """
    names: list[str] = []
    # braceexpand makes a whole range before it gives its first name.
    if all(abs(int(end) - int(start)) < LARGEST_PATTERN for start, end in NUMBERS.findall(text)):
        try:
            names = list(islice(braceexpand.braceexpand(text), LARGEST_PATTERN + 1))
        except ValueError as error:
            raise ValueError(f"the pattern '{printable(text)}' cannot be read: {error}") from error
    if not 0 < len(names) <= LARGEST_PATTERN:
        raise ValueError(f"the pattern '{printable(text)}' names more than {LARGEST_PATTERN} files")
    found: list[Path] = []
    missing = []
    for name in names:
        fitting = sorted(glob.glob(name, recursive=True)) if "*" in name or "?" in name else [name]
        here = [Path(one) for one in fitting if os.path.exists(one)]
        found += here
        missing += [] if here else [name]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FileNotFoundError(
            f"no file '{printable(missing[0])}'{more}, which the pattern '{printable(text)}' stands for"
        )
    return found


def expand_all(images: Sequence[Any]) -> list[Any]:
    """A list in which patterns of shards are replaced by the files that they stand for."""
    found: list[Any] = []
    for one in images:
        text = os.fspath(one) if isinstance(one, (str, os.PathLike)) else ""
        found += expand(text) if isinstance(text, str) and text.endswith(SHARD_ENDINGS) and is_pattern(text) else [one]
    return found


def are_shards(images: Any, ending: str) -> bool:
    """Whether it is a list of the paths of files of this ending."""
    return (
        isinstance(images, (list, tuple))
        and len(images) > 0
        and all(isinstance(one, (str, os.PathLike)) and os.fspath(one).endswith(ending) for one in images)
    )


def _common_folder(images: Any) -> Path | None:
    """The folder that the files of a pattern, or of a list of shards, have in common; None of anything else."""
    if isinstance(images, (str, os.PathLike)):
        if not is_pattern(os.fspath(images)):
            return None
        images = expand(os.fspath(images))
    elif not (are_shards(images, TAR) or are_shards(images, PARQUET)):
        return None
    folders = [os.path.dirname(path) for path in map(os.fspath, images)]
    same_kind = len({os.path.isabs(folder) for folder in folders}) == 1
    return Path(os.path.commonpath(folders)) if same_kind else None


def root_of(images: Any, split: str | None = None) -> Path | None:
    """The folder or archive that paths of these images begin with; None where they are no folder."""
    if (folder := _common_folder(images)) is not None:
        return folder
    if not isinstance(images, str | os.PathLike):
        return None
    path = Path(images)
    if split is not None and (path / split).is_dir():
        return path / split
    return path if path.is_dir() or path.suffix == ".tar" else None
