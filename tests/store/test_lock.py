from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from randar_features.store.lock import FolderLockedError, is_locked, locked


def hold(folder: Path, held: Connection) -> None:
    with locked(folder):
        held.send(True)
        time.sleep(600)


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path):
    context = multiprocessing.get_context("fork")  # a new process would import PyTorch first
    here, there = context.Pipe()
    holder = context.Process(target=hold, args=(tmp_path, there))
    holder.start()
    assert here.recv()
    with pytest.raises(FolderLockedError, match=rf"{tmp_path} .*process {holder.pid} on"), locked(tmp_path):
        pass
    holder.kill()
    holder.join()
    with locked(tmp_path):  # a lock dies with its process
        pass


def test_ranks_of_one_job_go_together(tmp_path: Path):
    with locked(tmp_path, rank=0), locked(tmp_path, rank=1):
        with pytest.raises(FolderLockedError), locked(tmp_path, rank=0):
            pass
        with pytest.raises(FolderLockedError), locked(tmp_path, rank=1):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".lock-1"]


def test_a_process_that_is_alone_goes_with_no_rank(tmp_path: Path):
    """Rank 0 of a job may have made its shards while rank 1 is still at work."""
    with locked(tmp_path, rank=1):
        with pytest.raises(FolderLockedError, match=f"process {os.getpid()} on"), locked(tmp_path):
            pass
        assert is_locked(tmp_path, 2) and not is_locked(tmp_path, 1)
    with locked(tmp_path):  # the file of the lock stays
        assert is_locked(tmp_path, 1)


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
