from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import randar_features
from randar_features.data import open_images
from randar_features.generation import generate
from randar_features.hub import list_models
from randar_features.hub.registry import find_source, read_classes


@pytest.mark.parametrize("content", [["cat", "dog"], {"dog": 1, "cat": 0}])
def test_class_names_are_a_list_or_numbered(tmp_path: Path, content: Any):
    (tmp_path / "names.json").write_text(json.dumps(content))
    assert read_classes(tmp_path / "names.json", 2) == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"names\.json holds 2 class names, expected 3"):
        read_classes(tmp_path / "names.json", 3)


@pytest.mark.parametrize(
    "content",
    ["{", "7", '"cat"', "[1, 2]", '["cat", ""]', '{"cat": 0, "dog": 2}', '{"cat": true}', '{"0": "cat"}', "[]", "{}"],
)
def test_what_names_no_classes_is_refused_by_its_file(tmp_path: Path, content: str):
    (tmp_path / "names.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "names.json"))):
        read_classes(tmp_path / "names.json", 2)


def test_a_pipe_is_no_file_of_names(tmp_path: Path):
    os.mkfifo(tmp_path / "names.json")
    with pytest.raises(ValueError, match=r"names\.json is no regular file"):
        read_classes(tmp_path / "names.json")


def test_the_list_contains_models_by_name():
    models = list_models()
    assert "randar-tiny" in models and "randar-xl" in models and models[0] in models
    assert "randar-huge" not in models


def test_the_folder_of_a_run_stands_for_the_model_in_it(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"image_size": 8}')
    source = find_source(tmp_path)
    assert (source.name, source.config) == (str(tmp_path / "model"), {"image_size": 8})
    (tmp_path / "config.json").write_text('{"image_size": 16}')
    assert find_source(tmp_path).config == {"image_size": 16}


def test_names_that_are_imported_later_are_listed():
    assert {"data", "models", *randar_features.__all__} <= set(dir(randar_features))
    assert all(getattr(randar_features, name) is not None for name in randar_features.__all__)
    assert randar_features.generate is generate and randar_features.data.open_images is open_images
    with pytest.raises(AttributeError, match="generates"):
        _ = randar_features.generates
