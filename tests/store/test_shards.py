"""Files of a store."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from randar_features.store import shards
from randar_features.store.records import Record
from randar_features.store.shards import Shard, find_shards, write_shard
from randar_features.store.state import intact_shards


def write_rows(folder: Path, first: int, pixels: np.ndarray) -> Shard:
    return write_shard(folder, first, {"pixels": pixels}, [Record(None, -1, "")] * len(pixels), ["ok"] * len(pixels))


def test_shards_in_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_rows(folder, 0, np.arange(6).reshape(2, 3))
    (shard,) = find_shards(folder)
    np.testing.assert_array_equal(shard.column("pixels"), [[0, 1, 2], [3, 4, 5]])


def test_a_shard_that_another_process_writes_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write_rows(tmp_path, 0, np.zeros((2, 3)))
    os.utime(old.path, (0, 0))
    new = write_rows(tmp_path, 0, np.ones((2, 3)))
    age = shards._age

    def meanwhile(path: Path) -> tuple[int, str]:
        write_rows(tmp_path, 2, np.ones((2, 3)))
        return age(path)

    monkeypatch.setattr(shards, "_age", meanwhile)
    (found,) = intact_shards(tmp_path)
    assert found.path == new.path
    assert [shard.rows.start for shard in find_shards(tmp_path)] == [0, 2] and not old.path.exists()


def test_a_shard_that_another_process_has_made_again_is_not_called_damaged(tmp_path: Path) -> None:
    shard = write_rows(tmp_path, 0, np.zeros((2, 3)))
    shard.path.unlink()
    for read in (shard.check_ends, shard.verify):
        with pytest.raises(ValueError, match=f"{shard.path} is gone.* open the store again"):
            read()
