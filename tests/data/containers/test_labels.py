from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from randar_features.data import open_images
from randar_features.data.containers.account import Account
from randar_features.data.containers.labels import (
    LabelError,
    find_label,
    match_classes,
    one_label,
    read_labels,
    sort_names,
)

VECTOR = [0, 1]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (3, 3),
        (np.uint8(200), 200),
        (np.float32(2), 2),
        (True, 1),
        (np.bool_(False), 0),
        (torch.tensor([4]), 4),
        ([5], 5),
        (None, None),
        (-1, None),
        (float("nan"), None),
        (np.float32("nan"), None),
        (pd.NA, None),
        (pd.NaT, None),
    ],
)
def test_what_is_a_class(value: Any, label: int | None) -> None:
    assert one_label(value) == label


@pytest.mark.parametrize(
    ("value", "reason"),
    [(1.5, "no whole number"), ("cat", "text"), (VECTOR, "several numbers"), ({"boxes": []}, "dict")],
)
def test_what_is_no_class_is_named(value: Any, reason: str) -> None:
    with pytest.raises(LabelError, match=reason):
        one_label(value)


@pytest.mark.parametrize(
    ("values", "labels", "names"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([0.0, 2.0, None], [0, 2, -1], None),
        (["dog", "cat", "dog"], [1, 0, 1], ["cat", "dog"]),
        (["10", "9", None], [1, 0, -1], ["9", "10"]),
        (["dog", "", " ", "cat"], [1, -1, -1, 0], ["cat", "dog"]),
        (["dog", float("nan"), "cat"], [1, -1, 0], ["cat", "dog"]),
        (pd.Series(["dog", None, "cat"], dtype="string").tolist(), [1, -1, 0], ["cat", "dog"]),
        (pd.Series([2, None, 0], dtype="Int64").tolist(), [2, -1, 0], None),
        (np.array([b"dog", b"cat"]), [1, 0], ["cat", "dog"]),
        (np.eye(3)[[2, 0]], [2, 0], None),
        ([[0, 1], None, [1, 0]], [1, -1, 0], None),
        ([True, False], [1, 0], None),
    ],
)
def test_labels_of_a_whole_source(values: Any, labels: list[int], names: list[str] | None) -> None:
    account = Account()
    found = read_labels(values, None, account)
    assert found.values is not None and found.values.tolist() == labels
    assert found.names == names and not account.dropped


@pytest.mark.parametrize("values", [[0, 1.5], ["cat", 1], [[0, 1], [2], []], [[1, 1], [0, 1]], [{"boxes": []}]])
def test_labels_whose_meaning_is_unsure_are_dropped_by_name(values: Any) -> None:
    account = Account()
    assert read_labels(values, None, account).values is None
    assert sum(named.count for named in account.dropped.values()) == len(values)
    with pytest.warns(UserWarning, match="labels dropped"):
        account.tell()


def test_numbers_that_have_no_name_are_refused() -> None:
    with pytest.raises(ValueError, match="2 class names: a label is not below"):
        read_labels([1, 2], ["cat", "dog"], Account())


def test_a_column_of_labels_is_found_where_it_is_the_only_one() -> None:
    assert find_label(["image", "label", "target"]) == "label"
    assert find_label(["image", "species", "target"]) == "target"
    assert find_label(["x", "y"]) is None and find_label(["image", "y"]) == "y"
    with pytest.raises(LabelError, match="target, category"):
        find_label(["image", "category", "target"])


def test_numbers_are_in_their_order() -> None:
    assert sort_names({"10", "9", "0"}) == ["0", "9", "10"]
    assert sort_names({"b10", "b9"}) == ["b10", "b9"]


def test_classes_are_matched_by_name_never_by_position() -> None:
    model = ["tench, Tinca tinca", "crane", "golden_retriever", "crane, machine"]
    assert match_classes(["Golden Retriever", "tench"], model) == [2, 0]
    for names in (["crane"], ["0"], ["cat", "tench"]):
        with pytest.raises(ValueError, match=f"'{names[0]}'"):
            match_classes(names, model)
    with pytest.raises(ValueError, match="images come without class names"):
        match_classes(None, model)


def test_labels_of_pairs_are_dropped_together(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="labels dropped.*: 3"):
        source = open_images([(tmp_path / "a.png", label) for label in (1, "cat", 2)])
    with pytest.warns(UserWarning, match="nearly black"):
        batch = next(source.batches(4, 3))
    assert batch.labels == [None] * 3 and batch.paths == [str(tmp_path / "a.png")] * 3


def test_pairs_keep_their_labels(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path in paths:
        Image.new("RGB", (4, 4)).save(path)
    source = open_images(list(zip(paths, ["dog", "cat"], strict=True)))
    assert source.label_names == ["cat", "dog"]
    assert next(source.batches(4, 2)).labels == [1, 0]
    assert next(source.first(1).batches(4, 2)).labels == [1]
    assert next(source.take([1]).batches(4, 2)).labels == [0]
    assert source.account.classes == 2 and source.account.unlabelled == 0


def test_a_list_of_lists_is_refused() -> None:
    for images in ([["a.png", "b.png"], ["c.png"]], [[Image.new("RGB", (4, 4))] * 2]):
        with pytest.raises(ValueError, match=r"2 images: .*one list"):
            open_images(images)


@pytest.mark.parametrize("values", [np.array([2**40, 1]), np.array([2**63 + 5, 1], np.uint64), [2**40, 1]])
def test_numbers_too_large_for_a_class_are_dropped(values: Any):
    account = Account()
    assert read_labels(values, None, account).values is None
    assert "too large" in str(account.losses())
