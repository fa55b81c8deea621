"""Building: interrupted, gone on with, added to, refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from probes.index import (
    KINDS,
    Blocks,
    IndexFilesError,
    VectorIndex,
    blocks_of,
    build_index,
    choose_settings,
    rebatched,
)
from probes.index.build import _Builder
from tests.kill.__main__ import start
from tests.probes.index.clusters import DIM, FEATURES, build, clusters, small_settings

Interrupt = Callable[[int], None]


class EndedError(Exception):
    """Stands for whatever ends a building."""


@pytest.fixture
def end_at(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Have the next building end when it comes to a row."""
    add = _Builder.add

    def end_at(row: int) -> None:
        def add_or_end(self: _Builder, start: int, block: np.ndarray) -> None:
            if start >= row:
                raise EndedError
            add(self, start, block)

        monkeypatch.setattr(_Builder, "add", add_or_end)

    return end_at


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_gone_on_with_is_the_same_to_the_bit(tmp_path: Path, kind: str, end_at: Interrupt) -> None:
    rows = clusters(2100)
    rows[700] = np.nan
    options = {"settings": small_settings(kind, 2100, normalization="standardized"), "checkpoint_rows": 512}
    build(tmp_path / "whole", rows, kind, **options)
    for row, saved in ((0, 0), (300, 512), (1200, 1024), (2048, 2048)):
        end_at(row)
        with pytest.raises(EndedError):
            build(tmp_path / "parts", rows, kind, **options)
        assert json.loads((tmp_path / "parts" / "building.json").read_text())["rows"] == saved
        with pytest.raises(FileNotFoundError, match=r"not finished; build it again.*manifest.json is missing"):
            VectorIndex(tmp_path / "parts")
    end_at(9999)
    build(tmp_path / "parts", rows, kind, **options)
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    def work(_: Path, folder: Path) -> None:
        def blocks(size: int) -> Iterator[tuple[int, np.ndarray]]:
            for first, block in blocks_of(clusters())(size):
                if first >= 1024 and (folder / "index-000000000000.faiss").exists():
                    os.kill(os.getpid(), signal.SIGKILL)
                yield first, block

        settings = small_settings("ivfpq")
        build_index(blocks, 2000, folder, settings=settings, features=FEATURES, checkpoint_rows=2000)

    process = start(work, tmp_path, tmp_path / "killed")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    build(tmp_path / "killed", clusters(), "ivfpq")
    build(tmp_path / "whole", clusters(), "ivfpq")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["flat", "ivfpq"])
def test_rows_are_added_later(tmp_path: Path, kind: str) -> None:
    """With the lists and codes of the first rows; hnsw's graph depends on what was added together."""
    rows = clusters(2000)
    settings = small_settings(kind, 1500)
    build(tmp_path, rows[:1500], kind, settings=settings, columns={"path": [f"{row}.png" for row in range(1500)]})
    index = build(tmp_path, rows, kind, columns={"path": [f"{row}.png" for row in range(2000)]})
    assert index.settings == settings and index.rows == 2000
    assert index.search(rows[[3, 1700]], 1).ids[:, 0].tolist() == [3, 1700]
    assert index.columns["path"][1999].as_py() == "1999.png"
    names = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == len(names), "files of the smaller index are left"


def test_while_rows_are_added_the_index_stays_what_it_was(tmp_path: Path, end_at: Interrupt) -> None:
    rows = clusters(2000)
    options = {"settings": small_settings("ivfpq", 1000), "checkpoint_rows": 256}
    build(tmp_path, rows[:1000], "ivfpq", **options)
    end_at(1700)
    with pytest.raises(EndedError):
        build(tmp_path, rows, "ivfpq", **options)
    before = VectorIndex(tmp_path)
    assert len(before) == 1000 and before.search(rows[:1], 1).ids.tolist() == [[0]]
    end_at(9999)
    build(tmp_path, rows, "ivfpq", **options)
    assert VectorIndex(str(tmp_path)).search(rows[1999:], 1).ids.tolist() == [[1999]]


def test_a_finished_index_is_left_as_it_is(tmp_path: Path) -> None:
    build(tmp_path, clusters(), "hnsw")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.suffix == ".faiss"}
    build(tmp_path, clusters(), "hnsw")
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.suffix == ".faiss"}


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    rows = clusters(1000)
    build(tmp_path, rows, "flat")
    with pytest.raises(IndexFilesError, match=r"holds an index with kind 'flat', not 'hnsw': remove it"):
        build(tmp_path, rows, "hnsw")
    with pytest.raises(IndexFilesError, match=r"with encoder 'small', not 'other'"):
        build(tmp_path, rows, "flat", features={**FEATURES, "encoder": "other"})
    with pytest.raises(IndexFilesError, match="with 1000 rows, not 900"):
        build(tmp_path, rows[:900], "flat")
    with pytest.raises(IndexFilesError, match="holds other vectors"):
        build(tmp_path, clusters(1200, seed=1), "flat")
    changed = rows.copy()
    changed[700] = rows[3]
    with pytest.raises(IndexFilesError, match=r"holds other vectors.*512 to 767"):
        build(tmp_path, changed, "flat")
    changed[700] = np.nan
    with pytest.raises(IndexFilesError, match=r"holds other vectors.*512 to 767"):
        build(tmp_path, changed, "flat")


@pytest.mark.parametrize("name", ["index", "vectors", "normalization", "columns"])
def test_a_flipped_byte_is_named(tmp_path: Path, name: str) -> None:
    settings = small_settings("ivfpq", normalization="standardized")
    index = build(tmp_path, clusters(), "ivfpq", settings=settings)
    path = tmp_path / index.manifest["files"][name]["name"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IndexFilesError, match=rf"{path.name} has changed since it was written"):
        VectorIndex(tmp_path)
    path.write_bytes(content[:-1])
    with pytest.raises(IndexFilesError, match=rf"{path.name} has {len(content) - 1} bytes of {len(content)}"):
        VectorIndex(tmp_path)
    path.unlink()
    with pytest.raises(IndexFilesError, match=rf"{path.name} is missing"):
        VectorIndex(tmp_path)


def test_a_manifest_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no index"):
        VectorIndex(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(IndexFilesError, match=r"manifest.json is not valid JSON"):
        VectorIndex(tmp_path)
    (tmp_path / "manifest.json").write_text('{"shape": [3]}')
    with pytest.raises(IndexFilesError, match="no manifest of an index of format 2"):
        VectorIndex(tmp_path)


def ragged(rows: np.ndarray, sizes: list[int]) -> Blocks:
    def blocks(_: int) -> Iterator[tuple[int, np.ndarray]]:
        start = 0
        for size in sizes:
            yield start, rows[start : start + size]
            start += size

    return blocks


@pytest.mark.parametrize("first", [0, 10, 13])
def test_blocks_of_any_size_become_blocks_of_one(first: int) -> None:
    rows = clusters(40)
    settings = small_settings("flat", 40, block_rows=8)
    found = list(rebatched(ragged(rows, [3, 0, 20, 1, 16]), first, 40, settings))
    assert [start for start, _ in found] == list(range(first, 40, 8))
    assert {len(block) for _, block in found[:-1]} == {8}
    np.testing.assert_array_equal(np.concatenate([block for _, block in found]), rows[first:])


def test_blocks_that_leave_rows_out_are_refused() -> None:
    rows, settings = clusters(40), small_settings("flat", 40)

    def take(blocks: Blocks, count: int = 40) -> None:
        list(rebatched(blocks, 0, count, settings))

    with pytest.raises(ValueError, match="the blocks hold 40 rows, expected 50"):
        take(blocks_of(rows), 50)
    with pytest.raises(ValueError, match="the blocks hold 40 rows, expected 30"):
        take(blocks_of(rows), 30)
    with pytest.raises(ValueError, match="begins at row 3, expected row 0"):
        take(lambda size: [(3, rows)])
    with pytest.raises(ValueError, match=rf"must be floats \(b, {DIM}\), got int64"):
        take(lambda size: [(0, rows.astype(np.int64))])
    with pytest.raises(ValueError, match=r"got float32 \(40, 15\)"):
        take(lambda size: [(0, rows[:, 1:])])


def test_what_cannot_be_built_is_refused(tmp_path: Path) -> None:
    rows = clusters(300)
    with pytest.raises(ValueError, match="column path must have a value for each of 300 rows, got 2"):
        build(tmp_path / "a", rows, "flat", columns={"path": ["a", "b"]})
    with pytest.raises(ValueError, match="all 300 rows hold NaN"):
        build(tmp_path / "b", np.full_like(rows, np.nan), "flat")
    rows[10:] = np.nan
    with pytest.raises(ValueError, match="only 10 of 300 vectors to train on are free of NaN"):
        build(tmp_path / "c", rows, "ivfpq")


def test_numbers_beyond_float32_are_left_out(tmp_path: Path) -> None:
    rows = clusters(20).astype(np.float64)
    rows[3] *= 1e39
    assert build(tmp_path, rows, "flat").left_out == [3]


@pytest.mark.parametrize("kind", KINDS)
def test_every_seed_builds_an_index_that_can_be_opened(tmp_path: Path, kind: str) -> None:
    rows = clusters(300)
    for seed in (2**31, 2**63 - 1):
        build(tmp_path / str(seed), rows, kind, settings=small_settings(kind, 300, seed=seed))
        assert len(VectorIndex(tmp_path / str(seed))) == 300
    for wrong in ({"seed": 2**63}, {"seed": -1}, {"kind": "hnsw", "efConstruction": 2**31}):
        with pytest.raises(ValueError, match=str(list(wrong.values())[-1])):
            choose_settings(300, DIM, **wrong)  # type: ignore[arg-type]
