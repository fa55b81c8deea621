from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from probes import rank_all, retrieval, search


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


def brute_force(queries: np.ndarray, gallery: np.ndarray, k: int, exclude: np.ndarray | None) -> np.ndarray:
    """Each pair on its own in float64, then sorted by similarity and row."""
    found = []
    for row, query in enumerate(unit(queries)):
        pairs = [(-round(float(query @ item), 10), number) for number, item in enumerate(unit(gallery))]
        banned = -1 if exclude is None else exclude[row]
        found.append([number for _, number in sorted(pairs) if number != banned][:k])
    return np.array(found)


def random_rows(rows: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width), dtype=np.float32)


def test_equals_brute_force_with_and_without_exclusion() -> None:
    gallery = random_rows(300, 16, 0)
    queries = gallery[:40] * 3
    for exclude in (None, np.arange(40)):
        ids, similarities = search(queries, gallery, 25, exclude)
        np.testing.assert_array_equal(ids, brute_force(queries, gallery, 25, exclude))
        expected = np.take_along_axis(unit(queries) @ unit(gallery).T, ids, 1)
        np.testing.assert_allclose(similarities, expected, atol=1e-6)


def test_equals_faiss() -> None:
    gallery, queries = random_rows(5000, 64, 0), random_rows(200, 64, 1)
    index = faiss.IndexFlatIP(64)
    index.add(unit(gallery).astype(np.float32))
    expected_similarities, expected_ids = index.search(unit(queries).astype(np.float32), 10)
    ids, similarities = search(queries, gallery, 10)
    np.testing.assert_allclose(similarities, expected_similarities, atol=1e-6)
    np.testing.assert_array_equal(ids, expected_ids)


def test_duplicates_rank_by_lowest_row() -> None:
    """Every gallery vector 50 times, so that ties run far past k: only the lowest rows may come back."""
    originals = random_rows(7, 32, 0)
    gallery = np.tile(originals, (50, 1))
    ids, _ = search(originals, gallery, 4)
    np.testing.assert_array_equal(ids, np.arange(7)[:, None] + 7 * np.arange(4))


def test_whole_rankings_do_not_depend_on_how_many_queries_are_given_at_once() -> None:
    """Small integers of both signs: many cosines are equal, and many 0 but for the rounding of their sums."""
    generator = np.random.default_rng(0)
    gallery, queries = (generator.integers(-2, 3, (rows, 12)).astype(np.float32) for rows in (200, 20))
    ids = rank_all(queries, gallery).ids
    np.testing.assert_array_equal(ids, np.concatenate([rank_all(query[None], gallery).ids for query in queries]))
    orthogonal = [row[(gallery @ query == 0)[row]] for row, query in zip(ids, queries, strict=True)]
    assert all((np.diff(row) > 0).all() for row in orthogonal)


def test_identical_features_come_back_in_row_order() -> None:
    gallery = np.ones((200, 5), np.float32)
    ids, similarities = search(gallery[:3], gallery, 30, exclude=[0, 5, -1])
    assert ids[0].tolist() == list(range(1, 31))
    assert ids[1].tolist() == [*range(5), *range(6, 31)]
    assert ids[2].tolist() == list(range(30))
    np.testing.assert_allclose(similarities, 1, atol=1e-6)


def test_rows_of_zeros_have_cosine_zero() -> None:
    gallery = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]], np.float32)
    ids, similarities = search(gallery[:1], gallery, 3)
    assert ids.tolist() == [[0, 1, 2]]
    assert similarities.tolist() == [[1, 0, -1]]


def test_block_sizes_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = np.round(random_rows(400, 8, 0))  # small integers: many exact ties
    queries = np.round(random_rows(50, 8, 1)) + 0.5
    expected = search(queries, gallery, 60)
    monkeypatch.setattr(retrieval, "_QUERY_ROWS", 7)
    monkeypatch.setattr(retrieval, "_GALLERY_ROWS", 33)
    monkeypatch.setattr(retrieval, "_CANDIDATE_VALUES", 1000)
    found = search(queries, gallery, 60)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-6)
    one_by_one = np.concatenate([search(queries[i : i + 1], gallery, 60).ids for i in range(50)])
    np.testing.assert_array_equal(one_by_one, expected.ids)


def test_memory_mapped_half_precision_gallery(tmp_path: Path) -> None:
    gallery = random_rows(500, 16, 0).astype(np.float16)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    ids, _ = search(mapped[:10], mapped, 5)
    np.testing.assert_array_equal(ids, search(gallery[:10].astype(np.float32), gallery.astype(np.float32), 5).ids)
    np.testing.assert_array_equal(ids[:, 0], np.arange(10))


def test_bad_requests_are_refused() -> None:
    gallery = random_rows(10, 4, 0)
    with pytest.raises(ValueError, match=r"1 … 10, the gallery rows that can be found, got 11"):
        search(gallery, gallery, 11)
    with pytest.raises(ValueError, match=r"1 … 9, .*got 10"):
        search(gallery, gallery, 10, exclude=np.arange(10))
    with pytest.raises(ValueError, match=r"queries must have shape \(n, 4\).*\(10, 3\)"):
        search(gallery[:, :3], gallery, 1)
    with pytest.raises(ValueError, match=r"exclude must have shape \(10,\), got \(9,\)"):
        search(gallery, gallery, 1, exclude=np.arange(9))
    with pytest.raises(ValueError, match=r"exclude must be rows 0 … 9, or -1"):
        search(gallery, gallery, 1, exclude=np.arange(1, 11))
    with pytest.raises(ValueError, match="gallery: row 3 of 10 holds NaN"):
        broken = gallery.copy()
        broken[3] = np.nan
        search(gallery, broken, 1)


def test_the_whole_ranking_equals_search(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, queries = np.tile(random_rows(100, 16, 0), (4, 1)), random_rows(50, 16, 1)
    monkeypatch.setattr(retrieval, "_DOUBLE_ROWS", 33)
    found, expected = rank_all(queries, gallery), search(queries, gallery, 400)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-6)
    own = np.arange(50)
    np.testing.assert_array_equal(rank_all(gallery[:50], gallery, own).ids, search(gallery[:50], gallery, 399, own).ids)
    multiples = np.array([[2.0, 4.0], [1.0, 1.0], [1.0, 2.0], [3.0, 6.0]], np.float32)
    assert rank_all(multiples[1:2], multiples).ids.tolist() == [[1, 0, 2, 3]]
    with pytest.raises(ValueError, match="for every query or for none"):
        rank_all(gallery[:2], gallery, [0, -1])


def test_lengths_do_not_matter() -> None:
    rows = random_rows(20, 8, 0)
    for scale in (1e-25, 1e-20, 1e15):
        scaled = rows * np.float32(scale)
        np.testing.assert_allclose(rank_all(scaled, rows).similarities, rank_all(rows, rows).similarities, atol=1e-6)
        np.testing.assert_allclose(search(scaled, rows, 20).similarities, rank_all(rows, rows).similarities, atol=1e-6)


def test_arrays_that_pytorch_does_not_share() -> None:
    rows = random_rows(20, 8, 0)
    for given in (rows[::-1][::-1], rows.astype(">f4"), np.asfortranarray(rows)):
        np.testing.assert_array_equal(search(given, rows, 5).ids, search(rows, rows, 5).ids)


@pytest.mark.cuda
def test_cuda_equals_cpu() -> None:
    gallery, queries = np.round(2 * random_rows(3000, 16, 0)), random_rows(100, 16, 1)
    expected = search(queries, gallery, 20)
    for found in (
        search(queries, gallery, 20, device="cuda"),
        search(torch.from_numpy(queries).cuda(), torch.from_numpy(gallery).cuda(), 20),
    ):
        np.testing.assert_array_equal(found.ids, expected.ids)
