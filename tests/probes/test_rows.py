from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from probes.rows import BLOCK_ROWS, JoinedRows, Rows, SelectedRows, StackedRows, TensorRows, as_rows, sharded_rows

VALUES = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
SHARDS = [VALUES[:20], VALUES[20:23], VALUES[23:]]


def read(rows: Rows, numbers: list[int]) -> np.ndarray:
    return rows.read(np.array(numbers)).numpy()


@pytest.mark.parametrize("numbers", [[49, 0, 22, 21, 0], [20], [23, 22, 19], list(range(50))])
def test_shards_read_as_one_array_in_the_order_asked_for(numbers: list[int]) -> None:
    rows = sharded_rows(SHARDS)
    assert rows.shape == (50, 3)
    np.testing.assert_array_equal(read(rows, numbers), VALUES[numbers])


def test_blocks_are_all_rows_in_order() -> None:
    for rows in (sharded_rows(SHARDS), TensorRows(torch.from_numpy(VALUES))):
        found = list(rows.blocks(7))
        assert [place.start for place, _ in found] == list(range(0, 50, 7))
        np.testing.assert_array_equal(torch.cat([block for _, block in found]).numpy(), VALUES)
    assert len(list(rows.blocks())) == 1 < BLOCK_ROWS


def test_chosen_joined_and_stacked_rows() -> None:
    rows = sharded_rows(SHARDS)
    chosen = SelectedRows(rows, np.array([40, 2, 21]))
    assert chosen.shape == (3, 3)
    np.testing.assert_array_equal(read(chosen, [2, 0]), VALUES[[21, 40]])
    joined = JoinedRows([rows, TensorRows(torch.from_numpy(VALUES[:, :2]))])
    assert joined.shape == (50, 5)
    np.testing.assert_array_equal(read(joined, [30, 1]), np.concatenate([VALUES, VALUES[:, :2]], 1)[[30, 1]])
    stacked = StackedRows([chosen, rows])
    assert stacked.shape == (53, 3)
    np.testing.assert_array_equal(read(stacked, [3, 1, 52]), VALUES[[0, 2, 49]])
    with pytest.raises(ValueError, match=r"of one shape .*\(3,\), \(5,\)"):
        StackedRows([rows, joined])
    with pytest.raises(ValueError, match=r"of one shape .*\(3,\), \(50,\)"):
        JoinedRows([chosen, rows])


def test_memory_maps_are_read_in_their_precision_and_checked_when_read(tmp_path: Path) -> None:
    broken = VALUES.astype(np.float16)
    broken[22, 1] = np.nan
    for number, shard in enumerate(np.split(broken, [20, 23])):
        np.save(tmp_path / f"{number}.npy", shard)
    rows = sharded_rows([np.load(tmp_path / f"{number}.npy", mmap_mode="r") for number in range(3)])
    assert rows.read(np.array([21])).dtype == torch.float16
    with pytest.raises(ValueError, match="row 22 holds NaN"):
        rows.read(np.array([30, 22]))
    with pytest.raises(ValueError, match="row 22 holds NaN"):
        list(SelectedRows(rows, np.arange(10, 30)).blocks())


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"maps must have shape \(n, T, D\) and not be empty, got \(50, 3\)"):
        as_rows(sharded_rows(SHARDS), "maps", "(n, T, D)", 3)
    with pytest.raises(ValueError, match=r"features must have shape \(n, 4\) as in fit, got \(50, 3\)"):
        as_rows(VALUES, "features", "(n, 4)", 2, 4)
