"""What the folders in a folder or an archive mean: classes, splits, or a level without meaning."""

import re
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from randar_features.data.containers.account import Account
from randar_features.data.containers.labels import NONE, Labels, sort_names

SPLIT_ROLES = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""Names of splits, with what each is for."""
EVALUATION_SPLITS = tuple(name for name, role in SPLIT_ROLES.items() if role != "train")
"""Names of splits that models are not trained on, those for validation first."""
SPLIT_NAME = re.compile(rf"({'|'.join(SPLIT_ROLES)})([-_ ]?(set|split|images?|imgs?|data|\d+))?", re.IGNORECASE)
IMAGE_FOLDERS = ("images", "image")
MASK_FOLDERS = ("masks", "mask", "annotations", "labels")

Parts = tuple[str, ...]


def split_role(name: str) -> str | None:
    """What a folder, or the beginning of a file's name, is for if it is a split: "train2017" is for "train"."""
    match = SPLIT_NAME.fullmatch(name)
    return None if match is None else SPLIT_ROLES[match[1].lower()]


def find_splits(names: Sequence[str]) -> list[str]:
    """The names, among those of folders beside each other, that are splits; none if they may as well be classes.

    They are splits if they serve two purposes ("train" and "test"), or if there is nothing beside a single one.
    Prefixes are left aside where all have them: "seg_train", "seg_test".
    """
    found = [name for name in names if split_role(name)]
    if not found and len(names) > 1:
        ends = [re.split(r"[-_ ]", name)[-1] for name in names]
        found = list(names) if all(map(split_role, ends)) and len(set(map(split_role, ends))) > 1 else []
        return sorted(found)
    if len({split_role(name) for name in found}) > 1 or (found and len(names) == 1):
        return sorted(found)
    return []


def arrange(paths: Sequence[PurePath], split: str | None, where: str, account: Account) -> tuple[list[int], Labels]:
    """Which of the paths are opened, and their classes: take the folders of images for what they are.

    A single folder that holds all others has no meaning. Folders named as splits are splits: `split` chooses one, and
    a single one is opened. Then the uppermost folders are the classes, unless most images lie beside them. Images
    beside class folders have no label.

    Args:
        paths: of the images, relative to the folder or archive.
        split: the split to open, or None.
        where: the folder or archive, for messages.
        account: takes down what is not opened, and labels without a clear class.

    Raises:
        ValueError: there are several splits and none is chosen, or not the one chosen; or the folders hold images
            and masks.
    """
    parts = [tuple(part for part in path.parts if part != ".") for path in paths]
    rows, depth = list(range(len(parts))), 0
    while True:
        folders, loose = _at(parts, rows, depth)
        splits = find_splits(folders)
        if split is not None and split in folders and (split in splits or len(splits) == 0):
            rows, split = _choose(parts, rows, depth, split, account), None
            depth += 1
        elif splits and split is None and len(splits) == 1 and len(folders) == 1:
            account.notes.append(f"the only split, '{splits[0]}'")
            rows = _choose(parts, rows, depth, splits[0], account)
            depth += 1
        elif splits:
            raise ValueError(wrong_split(where, splits, split))
        elif len(folders) == 1 and len(loose) < len(rows) - len(loose) and _has_folders(parts, rows, depth + 1):
            depth += 1
        else:
            break
    rows = _split_below_classes(parts, rows, depth, split, where)
    return rows, _classes(parts, rows, depth, where, account)


def wrong_split(where: str, splits: Sequence[str], split: str | None) -> str:
    """The message about a split that is missing, or that does not exist."""
    if split is None:
        return f"'{where}' holds the splits {list(splits)}: choose one, as in split='{splits[0]}' (--split {splits[0]})"
    return f"no split '{split}' in '{where}': found {list(splits) or 'no splits'}"


def _at(parts: Sequence[Parts], rows: Sequence[int], depth: int) -> tuple[list[str], list[int]]:
    """The names of the folders at a depth, and the paths that end above them."""
    folders = sorted({parts[row][depth] for row in rows if len(parts[row]) > depth + 1})
    return folders, [row for row in rows if len(parts[row]) <= depth + 1]


def _has_folders(parts: Sequence[Parts], rows: Sequence[int], depth: int) -> bool:
    """Whether most of the images lie in folders at this depth."""
    return 2 * sum(len(parts[row]) > depth + 1 for row in rows) > len(rows)


def _choose(parts: Sequence[Parts], rows: Sequence[int], depth: int, split: str, account: Account) -> list[int]:
    chosen = [row for row in rows if len(parts[row]) > depth + 1 and parts[row][depth] == split]
    for row in rows:
        if len(parts[row]) <= depth + 1:
            account.pass_over("beside the splits", "/".join(parts[row]))
    return chosen


def _split_below_classes(
    parts: Sequence[Parts], rows: list[int], depth: int, split: str | None, where: str
) -> list[int]:
    """Choose the split where each class folder holds the splits: class/train, class/test."""
    below = [parts[row][depth + 1] for row in rows if len(parts[row]) > depth + 2]
    splits = find_splits(sorted(set(below))) if below else []
    if len(splits) < 2:
        if split is not None:
            raise ValueError(wrong_split(where, [], split))
        return rows
    if split not in splits:
        raise ValueError(wrong_split(where, splits, split))
    return [row for row in rows if len(parts[row]) > depth + 2 and parts[row][depth + 1] == split]


def _classes(parts: Sequence[Parts], rows: Sequence[int], depth: int, where: str, account: Account) -> Labels:
    folders, loose = _at(parts, rows, depth)
    if not folders:
        return NONE
    if any(name in IMAGE_FOLDERS for name in folders) and any(name in MASK_FOLDERS for name in folders):
        images = next(name for name in folders if name in IMAGE_FOLDERS)
        raise ValueError(
            f"'{where}' holds images and their masks ({', '.join(folders)}), which are no classes: open them as pairs, "
            f"or the folder '{images}' alone"
        )
    if loose and (len(folders) == 1 or 2 * len(loose) >= len(rows)):
        for row in sorted(set(rows) - set(loose)):
            account.drop("images lie beside the folders, which are thus no classes", "/".join(parts[row]))
        return NONE
    names, outside = sort_names(folders), set(loose)
    index = {name: label for label, name in enumerate(names)}
    for row in loose:
        account.drop("the image lies beside the class folders", "/".join(parts[row]))
    labels = [-1 if row in outside else index[parts[row][depth]] for row in rows]
    return Labels(np.array(labels, dtype=np.int64), names)
