"""What a store does when its images change between two runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from randar_features import FeatureStore, abandon_extraction, build_index
from randar_features.store import writer
from randar_features.store.shards import PIECE, find_shards
from tests.features.stores import (
    Interrupted,
    Stream,
    contents,
    encode,
    expected,
    interrupted_after,
    pictures,
    save,
    write,
)


def classes(root: Path, **folders: np.ndarray) -> Path:
    root.mkdir(exist_ok=True)
    for name, images in folders.items():
        save(images, root / name)
    return root


def corner(store: FeatureStore) -> np.ndarray:
    return store.array("corner")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return classes(tmp_path / "images", cat=pictures(3), dog=pictures(4, seed=1))


def test_the_same_images_by_other_names_are_the_same(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch):
    before = contents(write(images, tmp_path / "store").folder)
    (tmp_path / "link").symlink_to(images)
    monkeypatch.chdir(tmp_path)
    for name in ("images", "./images", "link", "../" + tmp_path.name + "/images"):
        for append in (False, True):
            write(name, tmp_path / "store", append=append, encode=interrupted_after(0))
            assert contents(tmp_path / "store") == before


@pytest.mark.parametrize("append", [False, True])
def test_data_that_moved_are_the_same(tmp_path: Path, images: Path, append: bool):
    write(images, tmp_path / "store")
    moved = Path(shutil.move(images, tmp_path / "moved"))
    store = write(moved, tmp_path / "store", append=append, encode=interrupted_after(0))
    assert len(store) == 7
    if not append:
        assert all(os.path.exists(str(path)) for path in store.paths)


def test_changed_moved_and_vanished_images_are_refused_by_name(tmp_path: Path, images: Path):
    write(images, tmp_path / "store")
    before = contents(tmp_path / "store")
    save(pictures(1, seed=9), images / "cat")  # 00.png, of about the same size
    shutil.move(images / "cat/01.png", images / "dog/09.png")
    with pytest.raises(ValueError, match="made of other images") as error:
        write(images, tmp_path / "store")
    for part in ("1 changed", "cat/00.png", "1 new", "dog/09.png", "1 not given now", "cat/01.png", "append"):
        assert part in str(error.value)
    assert contents(tmp_path / "store") == before


def test_append_reads_changed_images_anew_and_renames_moved_ones(tmp_path: Path, images: Path):
    write(images, tmp_path / "store")
    new = pictures(2, seed=9)
    save(new[:1], images / "cat")
    shutil.move(images / "cat/01.png", images / "dog/09.png")
    (images / "dog/02.png").unlink()
    save(new[1:], images / "dog", first=20)
    with pytest.warns(UserWarning, match="1 changed") as warned:
        store = write(images, tmp_path / "store", append=True)
    said = str(warned[0].message)
    for part in ("cat/00.png", "another name or label", "1 are gone", "dog/02.png"):
        assert part in said
    assert len(store) == 8 and store.labels.tolist() == [0, 1, 0, 1, 1, 1, 1, 1]
    names = [os.path.relpath(str(path), images) for path in store.paths]
    assert names[:3] == ["cat/00.png", "dog/09.png", "cat/02.png"] and names[7] == "dog/20.png"
    rows = np.concatenate([new[:1], pictures(3)[1:], pictures(4, seed=1), new[1:]])
    np.testing.assert_array_equal(corner(store), expected(rows)["corner"])
    whole = contents(tmp_path / "store")
    write(images, tmp_path / "store", append=True, encode=interrupted_after(0))
    assert contents(tmp_path / "store") == whole


def test_append_without_labels_keeps_those_that_are_known(tmp_path: Path, images: Path):
    write(images, tmp_path / "store")
    new = pictures(2, seed=9)
    save(new[:1], images / "cat")  # 00.png has changed
    shutil.move(images / "cat/01.png", images / "dog/09.png")
    save(new[1:], images / "dog", first=20)
    with pytest.warns(UserWarning, match=r"7 are given without a label.*cat/00.png"):
        store = write(sorted(map(str, images.glob("*/*.png"))), tmp_path / "store", append=True)
    assert store.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, -1]
    np.testing.assert_array_equal(corner(store)[0], expected(new)["corner"][0])
    with pytest.warns(UserWarning, match="another name or label"):
        assert write(images, tmp_path / "store", append=True).labels.tolist() == [0, 1, 0, 1, 1, 1, 1, 1]


def test_exchanged_files_are_changed_ones(tmp_path: Path, images: Path):
    write(images, tmp_path / "store")
    first, second = sorted((images / "cat").iterdir())[:2]
    pixels = first.read_bytes(), second.read_bytes()
    first.write_bytes(pixels[1])
    second.write_bytes(pixels[0])
    with pytest.raises(ValueError, match="2 changed"):
        write(images, tmp_path / "store")


def test_another_order_of_a_list_is_told(tmp_path: Path):
    paths = sorted(str(path) for path in save(pictures(3), tmp_path / "images").iterdir())
    write(paths, tmp_path / "store")
    with pytest.warns(UserWarning, match="another order"):
        assert list(write(paths[::-1], tmp_path / "store").paths) == paths


def test_labels_in_a_list(tmp_path: Path):
    paths = sorted(str(path) for path in save(pictures(4), tmp_path / "images").iterdir())
    write(list(zip(paths, [0, 1, 2, 3], strict=True)), tmp_path / "store")
    other = list(zip(paths, [0, 1, 3, 3], strict=True))
    with pytest.raises(ValueError, match=r"1 with another label .*02\.png"):
        write(other, tmp_path / "store")
    with pytest.warns(UserWarning, match="another name or label"):
        store = write(other, tmp_path / "store", append=True, encode=interrupted_after(0))
    assert store.labels.tolist() == [0, 1, 3, 3]


@pytest.mark.parametrize("in_files", [False, True])
def test_append_keeps_the_labels_of_an_image_that_is_there_twice(tmp_path: Path, in_files: bool):
    pixels = pictures(3)
    images = [str(path) for path in sorted(save(pixels, tmp_path / "images").iterdir())] if in_files else list(pixels)
    given = [(images[0], 0), (images[0], 1), (images[1], 0)]
    write(given, tmp_path / "store")
    write(given, tmp_path / "store", append=True, encode=interrupted_after(0))
    store = write([*given, (images[2], 1)], tmp_path / "store", append=True)
    assert store.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(corner(store), expected(pixels[[0, 0, 1, 2]])["corner"])


def test_images_of_tables_are_not_told_by_their_names(tmp_path: Path):
    def table(*images: int) -> Path:  # as the Hub has folders of classes: "cat/1.jpg" and "dog/1.jpg" are both "1.jpg"
        files = [path.read_bytes() for path in sorted((tmp_path / "images").iterdir())]
        cells = [{"bytes": files[image], "path": "1.jpg"} for image in images]
        columns = pa.table({"image": cells, "label": [image % 2 for image in images]})
        pq.write_table(columns, tmp_path / "images.parquet")
        return tmp_path / "images.parquet"

    pixels = pictures(4)
    save(pixels, tmp_path / "images")
    write(table(0, 1), tmp_path / "store")
    write(table(0, 1), tmp_path / "store", append=True, encode=interrupted_after(0))
    write(table(0, 1, 2), tmp_path / "store", append=True)
    store = write(table(3, 2), tmp_path / "store", append=True)
    np.testing.assert_array_equal(corner(store), expected(pixels)["corner"])
    assert store.labels.tolist() == [0, 1, 0, 1]


def test_a_repaired_image_is_read_again(tmp_path: Path):
    images = save(pictures(5), tmp_path / "images")
    good = (images / "01.png").read_bytes()
    (images / "01.png").write_bytes(b"no image")
    assert not write(images, tmp_path / "store").ok[1]
    (images / "01.png").write_bytes(good)
    with pytest.warns(UserWarning, match="could not be read before.*01.png"):
        store = write(images, tmp_path / "store", append=True)
    assert store.ok.all()
    np.testing.assert_array_equal(corner(store), expected(pictures(5))["corner"])
    assert contents(tmp_path / "store") == contents(write(images, tmp_path / "whole").folder)


def test_retry_reads_what_could_not_be_read(tmp_path: Path):
    images = save(pictures(4), tmp_path / "images")
    (images / "01.png").write_bytes(b"no image")
    write(images, tmp_path / "store")
    read: list[int] = []

    def counted(pixels):  # type: ignore[no-untyped-def]
        read.append(len(pixels))
        return encode(pixels)

    write(images, tmp_path / "store", retry=True, encode=counted)
    assert read == [1]


def test_a_new_class_is_taken_where_no_label_moves(tmp_path: Path, images: Path):
    write(images, tmp_path / "store")
    classes(images, emu=pictures(1, seed=5))
    store = write(images, tmp_path / "store", append=True)
    assert store.label_names == ["cat", "dog", "emu"] and store.labels[-1] == 2
    classes(images, ape=pictures(1, seed=6))
    with pytest.raises(ValueError, match="label 0 is 'cat' there and 'ape' now"):
        write(images, tmp_path / "store", append=True)


def test_a_killed_append_locks_nothing(tmp_path: Path):
    def begun(folder: Path) -> Path:
        write(pictures(4), folder)
        with pytest.raises(Interrupted):
            write(pictures(12)[4:], folder, append=True, encode=interrupted_after(3))
        return folder

    store = write(pictures(12)[4:], begun(tmp_path / "finished"), append=True)
    np.testing.assert_array_equal(corner(store), expected(pictures(12))["corner"])
    other = pictures(5, seed=3)
    store = write(other, begun(tmp_path / "changed"), append=True)
    rows = np.concatenate([pictures(7), other])  # one shard of the killed append was whole
    np.testing.assert_array_equal(corner(store), expected(rows)["corner"])
    whole = contents(write(pictures(4), tmp_path / "whole").folder)
    assert abandon_extraction(begun(tmp_path / "abandoned")) == 4
    assert contents(tmp_path / "abandoned") == whole
    with pytest.raises(ValueError, match="nothing to abandon"):
        abandon_extraction(tmp_path / "abandoned")


def test_a_kill_costs_no_more_than_what_was_done_since_the_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "FLUSH_SECONDS", 0.0)
    images = pictures(11)
    whole = contents(write(images, tmp_path / "whole", shard_rows=10).folder)
    read: list[int] = []

    def counted(pixels):  # type: ignore[no-untyped-def]
        read.append(len(pixels))
        return encode(pixels)

    with pytest.raises(Interrupted):
        write(images, tmp_path / "parts", shard_rows=10, encode=interrupted_after(3))
    assert sum(len(piece.rows) for piece in find_shards(tmp_path / "parts", PIECE)) == 6
    write(images, tmp_path / "parts", shard_rows=10, encode=counted)
    assert sum(read) == 5 and contents(tmp_path / "parts") == whole


def test_parts_of_other_images_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "FLUSH_SECONDS", 0.0)
    for images, name in ((pictures(8), "array"), (Stream(pictures(8)), "stream")):
        with pytest.raises(Interrupted):
            write(images, tmp_path / name, shard_rows=10, encode=interrupted_after(2))
    store = write(pictures(8, seed=1), tmp_path / "array", shard_rows=10)
    np.testing.assert_array_equal(corner(store), expected(pictures(8, seed=1))["corner"])
    with pytest.raises(ValueError, match="row 0"):
        write(Stream(pictures(8, seed=1)), tmp_path / "stream", shard_rows=10)


def test_names_that_are_not_utf8(tmp_path: Path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    names = [b"\xff.png", "bytes:é.png".encode(), b"plain%41.png"]
    for name, image in zip(names, pictures(3), strict=True):
        Image.fromarray(image).save(os.path.join(folder, os.fsdecode(name)))
    store = write(folder, tmp_path / "store")
    assert sorted(os.path.basename(os.fsencode(str(path))) for path in store.paths) == sorted(names)
    write(folder, tmp_path / "store", append=True, encode=interrupted_after(0))


def test_other_stores_lend_what_they_have(tmp_path: Path):
    images = pictures(9)
    first = write(images[:6], tmp_path / "first")
    read: list[int] = []

    def counted(pixels):  # type: ignore[no-untyped-def]
        read.append(len(pixels))
        return encode(pixels)

    order = [8, 5, 0, 7, 1, 2, 3]
    store = write(images[order], tmp_path / "second", encode=counted, reuse=[first])
    assert sum(read) == 2
    np.testing.assert_array_equal(corner(store), expected(images[order])["corner"])
    assert store.ok.all()


def test_a_store_is_not_written_among_its_images(images: Path):
    before = contents(images / "cat")
    with pytest.raises(ValueError, match="holds the images themselves"):
        write(images / "cat", images / "cat")
    assert contents(images / "cat") == before


def test_an_empty_path_is_not_the_working_directory(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="an empty path: give the file or folder to write"):
        write(images, "")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_an_index_is_not_written_among_its_images(images: Path):
    with pytest.raises(ValueError, match="holds the images themselves"):
        build_index(images, images)
    assert sorted(path.name for path in images.iterdir()) == ["cat", "dog"]


def test_a_manifest_of_somebody_else_is_left_alone(tmp_path: Path, images: Path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/manifest.json").write_text('{"name": "my page"}')
    with pytest.raises(ValueError, match=r"manifest\.json is no manifest of a store"):
        write(images, tmp_path / "store")
    assert (tmp_path / "store/manifest.json").read_text() == '{"name": "my page"}'
