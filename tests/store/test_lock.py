from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from randar_features.store.lock import FolderLockedError, locked

HOLD = """
import sys
from pathlib import Path
from randar_features.store.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(FolderLockedError, match=rf"{tmp_path} .*process {holder.pid} on"), locked(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with locked(tmp_path):  # a lock dies with its process
        pass


def test_ranks_of_one_job_go_together(tmp_path: Path):
    with locked(tmp_path), locked(tmp_path, rank=1):
        with pytest.raises(FolderLockedError), locked(tmp_path):
            pass
        with pytest.raises(FolderLockedError), locked(tmp_path, rank=1):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".lock-1"]


def test_it_is_free_again_after_an_error(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        _ = 1 / 0
    with locked(tmp_path):
        pass


def test_what_a_kill_left_of_the_owners_name_goes(tmp_path: Path):
    left, of_another_rank = tmp_path / ".lock-owner.123.writing", tmp_path / ".lock-1-owner.124.writing"
    left.touch()
    of_another_rank.touch()
    with locked(tmp_path):
        assert not left.exists() and of_another_rank.exists()
