"""Sizes of an index and the memory that it takes, computed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.index import IndexMemoryError, choose_settings, in_words, predict_memory, process_memory
from probes.index import memory as index_memory
from tests.probes.index.clusters import build, clusters

WORK = 2**27


def test_settings_follow_from_the_number_of_vectors() -> None:
    assert [choose_settings(n, 64).kind for n in (1, 50_000, 50_001, 300_000, 300_001)] == [
        "flat",
        "flat",
        "hnsw",
        "hnsw",
        "ivfpq",
    ]
    million = choose_settings(1_000_000, 256)
    assert (million.nlist, million.code_bytes, million.training_rows) == (2048, 64, 81920)
    small = choose_settings(3000, 10, kind="ivfpq")
    assert (small.nlist, small.code_bytes, small.training_rows) == (64, 2, 3000)
    assert choose_settings(5000, 7, kind="ivfpq").code_bytes == 1  # 7/4 rounded down
    assert choose_settings(5000, 3072, kind="ivfpq").code_bytes == 128
    assert choose_settings(100, 8, normalization="standardized").training_rows == 100


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of flat, hnsw, ivfpq, got 'tree'"):
        choose_settings(10, 8, kind="tree")
    with pytest.raises(ValueError, match="unit, standardized, whitened"):
        choose_settings(10, 8, normalization="white")
    with pytest.raises(ValueError, match=r"300 lists.*got 255.*nlist"):
        choose_settings(255, 8, kind="ivfpq", nlist=300)
    with pytest.raises(ValueError, match=r"components must be at most 8.*got 9"):
        choose_settings(255, 8, normalization="whitened", components=9)
    with pytest.raises(ValueError, match=r"components are for.*whitened.*got 3"):
        choose_settings(255, 8, components=3)
    with pytest.raises(ValueError, match="must divide the 10 numbers of a vector, got 3"):
        choose_settings(1000, 10, kind="ivfpq", code_bytes=3)
    with pytest.raises(ValueError, match="M must be at least 2"):
        choose_settings(10, 8, kind="hnsw", M=1)
    with pytest.raises(ValueError, match=r"at least 1.*'count': 0"):
        choose_settings(0, 8)


def test_memory_of_flat_by_hand() -> None:
    parts = predict_memory(choose_settings(1000, 16, kind="flat", block_rows=100), 1000)
    assert {name: size for name, size in parts.items() if size} == {
        "block": 4 * 100 * 16 * 4,
        "work": WORK,
        "vectors": 1000 * 16 * 4,
    }


def test_memory_of_hnsw_by_hand() -> None:
    settings = choose_settings(1000, 16, kind="hnsw", M=9, block_rows=100)
    # 18 links below and 9/8 above are 19.125, with 5 % to spare 20.08: 21 of 4 bytes.
    per_vector = 21 * 4 + 2 * (8 + 4) + 4 + 1
    parts = predict_memory(settings, 1000, existing=300)
    assert parts["links"] == 1000 * per_vector and parts["vectors"] == 1000 * 64
    assert parts["vectors read back"] == 300 * (64 + per_vector)


def test_memory_of_ivfpq_by_hand() -> None:
    settings = choose_settings(1_000_000, 256, kind="ivfpq")
    assert predict_memory(settings, 1_000_000) == {
        "training sample": 4 * 81920 * 1024,
        "block": 4 * 16384 * 1024,
        "work": WORK,
        "codes and ids": 2 * 1_000_000 * (64 + 8),
        "centroids": (2048 + 256) * 1024,
        "distances to codes": 1024 * 256 * 64 * 4,
    }


def test_too_little_memory_is_said_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_memory, "process_memory", lambda: 50_000_000)
    limit = 50_000_000 + 1000
    with pytest.raises(IndexMemoryError, match=r"flat index of 2000 vectors of 16 numbers needs 184.4 MB") as error:
        build(tmp_path / "index", clusters(), "flat", memory_limit=limit)
    needed = 50_000_000 + WORK + 4 * 256 * 64 + 2000 * 64
    assert f"({needed} bytes: this process now 50.0 MB, block 65.5 kB, work 134.2 MB, vectors 128.0 kB)" in str(
        error.value
    )
    assert "the limit is 50.0 MB" in str(error.value) and {path.name for path in (tmp_path / "index").iterdir()} <= {
        ".lock"
    }
    build(tmp_path / "index", clusters(), "flat", memory_limit=needed)


def test_a_kind_that_fits_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_memory, "process_memory", lambda: 0)
    with pytest.raises(IndexMemoryError, match=r"Choose ivfpq, which needs 750\.3 MB"):
        index_memory.require_memory(choose_settings(1_000_000, 256, kind="flat"), 1_000_000, 10**9)
    with pytest.raises(IndexMemoryError, match="Raise the limit"):
        index_memory.require_memory(choose_settings(1_000_000, 256, kind="flat"), 1_000_000, 10**8)


def test_the_limit_is_what_the_machine_has_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = choose_settings(1000, 16)
    assert index_memory.require_memory(settings, 1000) > process_memory() > 10**7
    monkeypatch.setattr(index_memory, "available_memory", lambda: 10**6)
    with pytest.raises(IndexMemoryError, match="the limit is"):
        index_memory.require_memory(settings, 1000)


def test_bytes_in_words() -> None:
    assert [in_words(n) for n in (999, 1234, 5_600_000, 7_890_000_000)] == ["999 bytes", "1.2 kB", "5.6 MB", "7.9 GB"]
