from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from randar_features import FeatureStore
from randar_features.data import open_images
from randar_features.features import store as feature_store
from randar_features.features.store import EncodedImages
from randar_features.store import writer
from randar_features.store.lock import locked
from randar_features.store.shards import find_shards
from randar_features.store.state import OtherImagesError
from tests.features.stores import (
    ROWS,
    Interrupted,
    Stream,
    content,
    contents,
    encode,
    expected,
    flip,
    interrupted_after,
    pictures,
    save,
    write,
)


def test_append_keeps_the_rows(tmp_path: Path):
    images = pictures(9)
    write(save(images[:5], tmp_path / "images"), tmp_path / "store")
    before = contents(tmp_path / "store")
    store = write(save(images[5:], tmp_path / "images", first=5), tmp_path / "store", append=True)
    assert len(store) == 9
    np.testing.assert_array_equal(store.array("corner"), expected(images)["corner"])
    assert [Path(str(path)).name for path in store.paths] == [f"{number:02d}.png" for number in range(9)]
    assert [part["first"] for part in store.manifest["parts"]] == [0, 5]
    after = contents(tmp_path / "store")
    assert all(after[name] == data for name, data in before.items() if name != "manifest.json")
    write(tmp_path / "images", tmp_path / "store", append=True, encode=interrupted_after(0))
    assert contents(tmp_path / "store") == after
    with pytest.raises(ValueError, match="made of other images: 9 of test, now 3"):
        write(images[:3], tmp_path / "store")


def test_an_append_that_was_interrupted_goes_on(tmp_path: Path):
    images = pictures(12)
    write(images[:4], tmp_path / "parts")
    with pytest.raises(Interrupted):
        write(images[4:], tmp_path / "parts", append=True, encode=interrupted_after(3))
    store = write(images[4:], tmp_path / "parts", append=True)
    np.testing.assert_array_equal(store.array("corner"), expected(images)["corner"])
    write(images[:4], tmp_path / "whole")
    write(images[4:], tmp_path / "whole", append=True)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize("lost", [(0,), (1, 0), (3, 0)])
def test_lost_shards_of_earlier_parts_are_made_again_and_new_images_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: tuple[int, ...]
):
    monkeypatch.setattr(writer, "PATIENCE", 0)
    images = pictures(14)
    for first, stop in ((0, 5), (5, 9), (9, 13)):
        write(save(images[first:stop], tmp_path / "images", first=first), tmp_path / "store", append=stop > 5)
    for number in lost:
        find_shards(tmp_path / "store")[number].path.unlink()
    for others in (save(pictures(2, seed=1), tmp_path / "others"), Stream(pictures(2, seed=1))):
        with pytest.raises(ValueError, match="lacks rows of test"):
            write(others, tmp_path / "store", append=True)
    store = write(save(images[13:], tmp_path / "images", first=13), tmp_path / "store", append=True)
    np.testing.assert_array_equal(store.array("corner"), expected(images)["corner"])


def test_processes_that_make_lost_rows_again_go_on_to_the_new_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "PATIENCE", 1)
    images = pictures(22)
    for first, stop in ((0, 6), (6, 10)):
        write(save(images[first:stop], tmp_path / "images", first=first), tmp_path / "store", append=stop > 6)
    find_shards(tmp_path / "store")[1].path.unlink()  # of the second process: the first one waits for it
    source = open_images(save(images[10:], tmp_path / "images", first=10))

    def fill(rank: int) -> None:
        about = {"content": content().manifest(), "shard_rows": ROWS, "data": "test", "append": True}
        filling = writer.StoreWriter(folder=tmp_path / "store", kind=FeatureStore, rank=rank, world_size=2, **about)
        time.sleep(rank * 0.1)
        if not filling.fill(EncodedImages(source, encode, content(), batch_size=2)):
            filling.wait()

    processes = [threading.Thread(target=fill, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    np.testing.assert_array_equal(FeatureStore(tmp_path / "store").array("corner"), expected(images)["corner"])


def test_a_damaged_shard_of_what_was_appended(tmp_path: Path):
    images = pictures(9)
    write(save(images[:5], tmp_path / "images"), tmp_path / "store")
    write(save(images[5:], tmp_path / "images", first=5), tmp_path / "store", append=True)
    whole = contents(tmp_path / "store")
    flip(find_shards(tmp_path / "store")[2].path, -1)
    with pytest.warns(UserWarning, match="is damaged"):
        write(tmp_path / "images", tmp_path / "store", append=True)
    assert contents(tmp_path / "store") == whole


def test_as_many_other_images_are_appended(tmp_path: Path):
    images = pictures(8)
    for part in (images[:4], images[4:], images[:4]):
        write(part, tmp_path, append=True)
    store = FeatureStore(tmp_path)
    np.testing.assert_array_equal(store.array("corner"), expected(images)["corner"])


def test_a_stream_appends_the_images_that_are_not_there(tmp_path: Path):
    images = pictures(12)
    write(images[:3], tmp_path)
    write(Stream(images[:5]), tmp_path, append=True)
    with pytest.raises(Interrupted):
        write(Stream(images), tmp_path, append=True, encode=interrupted_after(2))
    for _ in range(2):
        store = write(Stream(images), tmp_path, append=True)
    np.testing.assert_array_equal(store.array("corner"), expected(images)["corner"])
    assert [part["rows"] for part in store.manifest["parts"]] == [3, 2, 7]
    write(Stream(images[5:]), tmp_path, encode=interrupted_after(0))


def test_a_stream_is_compared_with_all_that_the_store_has(tmp_path: Path):
    images, changed = pictures(8), pictures(8)
    changed[4] = 255 - changed[4]
    write(Stream(images), tmp_path)
    labelled = [(image, int(number == 5)) for number, image in enumerate(images)]
    for others, message in ((images[:7], "7"), (pictures(9), "8"), (changed, "row 4"), (labelled, "row 0")):
        with pytest.raises(OtherImagesError, match=message):
            write(Stream(others), tmp_path, encode=interrupted_after(0))
    write(Stream(images), tmp_path, encode=interrupted_after(0))
    with pytest.raises(ValueError, match=r"retry .* stream"):
        write(Stream(images), tmp_path, retry=True)
    find_shards(tmp_path)[-1].path.unlink()
    with pytest.raises(OtherImagesError, match="row 4"):
        write(Stream(changed), tmp_path)


def test_appending_other_classes_is_refused(tmp_path: Path):
    save(pictures(2), tmp_path / "cat").parent.joinpath("images").mkdir()
    (tmp_path / "cat").rename(tmp_path / "images/cat")
    write(tmp_path / "images", tmp_path / "store")
    save(pictures(2), tmp_path / "ape").rename(tmp_path / "images/ape")
    with pytest.raises(ValueError, match=r"label 0 is 'cat' there and 'ape' now"):
        write(tmp_path / "images", tmp_path / "store", append=True)


@pytest.mark.parametrize("count", [0, 6, 8])
def test_a_stream_of_unknown_length(tmp_path: Path, count: int):
    images = pictures(count)
    if count == 0:
        with pytest.raises(ValueError, match="no image to read"):
            write(Stream(images), tmp_path / "parts")
        return
    with pytest.raises(Interrupted):
        write(Stream(images), tmp_path / "parts", encode=interrupted_after(2))
    with pytest.raises(ValueError, match="lacks the rows 3 to 3 of a stream"):
        FeatureStore(tmp_path / "parts")
    store = write(Stream(images), tmp_path / "parts")
    np.testing.assert_array_equal(store.array("corner"), expected(images)["corner"])
    assert store.manifest["parts"][0]["rows"] == count
    assert contents(tmp_path / "parts") == contents(write(Stream(images), tmp_path / "whole").folder)
    with pytest.raises(ValueError, match="row 0"):
        write(Stream(255 - images), tmp_path / "parts")


def test_a_loader_goes_on_behind_a_damaged_shard(tmp_path: Path):
    images = torch.from_numpy(pictures(8)).permute(0, 3, 1, 2) / 255
    loader = DataLoader(TensorDataset(images, torch.arange(8)), batch_size=4)
    store = write(loader, tmp_path)
    whole = contents(tmp_path)
    assert store.labels.tolist() == list(range(8))
    find_shards(tmp_path)[1].path.unlink()
    write(loader, tmp_path)
    assert contents(tmp_path) == whole


@pytest.mark.parametrize(("batch_size", "rows"), [(2, 4), (5, 5), (8, 5)])
def test_large_rows_make_short_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, rows: int):
    monkeypatch.setattr(feature_store, "SHARD_BYTES", 5 * (3 + 12) * 2 + 7)
    store = write(pictures(9), tmp_path, shard_rows=None, batch_size=batch_size)
    assert store.manifest["shard_rows"] == rows and len(store.rows("corner")[0]) == rows
    monkeypatch.setattr(feature_store, "SHARD_BYTES", 10**6)
    assert len(write(pictures(9), tmp_path, shard_rows=None)) == 9
    with pytest.raises(ValueError, match=f"its shard_rows is {rows}, now 3"):
        write(pictures(9), tmp_path, shard_rows=np.int64(3))
    store = write(pictures(9), tmp_path / "large", shard_rows=None, batch_size=batch_size)
    assert len(store.shards) == 1 and store.manifest["shard_rows"] in (1024, 1020)


@pytest.mark.filterwarnings("ignore:images of")
def test_an_append_reads_what_changed_after_a_kill_and_after_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images = pictures(8)
    data = save(images, tmp_path / "images")
    for name in ("killed", "shared"):
        write(data, tmp_path / name)
    images = np.concatenate([pictures(8, seed=1)[:1], images[1:], pictures(4, seed=2)])
    save(images, data)
    with pytest.raises(Interrupted):
        write(data, tmp_path / "killed", append=True, encode=interrupted_after(0))
    store = write(data, tmp_path / "killed", append=True)
    np.testing.assert_array_equal(store.array("corner"), expected(images)["corner"])
    monkeypatch.setattr(writer, "PATIENCE", 0)
    monkeypatch.setattr(writer, "POLL", 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(TimeoutError):
        write(data, tmp_path / "shared", append=True)
    monkeypatch.setenv("RANK", "0")
    assert len(write(data, tmp_path / "shared", append=True)) == 12
    assert contents(tmp_path / "shared") == contents(tmp_path / "killed")


@pytest.mark.filterwarnings("ignore:images of")
@pytest.mark.parametrize("first", ["0", "1"])
def test_the_first_of_several_processes_reads_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    images = pictures(4)
    data = save(images, tmp_path / "images")
    write(data, tmp_path / "store")
    images[1] = pictures(1, seed=1)
    save(images, data)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", first)
    store = write(data, tmp_path / "store", append=True)
    np.testing.assert_array_equal(store.array("corner"), expected(images)["corner"])
    monkeypatch.setenv("RANK", "1" if first == "0" else "0")
    write(data, tmp_path / "store", append=True, encode=interrupted_after(0))


def test_a_reader_of_a_manifest_from_before_an_append_sees_the_old_rows(tmp_path: Path) -> None:
    images = pictures(9)
    write(images[:4], tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    write(images[4:], tmp_path, append=True)
    next(tmp_path.glob("rows-000000004-*")).unlink()  # a slower process is still at it
    (tmp_path / "manifest.json").write_bytes(before)
    store = FeatureStore(tmp_path)
    np.testing.assert_array_equal(store.array("corner"), expected(images[:4])["corner"])


def test_a_process_does_not_wait_for_others_that_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(writer, "PATIENCE", 0.05)
    monkeypatch.setattr(writer, "POLL", 0.01)
    images = pictures(4)
    with locked(tmp_path, rank=0):  # as if it had begun
        waiting = threading.Thread(target=pytest.raises, args=(TimeoutError, write, images, tmp_path), daemon=True)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()
    with pytest.raises(TimeoutError, match="rows 0 to 2"):
        write(images, tmp_path)
    monkeypatch.setenv("RANK", "0")
    assert len(write(images, tmp_path)) == 4


def test_a_process_that_plans_sees_the_store_as_another_one_found_or_left_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 appends, and reads a changed image again, while rank 1 has read the manifest and not yet the shards."""
    images = pictures(6)
    data, folder = save(images, tmp_path / "images"), tmp_path / "store"
    write(data, folder)
    images = np.concatenate([pictures(6, seed=1)[:1], images[1:], pictures(6, seed=2)])
    save(images, data)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("randar_features.store.writer.os.environ", PerThread(os.environ))
    monkeypatch.setattr(writer, "PATIENCE", 60.0)
    lengths: list[int] = []

    def run(rank: int) -> None:
        PerThread.rank.value = str(rank)
        lengths.append(len(write(data, folder, append=True)))

    other = threading.Thread(target=run, args=(0,), daemon=True)
    plan = writer.make_plan

    def meanwhile(*given: Any, **options: Any) -> Any:
        if not other.ident:
            other.start()
            end = time.monotonic() + 0.3
            while time.monotonic() < end and not list(folder.glob("rows-000000006-*")):
                time.sleep(0.01)
        return plan(*given, **options)

    monkeypatch.setattr(writer, "make_plan", meanwhile)
    run(1)
    other.join(60)
    assert lengths == [12, 12]
    store = FeatureStore(folder)
    assert [part["rows"] for part in store.manifest["parts"]] == [6, 6]
    np.testing.assert_array_equal(store.array("corner"), expected(images)["corner"])


def test_processes_share_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images = pictures(14)
    write(images, tmp_path / "whole")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("randar_features.store.writer.os.environ", PerThread(os.environ))
    made: dict[int, list[int]] = {0: [], 1: []}

    def run(rank: int) -> None:
        PerThread.rank.value = str(rank)

        def counted(pixels: Tensor) -> Mapping[str, Tensor]:
            made[rank].append(len(pixels))
            return encode(pixels)

        assert len(write(images, tmp_path / "shared", encode=counted)) == 14

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a process waits for a shard that is not there"
    assert {rank: sum(rows) for rank, rows in made.items()} == {0: 8, 1: 6}
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")


class PerThread(dict[str, str]):
    """An environment in which each thread has a RANK of its own."""

    rank = threading.local()

    def get(self, key: str, default: Any = None) -> Any:
        return self.rank.value if key == "RANK" else super().get(key, default)
