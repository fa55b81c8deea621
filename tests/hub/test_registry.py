from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from randar_features.hub.registry import read_classes


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
