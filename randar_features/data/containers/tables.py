"""Tables with a column of images: Parquet files in Hugging Face's form, and the `datasets` library."""

import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from randar_features.data.containers.account import Account
from randar_features.data.containers.items import IMAGE_NAMES, confined_image, first_name
from randar_features.data.containers.labels import LABEL_NAMES, NONE, Labels, find_label_column, read_labels
from randar_features.data.containers.listing import list_files
from randar_features.data.containers.lists import METADATA_NAMES
from randar_features.data.containers.paths import check_file, one_line, reading
from randar_features.data.containers.shards import PARQUET, TAR, choose_shards
from randar_features.store.records import printable

INDEX_COLUMNS = re.compile(r"columns-\d{12}(-new)?\.parquet")
NAMED = "datasets:"  # what comes before the name of a data set, where images are expected


class Columns(NamedTuple):
    """The columns of a table that hold the image and the label, and the names of the classes."""

    image: str
    label: str | None
    label_names: list[str] | None


def find_columns(features: Mapping[str, Any], account: Account) -> Columns:
    """Find the columns by their feature (``datasets.Image``, ``datasets.ClassLabel``) or else by name.

    ``features`` maps column names to `datasets` features, or to the same as JSON; unknown ones are None. The
    account takes down labels without a clear class.

    Raises:
        ValueError: there is no image column, or there are several and none is named "image" or "img".
    """
    kinds = {name: _kind(feature) for name, feature in features.items()}
    typed = [name for name, kind in kinds.items() if kind == "Image"]
    image = first_name(IMAGE_NAMES, typed or list(kinds))
    if image is None and len(typed) == 1:
        image = typed[0]
    if image is None:
        raise ValueError(
            f"cannot tell the image column among {kinds}: expected one of type Image, or one of {IMAGE_NAMES}"
        )
    label = _find_label_column(kinds, image, account)
    names = None
    if label is not None:
        account.notes.append(f"labels from the column '{label}'")
        names = _class_names(features[label]) if kinds[label] == "ClassLabel" else None
    return Columns(image, label, names)


def _find_label_column(kinds: Mapping[str, str | None], image: str, account: Account) -> str | None:
    """By name; else the only one with classes; else by one of the names that labels have elsewhere."""
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    named = first_name(LABEL_NAMES, kinds)
    if named is not None or len(classes) == 1:
        return named or classes[0]
    if classes:
        account.drop(f"several columns hold classes: {', '.join(classes)}; call the right one 'label'", "the table")
        return None
    return find_label_column([name for name in kinds if name != image], account, "the table")


def _kind(feature: Any) -> str | None:
    kind = feature.get("_type") if isinstance(feature, Mapping) else getattr(feature, "_type", None)
    return kind if isinstance(kind, str) else None


def _class_names(feature: Any) -> list[str] | None:
    names = feature.get("names") if isinstance(feature, Mapping) else feature.names
    return None if names is None else list(names)


def only_class_names(features: Mapping[str, Any]) -> list[str] | None:
    """The names of the classes, where one column alone has classes."""
    several = [_class_names(feature) for feature in features.values() if _kind(feature) == "ClassLabel"]
    return several[0] if len(several) == 1 else None


def arrow_labels(column: Any, names: Sequence[str] | None, account: Account) -> Labels:
    """The labels in an Arrow column; see `read_labels`."""
    import pyarrow.types

    if pyarrow.types.is_integer(column.type):
        values = column.cast("int64").fill_null(-1).to_numpy()
        return read_labels(np.asarray(values), names, account)
    return read_labels(column.to_pylist(), names, account)


# The `datasets` library


def prepare_table(table: Any, columns: Columns, *, label: bool) -> Any:
    """Reduce a `datasets` table to its image, left encoded, and, if `label`, its label, under these names.

    Left encoded, a damaged image spoils one row where `datasets` would end the run.
    """
    import datasets

    kept = {columns.image: "image"} | ({columns.label: "label"} if label and columns.label is not None else {})
    table = table.with_format(None).select_columns(list(kept))
    if isinstance(table.features[columns.image], datasets.Image):
        table = table.cast_column(columns.image, datasets.Image(decode=False))
    return table.rename_columns({old: new for old, new in kept.items() if old != new})


def table_labels(table: Any, columns: Columns, account: Account) -> Labels:
    """All labels of a `datasets` table that is not streamed; its class names even where no image has a label."""
    if columns.label is None:
        return NONE
    column = table.select_columns([columns.label]).with_format("arrow")[:].column(0)
    labels = arrow_labels(column, columns.label_names, account)
    return labels if columns.label_names is None else Labels(labels.values, columns.label_names)


def is_saved_table(folder: Path) -> bool:
    """Whether `datasets` wrote it by `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def load_named_table(name: str, split: str | None, *, streaming: bool = False) -> Any:
    """A data set of `datasets` by its name, NAME or NAME:CONFIGURATION; of all splits, or of one.

    Raises:
        FileNotFoundError, ValueError: there is none, it is out of reach, or it has no such split or configuration.
    """
    import datasets

    path, _, configuration = name.partition(":")
    try:
        return datasets.load_dataset(path, configuration or None, split=split, streaming=streaming)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        kind = FileNotFoundError if isinstance(error, OSError) else ValueError
        raise kind(f"{NAMED}{name} cannot be opened by datasets.load_dataset: {one_line(error)}") from error


def check_buffers(table: Any) -> None:
    """ValueError if a table of `datasets`, which is mapped from files, points outside of these: reading would crash."""
    for part in (table.data, table._indices):
        if part is not None:
            part.table.validate(full=True)


class SavedTable:
    """A prepared table that came from files: an image that is only named must lie in their folder."""

    def __init__(self, table: Any, folder: Path) -> None:
        self.table, self.folder = table, folder

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Any:
        return confined_image(self.table[index]["image"], self.folder)


# Parquet


def list_parquet(path: Path, split: str | None, account: Account | None = None) -> list[Path]:
    """The Parquet files at ``path``: itself, or those of one split in a folder and below; see `choose_shards`.

    A Parquet file beside a tar of its name, as img2dataset writes them, describes the tar and is no table of images.
    """
    if path.is_file():
        return [path]
    account = account or Account()
    files = list_files(path, Account())
    tars = {file.with_suffix("") for file in files if file.suffix == TAR}
    found = choose_shards(
        path, [file for file in files if _is_table(file) and file.with_suffix("") not in tars], split, account
    )
    for file in files if found else ():
        if not _is_table(file) and not _describes(file):
            account.pass_over("beside Parquet files", str(file))
    return found


def _is_table(file: Path) -> bool:
    """Whether it may hold images: an index that lies among images has a Parquet file of its own."""
    return file.suffix == PARQUET and file.name not in METADATA_NAMES and not INDEX_COLUMNS.fullmatch(file.name)


def _describes(file: Path) -> bool:
    """Whether it tells of the table, as the files of a repository do."""
    return file.suffix in (".md", ".json", ".txt", ".yaml", ".yml") or file.name == "LICENSE"


class ParquetTable:
    """Rows ``(image, mask)`` of Parquet files that hold encoded images, read one row group at a time.

    Args:
        files: in their order.
        account: takes down labels without a clear class.
        mask: the column of masks, or None: rows are ``(image, None)``.

    Raises:
        ValueError: a file is damaged, is no Parquet file, or has other columns than the first.
    """

    def __init__(self, files: Sequence[Path], account: Account, mask: str | None = None) -> None:
        self.files = list(files)
        self.mask = mask
        features = parquet_features(files[0])
        with reading(files[0], "a table of images"):
            self.columns = find_columns(features, account)
        self._groups: list[tuple[Path, int]] = []
        self._ends: list[int] = []
        self._loaded: tuple[int, list[Any] | Exception] = (-1, [])
        for file in files:
            self._add(file)

    def _add(self, file: Path) -> None:
        import pyarrow.parquet

        check_file(file)
        with reading(file, "Parquet (fetch it again if it is torn)"):
            metadata = pyarrow.parquet.read_metadata(file)
            features = parquet_features(file)
        needed = [*self._names(), *([] if self.columns.label is None else [self.columns.label])]
        missing = [name for name in needed if name not in features]
        if missing:
            raise ValueError(f"{printable(file)} has no column '{missing[0]}', as {printable(self.files[0].name)} has")
        if self.columns.label is not None and self.columns.label_names is not None:
            names = _class_names(features[self.columns.label] or {"names": None})
            if names != self.columns.label_names:
                raise ValueError(f"{printable(file)} has other class names than {printable(self.files[0].name)}")
        for group in range(metadata.num_row_groups):
            self._groups.append((file, group))
            self._ends.append(len(self) + metadata.row_group(group).num_rows)

    def _names(self) -> list[str]:
        return [name for name in (self.columns.image, self.mask) if name is not None]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        group = bisect_right(self._ends, index)
        if self._loaded[0] != group:
            self._loaded = (group, self._read(group))
        columns, file = self._loaded[1], self._groups[group][0]
        if isinstance(columns, Exception):  # a damaged group is not read again for each of its rows
            raise columns
        offset = index - (self._ends[group - 1] if group else 0)
        image, *mask = (confined_image(column[offset].as_py(), file.parent) for column in columns)
        return image, mask[0] if mask else None

    def _read(self, group: int) -> list[Any] | Exception:
        import pyarrow.parquet

        file, number = self._groups[group]
        try:
            with reading(file, "Parquet"):
                # Opened anew each time: a handle shared by forked workers would share its position.
                opened = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
                table = opened.read_row_group(number, columns=self._names())
                return [table[name].combine_chunks() for name in self._names()]
        except (OSError, ValueError) as error:
            return error

    def labels(self, account: Account) -> Labels:
        """The labels of all rows; ValueError that names the file if the column is damaged."""
        import pyarrow as pa
        import pyarrow.parquet

        if self.columns.label is None:
            return NONE
        parts = []
        for file in self.files:
            with reading(file, "Parquet"):
                parts.append(pyarrow.parquet.read_table(file, columns=[self.columns.label]).column(0))
        if len({part.type for part in parts}) > 1:
            raise ValueError(f"the column '{self.columns.label}' has another type in some of {len(self.files)} files")
        whole = pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type)
        with reading(self.files[0], "a table of images"):
            return arrow_labels(whole, self.columns.label_names, account)


def parquet_features(file: Path) -> dict[str, Any]:
    """The columns, and what `datasets` wrote of each or None; ValueError that names the file if it is damaged."""
    import pyarrow.parquet

    check_file(file)
    with reading(file, "Parquet (fetch it again if it is torn)"):
        schema = pyarrow.parquet.read_schema(file)
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = stored.get("info", {}).get("features", {})
        return {name: features.get(name) for name in schema.names}
