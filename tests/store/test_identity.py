from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from randar_features.data import open_images
from randar_features.data.stored_images import StoredImages
from randar_features.store import identity
from randar_features.store.identity import UNREADABLE, cache_file, hash_bytes, hash_file, hash_files, hash_image
from randar_features.store.records import Record

OLD = 1_000_000_000  # seconds: a file that was not written to lately


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the files that were read."""
    monkeypatch.setenv("RANDAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "RACY_NS", -(10**18))  # the change time of a file cannot be set back
    read: list[str] = []

    def hashed(path: str) -> str:
        read.append(Path(path).name)
        return hash_file(path)

    monkeypatch.setattr(identity, "hash_file", hashed)
    return read


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_a_known_value():
    assert hash_bytes(b"") == "99aa06d3014798d86001c324468d497f"  # XXH3's published value of no bytes
    assert hash_bytes(b"ab", b"c") == hash_bytes(b"abc") != hash_bytes(b"acb")


def test_a_file_is_hashed_once_until_it_changes(counted: list[str], tmp_path: Path):
    paths = [write(tmp_path / name, name.encode()) for name in ("a", "b")]
    first = hash_files(paths)
    assert first == [hash_bytes(b"a"), hash_bytes(b"b")] and counted == ["a", "b"]
    assert hash_files(paths) == first and counted == ["a", "b"]
    before = os.stat(paths[1])
    write(tmp_path / "b", b"c")  # of equal size, and with its time set back
    os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hash_files(paths) == [first[0], hash_bytes(b"c")] and counted == ["a", "b", "b"]


def test_a_file_that_has_just_been_written_is_not_remembered(
    counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(identity, "RACY_NS", 10**10)
    paths = [write(tmp_path / "a", b"a")]
    hash_files(paths)
    hash_files(paths)
    assert counted == ["a", "a"]


def test_a_damaged_cache_is_done_without(counted: list[str], tmp_path: Path):
    paths = [write(tmp_path / "a", b"a")]
    cache_file().parent.mkdir()
    cache_file().write_bytes(b"this is no database" * 100)
    for _ in range(3):
        assert hash_files(paths) == [hash_bytes(b"a")]
    assert counted == ["a", "a"]  # the third time it was known


def test_what_cannot_be_read(counted: list[str], tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    paths = [str(tmp_path / name) for name in ("missing", "pipe", "")] + ["a\0b"]
    assert hash_files(paths) == [UNREADABLE] * 4
    assert hash_image(str(tmp_path / "pipe")) == hash_image(object()) == UNREADABLE


def test_names_that_are_not_utf8(counted: list[str], tmp_path: Path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    write(Path(path), b"a")
    assert hash_files([path]) == hash_files([path]) == [hash_bytes(b"a")]
    assert len(counted) == 1


def test_every_byte_in_memory_counts():
    array = np.random.default_rng(0).integers(0, 256, (9, 40, 3), dtype=np.uint8)
    changed = array.copy()
    changed[5, 7, 1] ^= 1
    seen = {hash_image(value) for value in (array, changed, array.reshape(40, 9, 3), array.astype(np.int16))}
    assert len(seen) == 4
    assert hash_image(torch.from_numpy(array)) == hash_image(array)
    assert hash_image(array[:, ::2]) == hash_image(np.ascontiguousarray(array[:, ::2]))
    tensor = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert hash_image(tensor.bfloat16()) != hash_image(tensor.half())


def test_pictures_and_encoded_bytes():
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    file = io.BytesIO()
    picture.save(file, "PNG")
    assert hash_image(picture) == hash_image(picture.copy()) != hash_image(picture.convert("L"))
    assert hash_image(file.getvalue()) == hash_bytes(file.getvalue())
    turned = picture.copy()
    turned.getexif()[274] = 6
    assert hash_image(turned) != hash_image(picture)


def test_an_image_in_a_table_lends_its_hash_to_no_file_of_its_name(
    counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = []
    for shade in (0, 255):
        Image.new("RGB", (8, 8), (shade,) * 3).save("a.png")
        files.append(Path("a.png").read_bytes())
    source = open_images([{"bytes": files[0], "path": "a.png"}])
    (block,) = StoredImages(source, lambda batch: {}, image_size=8, batch_size=1).read(iter([range(1)]))
    assert block.records[0] == Record("a.png", -1, hash_bytes(files[0]))
    assert hash_files([str(tmp_path / "a.png")]) == [hash_bytes(files[1])] and counted == ["a.png"]


def test_damaged_metadata_of_a_picture_leave_its_pixels_their_hash() -> None:
    pictures = [Image.new("RGB", (8, 8), shade) for shade in ("black", "white")]
    for each in pictures:
        each.info["exif"] = b"Exif\0\0no such thing"
    hashes = [hash_image(each) for each in pictures]
    assert UNREADABLE not in hashes and hashes[0] != hashes[1]
