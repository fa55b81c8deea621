"""Class names: which index they mean, and what is suggested where they mean none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from randar_features import Model, generate, load_model
from randar_features.generation.classes import find_class, nearest_names

NAMES = ["tabby, tabby cat", "fur coat", "Egyptian cat", "golden retriever", "sports car", "catamaran", "goldfish"]


def test_classes_by_index_name_or_one_of_several_names():
    names = ["tench, Tinca tinca", "cat", "n02088364 beagle", "crane"]
    wanted = ["3", "TINCA tinca", "tench", "Cat", "beagle", names[2]]
    assert [find_class(one, names, 4) for one in wanted] == [3, 0, 0, 1, 2, 2]


def test_a_number_that_names_a_class_means_that_name():
    assert [find_class(one, ["1", "2", "10"], 3) for one in ("1", "2", "10", "0")] == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("wanted", "names", "message"),
    [
        ("4", ["a", "b", "c", "d"], "class 4 is outside 0 … 3"),
        ("caat", ["cat", "dog", "bird", "fish"], "no class is named 'caat'; nearest: cat"),
        ("crane", ["crane", "cat", "crane", "dog"], "names the classes 0, 2"),
        ("cat", None, "have no names: give an index in 0 … 3"),
        ("violin", ["cat", "dog", "bird", "fish"], "no class is named 'violin'; .*--list-classes"),
    ],
)
def test_unknown_classes_are_refused(wanted: str, names: list[str] | None, message: str):
    with pytest.raises(ValueError, match=message):
        find_class(wanted, names, 4)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("cat", ["tabby, tabby cat", "Egyptian cat"]),
        ("Cats", ["tabby, tabby cat", "Egyptian cat"]),
        ("dog", ["golden retriever"]),
        ("car", ["sports car"]),
        ("fish", ["goldfish"]),
        ("golden retreiver", ["golden retriever"]),
        ("goldfsh", ["goldfish"]),
        ("violin", []),
    ],
)
def test_suggestions_share_a_word_or_a_kind_never_letters_alone(wanted: str, expected: list[str]):
    assert nearest_names(wanted, NAMES) == expected


def test_a_model_takes_the_names_of_its_classes():
    model = load_model("randar-tiny", device="cpu")
    assert model.classes is not None
    index = model.classes.index("golden retriever")
    expected = generate(model.transformer, [index, 3], steps=2, generator=0)
    assert torch.equal(generate(model, ["golden retriever", 3], steps=2, generator=0), expected)
    assert torch.equal(generate(model, "golden retriever", steps=2, generator=0), expected[:1])
    assert torch.equal(generate(model, torch.tensor([index, 3]), steps=2, generator=0), expected)
    for one in (torch.tensor(index), np.array(index)):  # without a dimension
        assert torch.equal(generate(model, one, steps=2, generator=0), expected[:1])
        assert torch.equal(generate(model.transformer, one, steps=2, generator=0), expected[:1])
    with pytest.raises(ValueError, match="no class is named 'cat'; nearest: Persian cat, Egyptian cat, tabby"):
        generate(model, "cat")
    for names in ("goldfish", ["goldfish"], np.array(["goldfish"])):
        with pytest.raises(ValueError, match="a transformer knows its classes by number"):
            generate(model.transformer, names)


@pytest.mark.parametrize("classes", [{1, 2}, {1: 0}])
def test_classes_without_an_order_are_refused(small_model: Model, classes: Any):
    with pytest.raises(ValueError, match=r"one integer an image; got {1"):
        generate(small_model, classes)


@pytest.mark.parametrize("classes", [b"ab", bytearray(b"ab")])
def test_bytes_are_no_class_numbers(small_model: Model, classes: Any):
    for model in (small_model, small_model.transformer):
        with pytest.raises(ValueError, match=r"one integer an image; got b"):
            generate(model, classes, steps=2)


def test_classes_without_names_have_none(small_model: Model):
    with pytest.raises(ValueError, match="have no names"):
        generate(small_model, "cat")
