"""Lists of images and labels in text files: CSV and JSON Lines, by themselves or as the metadata of a folder."""

import codecs
import os
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from randar_features.data.containers.account import Account
from randar_features.data.containers.items import IMAGE_NAMES, first_name
from randar_features.data.containers.labels import NONE, Labels, find_label_column, read_labels
from randar_features.data.containers.layout import find_splits
from randar_features.data.containers.paths import check_file, confined, head_of, reading
from randar_features.store.records import printable

LIST_ENDINGS = (".csv", ".tsv", ".jsonl")
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Files that describe the images beside them and below, as in the imagefolder of `datasets`."""
PATH_NAMES = ("file_name", "path", "file", "filename", "filepath", "file_path", "image_path", *IMAGE_NAMES)


class FileList(NamedTuple):
    """The cells of a list: a path and a label for each image, None where there is none."""

    paths: list[str | None]
    labels: list[Any] | None
    label_column: str | None


def read_list(path: Path, account: Account) -> FileList:
    """Read a list of files with a header: one column of paths, and one of labels where there is one.

    Raises:
        ValueError: it is damaged, or has no column of paths.
    """
    check_file(path)
    with reading(path, "a list of images"):
        table = _read_table(path)
        if len(set(table.column_names)) < len(table.column_names):
            raise ValueError("two columns have one name")
    path_name = first_name(PATH_NAMES, table.column_names)
    if path_name is None:
        columns = ", ".join(map(printable, table.column_names[:8]))
        raise ValueError(
            f"{printable(path)} has no column of paths: got {columns}, expected a first line with one of "
            f"{', '.join(PATH_NAMES[:4])}"
        )
    _warn_of_splits(path, table)
    label_name = find_label_column([name for name in table.column_names if name != path_name], account, path.name)
    with reading(path, "a list of images"):
        spaced = path_name.startswith(" ")  # "label, path": so are the cells below
        paths = [_text(value, spaced) for value in table[path_name].to_pylist()]
        if label_name is None:
            return FileList(paths, None, None)
        labels = table[label_name].to_pylist()  # without the space that follows a comma in some files
        stripped = [label.strip() if isinstance(label, str | bytes) else label for label in labels]
        return FileList(paths, stripped, label_name)


def _warn_of_splits(path: Path, table: Any) -> None:
    """Say that a column "split" chooses nothing: a list is opened whole, as `datasets` opens it."""
    for name in table.column_names:
        if name.strip().lower() in ("split", "subset"):
            values = {value.strip() for value in table[name].to_pylist() if isinstance(value, str)}
            splits = find_splits(sorted(values))
            if len(splits) > 1:
                warnings.warn(
                    f"{printable(path)} has the column '{printable(name)}' ({', '.join(splits)}), which is not read: "
                    "the images of all splits are opened; for one split write a list of its images, or a folder",
                    stacklevel=2,
                )


def _text(value: Any, spaced: bool) -> str | None:
    """A cell as a path, None where it is empty; a name that is not UTF-8 comes as bytes.

    spaced: a space follows each comma of the file.
    """
    text = "" if value is None else os.fsdecode(value) if isinstance(value, bytes) else str(value)
    return (text.removeprefix(" ") if spaced else text) or None


def _read_table(path: Path) -> Any:
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path)
    if path.suffix == ".jsonl":
        return pyarrow.json.read_json(path)
    if head_of(path).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("its text is UTF-16: save it as UTF-8")
    delimiter = "\t" if path.suffix == ".tsv" else ","
    header = head_of(path).partition(b"\n")[0]
    if b";" in header and delimiter.encode() not in header:  # as spreadsheets save it in many countries
        raise ValueError("its columns are separated by semicolons, expected commas")
    options = pyarrow.csv.ParseOptions(delimiter=delimiter)
    return pyarrow.csv.read_csv(path, parse_options=options)


def spreadsheet_safe(value: Any) -> Any:
    """Text with an apostrophe before it where a spreadsheet would take it for a formula; lists as text."""
    value = " + ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value


def open_list(path: Path, account: Account) -> tuple[list[Path | None], Labels]:
    """The files that a list names, relative to its folder, and their labels. An empty path keeps its place.

    Raises:
        ValueError: it is damaged, has no column of paths, or names files outside its folder.
    """
    found = read_list(path, account)
    files: list[Path | None] = []
    for row, text in enumerate(found.paths):
        try:
            files.append(None if text is None else confined(text, path.parent))
        except ValueError as error:
            raise ValueError(f"{printable(path)}, image {row + 1}: {error}") from error
    if found.labels is None:
        return files, NONE
    account.notes.append(f"labels from the column '{found.label_column}'")
    return files, read_labels(found.labels, None, account)


def metadata_labels(folder: Path, metadata: Sequence[Path], images: Sequence[Path], account: Account) -> Labels | None:
    """The labels that metadata files give to the images of a folder; None where they have no column of labels.

    `metadata` and `images` are relative to `folder`. A name in them is looked up among the images beside and below
    the metadata file, and never opened.

    Raises:
        ValueError: a metadata file is damaged.
    """
    given: dict[PurePath, Any] = {}
    unclear: set[PurePath] = set()
    for file in metadata:
        found = read_list(folder / file, account)
        for name, label in zip(found.paths, found.labels or (), strict=False):
            place = file.parent / PurePath(name or "")
            if name is not None and given.setdefault(place, label) != label:
                unclear.add(place)
        if found.labels is not None:
            account.notes.append(f"labels from {printable(file)}, column '{found.label_column}'")
    if not given:
        return None
    known = set(images)
    for path in given.keys() - known:
        account.pass_over("named in the metadata, but not there", str(path))
    for path in images:
        if path not in given:
            account.drop("the metadata do not name the image", str(path))
        elif path in unclear:
            account.drop("the metadata give the image several", str(path))
    return read_labels([None if path in unclear else given.get(path) for path in images], None, account)
