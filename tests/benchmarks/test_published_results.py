"""What is published: every figure with an interval is in a result file, and every table has its baselines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import benchmarks
from benchmarks.result import CARD_ENTRIES
from randar_features.store.files import read_json

ROOT = Path(benchmarks.__file__).parent
RESULTS = ROOT / "results"
FILES = sorted(RESULTS.glob("**/result.json"))
PAGES = {"README.md": ROOT.parent / "README.md", "benchmarks/README.md": ROOT / "README.md"}
PAGES |= {path.parent.name: path for path in ROOT.parent.glob("randar_features/assets/*/README.md")}

BASELINES = {"pixels", "codes", "latents", "timm:resnet18?random@64", "efficientnet-lite0@64", "randar-tiny?random"}
TABLES = (
    "cifar10-25000",
    "cifar10-6000",
    "photo-digits",
    "retrieval",
    "camvid",
    "camvid-128",
    "photographs",
    "photographs-tiles",
)

Figure = tuple[str, str, str]


def entries(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a JSON value."""
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from entries(each)
    if isinstance(value, dict):
        yield value


def figures_of(entry: dict[str, Any]) -> Iterator[Figure]:
    """Each number of an entry with each of its intervals, as texts write them: as it is, or in per cent."""
    numbers = [value for value in entry.values() if isinstance(value, float)]
    for name, interval in entry.items():
        if name.endswith("interval") and isinstance(interval, list):
            for number in numbers:
                for scale in (1, 100):
                    for digits in (1, 2, 3):
                        yield tuple(f"{value * scale:.{digits}f}" for value in (number, *interval))  # type: ignore[misc]


@pytest.fixture(scope="module")
def measured() -> set[Figure]:
    files = [*FILES, *RESULTS.glob("**/differences.json")]
    return {figure for file in files for entry in entries(read_json(file)) for figure in figures_of(entry)}


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_with_an_interval_was_measured(page: str, measured: set[Figure]):
    text = re.sub(r"\s+", " ", PAGES[page].read_text(encoding="utf-8")).replace("−", "-").replace("+", "")
    written = re.findall(r"(-?\d+\.\d+)(?: %)? \((-?\d+\.\d+) … (-?\d+\.\d+)[);]", text)
    assert [figure for figure in written if figure not in measured] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.parent.relative_to(RESULTS)))
def test_every_result_has_a_card(file: Path):
    card = read_json(file)["card"]
    assert card.keys() >= CARD_ENTRIES | {"task", "config"}
    assert card["machine"].keys() >= {"processor", "torch", "commit"}


def test_no_result_without_a_card():
    known = {"result.json", "differences.json"}
    assert [file for file in RESULTS.glob("**/*.json") if file.name not in known] == []


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_its_baselines(table: str):
    found = {row["encoder"] for file in RESULTS.glob(f"{table}/**/result.json") for row in read_json(file)["results"]}
    assert found >= BASELINES | {"randar-tiny"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.parent.relative_to(RESULTS)))
def test_every_picture_of_a_result_is_there(file: Path):
    assert [name for name in read_json(file)["artifacts"].values() if not (file.parent / name).exists()] == []
