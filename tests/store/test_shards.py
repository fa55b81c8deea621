"""Files of a store."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from randar_features.store.records import Record
from randar_features.store.shards import find_shards, write_shard


def test_shards_in_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_shard(folder, 0, {"pixels": np.arange(6).reshape(2, 3)}, [Record(None, -1, "")] * 2, ["ok"] * 2)
    (shard,) = find_shards(folder)
    np.testing.assert_array_equal(shard.column("pixels"), [[0, 1, 2], [3, 4, 5]])
