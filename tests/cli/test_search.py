"""What `randar search` refuses before an index is opened, and the file that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from randar_features.cli.search import SearchOptions, write_csv


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "--numbers"),
        ({"images": ("a.png",), "numbers": (1,)}, "--images"),
        ({"numbers": (1,), "encoder": "randar-tiny"}, "--encoder"),
        ({"numbers": (1,), "data": "photos.parquet"}, "--grid"),
        ({"numbers": (1,), "split": "train"}, "--grid"),
        ({"numbers": (1,), "csv": Path("a.txt"), "json": Path("a.txt")}, "different names"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SearchOptions(index=Path("index"), **options)


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder"):
        SearchOptions(index=Path("index"), numbers=(1,), csv=tmp_path)


def test_options_that_go_together_are_taken() -> None:
    SearchOptions(index=Path("index"), images=("a.png",), encoder="moved", data="photos.parquet", grid=Path("a.png"))


def test_a_csv_file_is_written_whole_or_stays(tmp_path: Path) -> None:
    query, found = {"path": "a.png", "row": 0}, {"rank": 1, "similarity": 0.5, "row": 1, "label": "cat"}
    good = [{"query": query, "found": [found | {"path": "caf\udce9.png"}]}]
    write_csv(tmp_path / "new" / "a.csv", good)
    before = (tmp_path / "new" / "a.csv").read_bytes()
    assert before.splitlines()[1] == b"a.png,0,1,0.5,1,cat,caf\xe9.png"
    with pytest.raises(KeyError):
        write_csv(tmp_path / "new" / "a.csv", [*good, {"query": query, "found": [found]}])
    assert (tmp_path / "new" / "a.csv").read_bytes() == before
