"""Labels of many forms as numbers of classes. A label whose meaning is not certain is dropped."""

import math
import operator
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from randar_features.data.containers.account import Account
from randar_features.data.decode.opening import printable
from randar_features.store.records import NO_LABEL

LABEL_NAMES = ("label", "labels", "fine_label")
"""Columns and keys that are labels by their name, the first that is there."""
OTHER_LABEL_NAMES = (
    "target", "targets", "class", "class_id", "class_idx", "class_index", "class_name", "class_label", "cls",
    "category", "category_id", "y",
)  # fmt: skip
"""Columns and keys that are labels where only one of them is there."""
LIKE_A_LABEL = re.compile("label|class|target|categor", re.IGNORECASE)
LARGEST = 2**31
CAPTIONS, MANY, SENTENCE = 0.9, 20, 4  # share of texts that differ, number of texts, words in one
MISSING = ("NAType", "NaTType")  # pandas' types of values that are missing
QUOTED = 60  # characters of a label in a message


class LabelError(ValueError):
    """A label whose class cannot be told. The message says what kind of value it is."""


class Labels(NamedTuple):
    """Labels of all images of a source.

    Attributes:
        values: int64 (n,), −1 where an image has none; None where no image has one.
        names: name of each class, or None.
    """

    values: NDArray[np.int64] | None
    names: list[str] | None


NONE = Labels(None, None)


def find_label(names: Collection[str]) -> str | None:
    """The column or key that holds the label, None where there is none.

    Raises:
        LabelError: several could be it.
    """
    by_plain = by_plain_name(names)
    known = next((by_plain[name] for name in LABEL_NAMES if name in by_plain), None)
    if known is not None:
        return known
    # Beside an "x", "y" is a coordinate.
    others = [
        by_plain[name] for name in OTHER_LABEL_NAMES if name in by_plain and not (name == "y" and "x" in by_plain)
    ]
    if len(others) > 1:
        raise LabelError(f"several columns could hold it: {', '.join(others)}; call the right one 'label'")
    return others[0] if others else None


def find_label_column(names: Sequence[str], account: Account, where: str) -> str | None:
    """The name of the column of a table that holds the labels, or None; the account then says why."""
    try:
        found = find_label(names)
    except LabelError as error:
        account.drop(str(error), where)
        return None
    if found is None and (similar := [name for name in names if LIKE_A_LABEL.search(str(name))]):
        account.drop(f"a column is called {', '.join(map(printable, similar[:5]))}: call the right one 'label'", where)
    elif found is None and names:
        columns = ", ".join(map(printable, names[:5]))
        account.notes.append(f"no labels: none of the columns {columns} is called 'label'")
    return found


def by_plain_name(names: Iterable[Any]) -> dict[str, Any]:
    """Columns or keys by their names without capitals, and without the spaces that follow commas in some files."""
    plain = [(str(name).strip().lower(), name) for name in names]
    # If two names become one, the name that is already plain comes last, and wins.
    return dict(sorted(plain, key=lambda pair: pair[0] == pair[1]))


def one_label(value: Any, names: Sequence[str] | None = None) -> int | None:
    """The class of one image; None where there is none (None, NaN, pandas' NA, a negative number).

    Takes whole numbers of any type, booleans, arrays and lists that hold one of these, and a name out of `names`.

    Raises:
        LabelError: it is something else, or no class of `names`.
    """
    value = _scalar(value)
    if value is None:
        return None
    if isinstance(value, str):
        if names is None or value not in names:
            known = "it is none of the class names"
            if names is None:
                known = (
                    "there are no class names to look it up in: give numbers, or name the classes "
                    "(by a column of type datasets.ClassLabel, or by `classes` of a torch data set)"
                )
            raise LabelError(f"a label is text, and {known}")
        return list(names).index(value)
    label = _whole_number(value)
    if names is not None and label >= len(names):
        raise LabelError(f"a label is not below the number of classes, {len(names)}")
    return label if label >= 0 else None


def _scalar(value: Any) -> Any:
    """What a tensor, an array or a list of one holds, None for what is missing; numpy's numbers as Python's."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and math.prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return _scalar(value[0])
    # What is not UTF-8 keeps its bytes as escapes, so that two names do not become one.
    value = value.decode(errors="surrogateescape") if isinstance(value, bytes) else value
    if (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in MISSING:
        return None
    return None if isinstance(value, str) and not value.strip() else value


def _whole_number(value: Any) -> int:
    if isinstance(value, float):
        if not value.is_integer():
            raise LabelError("a label is no whole number")
        value = int(value)
    if isinstance(value, (Tensor, np.ndarray, list, tuple)):
        raise LabelError("a label holds several numbers: give one class for each image, such as its argmax")
    try:
        label = operator.index(value)
    except TypeError:
        raise LabelError(f"a label is of type {type(value).__name__}, which names no class") from None
    if label >= LARGEST:
        raise LabelError("a label is too large for the number of a class")
    return label


def read_labels(values: Sequence[Any] | NDArray[Any], names: Sequence[str] | None, account: Account) -> Labels:
    """The labels of a whole source.

    Numbers are classes. Texts name classes, which are sorted by name, or as numbers if all are digits; captions name
    none. Vectors of one length with a single 1 among 0s are one-hot. If one label is none of these, all are dropped,
    and the account says why.

    Raises:
        ValueError: `names` has no name for a label.
    """
    if not len(values):
        return NONE
    try:
        numbers, own_names = _numbers(values, names)
    except LabelError as error:
        if names is not None:
            raise ValueError(f"labels do not fit the {len(names)} class names: {error}") from error
        for value in values:
            account.drop(str(error), quoted(value))
        return NONE
    if not (numbers >= 0).any():
        return NONE
    return Labels(numbers, list(names) if names is not None else own_names)


def _numbers(
    values: Sequence[Any] | NDArray[Any], names: Sequence[str] | None
) -> tuple[NDArray[np.int64], list[str] | None]:
    if isinstance(values, np.ndarray) and values.dtype.kind in "bui" and values.ndim == 1:
        if names is not None and values.max() >= len(names):
            raise LabelError(f"{values.max()} is not below the number of classes")
        if values.max() >= LARGEST:
            raise LabelError("a label is too large for the number of a class")
        return np.maximum(values.astype(np.int64), NO_LABEL), None
    plain = [_scalar(value) for value in values]
    present = [value for value in plain if value is not None]
    own_names = None
    if names is None and present and all(isinstance(value, str) for value in present):
        names = own_names = sort_names(set(present))
        if _are_captions(present, names):
            raise LabelError("nearly each image has a text of its own, as captions have, and no class with others")
    elif present and all(isinstance(value, (list, tuple, Tensor, np.ndarray)) for value in present):
        plain = _from_one_hot(plain)
    index = None if names is None else {name: number for number, name in enumerate(names)}
    labels = [
        index[value] if index is not None and isinstance(value, str) and value in index else one_label(value, names)
        for value in plain
    ]
    return np.array([NO_LABEL if label is None else label for label in labels], dtype=np.int64), own_names


def _are_captions(texts: list[str], distinct: Sequence[str]) -> bool:
    """Whether texts describe single images: nearly all differ, and they are many, or sentences."""
    if len(texts) < 3 or len(distinct) <= CAPTIONS * len(texts):
        return False
    return len(texts) >= MANY or float(np.median([len(text.split()) for text in texts])) >= SENTENCE


def _from_one_hot(vectors: list[Any]) -> list[int | None]:
    arrays = [None if vector is None else np.asarray(vector) for vector in vectors]
    lengths = {array.shape for array in arrays if array is not None}
    one_hot = len(lengths) == 1 and all(
        array is None or (array.ndim == 1 and set(np.unique(array)) <= {0, 1} and array.sum() == 1) for array in arrays
    )
    if not one_hot:
        raise LabelError("labels hold several numbers and are not one-hot: give one class for each image")
    return [None if array is None else int(array.argmax()) for array in arrays]


def quoted(value: Any) -> str:
    """A label for a message, cut to a readable length."""
    text = " ".join(repr(value).split())
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}…"


def sort_names(names: Iterable[str]) -> list[str]:
    """Names of classes in alphabetical order; where all are numbers, in that of the numbers: 9 before 10."""
    ordered = sorted(names)
    if all(re.fullmatch(r"[0-9]+", name) for name in ordered):
        return sorted(ordered, key=lambda name: (int(name), name))
    return ordered


def match_classes(names: Sequence[str] | None, model_names: Sequence[str] | None) -> list[int]:
    """The model's class for each class of the data, matched by name alone, never by index.

    Capitals and separators do not count. "golden retriever" is the model's only class with this synonym ("golden
    retriever, Retriever of gold").

    Args:
        names: classes of the data.
        model_names: classes of the model; synonyms with commas between them.

    Raises:
        ValueError: the data or the model have no names, or a name is no class of the model, or several.
    """
    if names is None or model_names is None:
        whose = "the images come" if names is None else "the model comes"
        raise ValueError(
            f"classes='labels' needs classes told by name, and {whose} without class names: give the model's class "
            "of each image, as in classes=[3, 7, …]"
        )
    by_name: dict[str, set[int]] = {}
    for index, synonyms in enumerate(model_names):
        for name in {synonyms, *synonyms.split(",")}:
            by_name.setdefault(_plain(name), set()).add(index)
    found = [by_name.get(_plain(name), set()) for name in names]
    unclear = [name for name, indices in zip(names, found, strict=True) if len(indices) != 1]
    if unclear:
        raise ValueError(
            f"classes='labels' needs classes of the model: {len(unclear)} of {len(names)} are none, or more than "
            f"one, by name ({', '.join(map(repr, unclear[:5]))}), where the model has such as {model_names[0]!r}. "
            "Give the model's class of each image, as in classes=[3, 7, …], or classes=None"
        )
    return [min(indices) for indices in found]


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\W_]+", name.casefold())).strip()


def label_of(item: Mapping[str, Any]) -> Any:
    """The label in a mapping, None where there is none; a LabelError in its place where several keys could be it."""
    try:
        name = find_label(item.keys())
    except LabelError as error:
        return error
    return None if name is None else item[name]
