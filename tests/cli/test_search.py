"""What `randar search` refuses before an index is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from randar_features.cli.search import SearchOptions


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "--rows"),
        ({"images": ("a.png",), "numbers": (1,)}, "--images"),
        ({"numbers": (1,), "encoder": "randar-tiny"}, "--model"),
        ({"numbers": (1,), "data": "photos.parquet"}, "--grid"),
        ({"numbers": (1,), "split": "train"}, "--grid"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SearchOptions(index=Path("index"), **options)


def test_options_that_go_together_are_taken() -> None:
    SearchOptions(index=Path("index"), images=("a.png",), encoder="moved", data="photos.parquet", grid=Path("a.png"))
