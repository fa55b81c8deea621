"""What an index finds, beside exact search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from probes import search
from probes.index import KINDS, VectorIndex
from probes.transforms import Standardizer
from tests.probes.index.clusters import DIM, build, clusters, small_settings


def share_found(found: np.ndarray, exact: np.ndarray) -> float:
    return float((found[:, :, None] == exact[:, None]).any(1).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_finds_what_exact_search_finds(tmp_path: Path, kind: str) -> None:
    rows, queries = clusters(), clusters(100, seed=1)
    index = build(tmp_path, rows, kind)
    exact = search(queries, rows, 10)
    found = index.search(queries * 3, 10)
    if kind == "flat":
        np.testing.assert_array_equal(found.ids, exact.ids)
    assert share_found(found.ids, exact.ids) > 0.97
    same = found.ids == exact.ids
    # Half precision: a relative error of 2^-11 in each number.
    np.testing.assert_allclose(found.similarities[same], exact.similarities[same], atol=5e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_more_effort_finds_everything(tmp_path: Path, kind: str) -> None:
    rows, queries = clusters(), clusters(50, seed=1)
    index = build(tmp_path, rows, kind)
    most = {"flat": {}, "hnsw": {"efSearch": 1000}, "ivfpq": {"nprobe": 16, "candidates": 1000}}
    effort = {name: np.int64(value) for name, value in most[kind].items()}  # as a sweep over an array gives them
    found = index.search(queries, np.int64(5), **effort)
    # Rows kept in half precision change places where they are a ten thousandth apart.
    assert share_found(found.ids, search(queries, rows, 5).ids) >= (0.98 if kind == "ivfpq" else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_query_is_left_out_by_its_id(tmp_path: Path, kind: str) -> None:
    rows = clusters()
    rows[1500] = rows[3]  # found first for row 3, and row 3 for it
    index = build(tmp_path, rows, kind)
    own = np.array([3, 1500, 10])
    found = index.search_rows(own, 5)
    assert found.ids[0, 0] == 1500 and found.ids[1, 0] == 3
    assert not (found.ids == own[:, None]).any()
    np.testing.assert_array_equal(found.ids, index.search(rows[own], 5, exclude=own).ids)
    assert index.search(rows[own], 5).ids[:, 0].tolist() == [3, 3, 10]
    assert index.search(rows[own], 5, exclude=[3, -1, -1]).ids[:, 0].tolist() == [1500, 3, 10]


@pytest.mark.parametrize("kind", KINDS)
def test_ties_break_by_lowest_id_however_many_there_are(tmp_path: Path, kind: str) -> None:
    """300 copies of one row, more than any kind looks at by default: the lowest ids must come back."""
    rows = clusters()
    copies = np.random.default_rng(5).choice(2000, 300, replace=False)
    rows[copies] = rows[copies[0]]
    index = build(tmp_path, rows, kind)
    found = index.search(rows[copies[:2]], 7)
    np.testing.assert_array_equal(found.ids, np.tile(np.sort(copies)[:7], (2, 1)))
    np.testing.assert_array_equal(index.search(rows[copies[:1]], 300).ids[0], np.sort(copies))


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_can_be_asked_for(tmp_path: Path, kind: str) -> None:
    """k = all: lists that were not looked into and parts that no walk reaches are looked at too."""
    rows = clusters(600)
    index = build(tmp_path, rows, kind)
    found = index.search(rows[:3], 600, **({"nprobe": 1} if kind == "ivfpq" else {}))
    assert np.sort(found.ids, axis=1).tolist() == [list(range(600))] * 3
    assert (np.diff(found.similarities, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_with_nan_are_never_found_and_shift_no_id(tmp_path: Path, kind: str) -> None:
    rows = clusters()
    bad = [0, 5, 255, 256, 1999]
    rows[bad] = np.nan
    rows[300, 4] = np.inf
    index = build(tmp_path, rows, kind)
    assert index.left_out == [0, 5, 255, 256, 300, 1999] and len(index) == 1994 and index.rows == 2000
    assert index.search(rows[[1, 301, 1998]], 1).ids[:, 0].tolist() == [1, 301, 1998]
    with pytest.raises(IndexError, match="row 300 is not in the index"):
        index.search_rows([1, 300], 3)
    with pytest.raises(ValueError, match=r"queries: row 0 of 1 holds NaN"):
        index.search(rows[:1], 3)


def test_standardized_by_the_sample(tmp_path: Path) -> None:
    """A feature a thousand times larger than the others hides them, unless it is scaled."""
    rows = clusters()
    rows[:, 0] = 1000 * rows[:, 0] + 5000
    settings = small_settings("flat", normalization="standardized", training_rows=2000)
    index = build(tmp_path, rows, "flat", settings=settings)
    plain = Standardizer().fit(rows).transform(rows)
    np.testing.assert_array_equal(index.search(rows[:20], 10).ids, search(plain[:20], plain, 10).ids)
    np.testing.assert_array_equal(index.search_rows(np.arange(20), 9).ids, index.search(rows[:20], 10).ids[:, 1:])


def test_an_index_tells_what_it_holds(tmp_path: Path) -> None:
    rows = clusters()
    columns = {"path": [f"{row}.png" for row in range(2000)], "label": ["cat", None] * 1000}
    index = build(tmp_path, rows, "ivfpq", columns=columns)
    assert index.columns.slice(3, 1).to_pylist() == [{"row": 3, "path": "3.png", "label": None}]
    expected = torch.nn.functional.normalize(torch.from_numpy(rows[[7, 3]]))
    torch.testing.assert_close(index.vectors([7, 3]), expected, atol=3e-4, rtol=0)
    # Codes of 4 bytes and ids of 8; centroids and tables beside them; vectors of 16 halves on disk.
    memory, disk = index.bytes_per_vector["memory"], index.bytes_per_vector["disk"]
    assert 12 < memory < 30 and disk == memory + 32
    assert repr(index).startswith("VectorIndex(ivfpq, 2000 vectors of 16 numbers")


def test_bad_queries_are_refused(tmp_path: Path) -> None:
    index = build(tmp_path, clusters(500), "flat")
    queries = clusters(3)
    with pytest.raises(ValueError, match=rf"queries must have shape \(n, {DIM}\).*\(3, 9\)"):
        index.search(queries[:, :9], 1)
    with pytest.raises(ValueError, match="1 … 500, the rows that can be found, got 501"):
        index.search(queries, 501)
    with pytest.raises(ValueError, match=r"1 … 499, .* got 500"):
        index.search(queries, 500, exclude=[4, -1, -1])
    with pytest.raises(ValueError, match=r"exclude must be rows 0 … 499, or -1"):
        index.search(queries, 5, exclude=[500, 0, 0])
    for k in (2.0, True, "2", None):
        with pytest.raises(TypeError, match=f"k must be an integer, got {k!r}"):
            index.search(queries, k)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"nprobe must be an integer, got 2\.5"):
        build(tmp_path / "lists", clusters(500), "ivfpq").search(queries, 1, nprobe=2.5)  # type: ignore[arg-type]


def test_features_of_another_encoder_are_refused(tmp_path: Path) -> None:
    features = build(tmp_path, clusters(300), "flat").features
    VectorIndex(tmp_path, features={**features, "data": "other images"})
    with pytest.raises(ValueError, match=r"encoder 'small', not 'pixels'; pooling 'mean', not 'max'"):
        VectorIndex(tmp_path, features={**features, "encoder": "pixels", "pooling": "max"})
    with pytest.raises(ValueError, match="weights 'abc', not None"):
        VectorIndex(tmp_path, features={name: value for name, value in features.items() if name != "weights"})
