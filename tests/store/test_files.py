from __future__ import annotations

import os
from pathlib import Path

import pytest

from randar_features.store.files import (
    make_folder,
    path_to_write,
    read_json,
    remove_leftovers,
    write_json,
    written_whole,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_takes_its_place_at_the_end_of_the_block(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "file"
    with written_whole(path) as file:
        file.write(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("other")])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(type(error)), written_whole(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("below", ["", "b", "b/c"])
def test_a_file_where_a_folder_is_to_be_is_named(tmp_path: Path, below: str):
    (tmp_path / "a").write_bytes(b"kept")
    with pytest.raises(OSError, match=rf"^{tmp_path}/a is a file, expected a folder: give another name, or move it$"):
        make_folder(tmp_path / "a" / below)
    with pytest.raises(OSError, match="a is a file"):
        write_json(tmp_path / "a" / below / "new.json", {})
    assert (tmp_path / "a").read_bytes() == b"kept"


def test_folders_are_made_once(tmp_path: Path):
    for _ in range(2):
        make_folder(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()


def test_a_failed_write_says_what_and_how_much_is_free(tmp_path: Path):
    path = tmp_path / "file"
    with pytest.raises(OSError, match=r"could not write .*file \(\[Errno 28\] full\); \d+ bytes are free"), \
            written_whole(path):  # fmt: skip
        try:
            raise OSError(28, "full")
        except OSError:
            raise RuntimeError("what PyTorch's zip writer makes of it")  # noqa: B904
    assert names(tmp_path) == []


def test_json_comes_back_and_names_its_file_when_torn(tmp_path: Path):
    path = tmp_path / "about.json"
    write_json(path, {"names": ["Löwe", "fly"]})
    assert read_json(path) == {"names": ["Löwe", "fly"]}
    path.write_text(path.read_text()[:-3])
    with pytest.raises(ValueError, match=r"about\.json is not valid JSON"):
        read_json(path)


def test_names_that_are_not_utf8_come_back(tmp_path: Path):
    names = {"caf\udce9": ["Löwe"]}
    write_json(tmp_path / "a.json", names)
    assert read_json(tmp_path / "a.json") == names
    (tmp_path / "a.json").read_bytes().decode("ascii")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"", b'{"a": 1'])
def test_whatever_is_wrong_with_json_is_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON") as error:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(error.value)


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path: Path):
    (tmp_path / "theirs").write_bytes(b"kept")
    (tmp_path / f"mine.{os.getpid()}.writing").symlink_to(tmp_path / "theirs")
    write_json(tmp_path / "mine", 1)
    assert (tmp_path / "theirs").read_bytes() == b"kept" and read_json(tmp_path / "mine") == 1


def test_a_pipe_is_written_and_stays_one(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    end = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with written_whole(tmp_path / "pipe") as file:
        file.write(b"content")
    assert os.read(end, 100) == b"content" and (tmp_path / "pipe").is_fifo() and names(tmp_path) == ["pipe"]
    os.close(end)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files have no names here")
def test_an_open_file_is_written_and_its_name_stays(tmp_path: Path):
    with (tmp_path / "opened").open("wb") as opened:
        (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{opened.fileno()}")
        for name in (tmp_path / "stdout", Path(f"/proc/self/fd/{opened.fileno()}")):
            with written_whole(name) as file:
                file.write(b"content")
    assert (tmp_path / "opened").read_bytes() == b"content" * 2
    assert (tmp_path / "stdout").is_symlink() and names(tmp_path) == ["opened", "stdout"]


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path):
    for name in ("rows-1.7.writing", "other.7.writing", "rows-1"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "rows-2.8.writing").symlink_to(tmp_path / "rows-1")
    remove_leftovers(tmp_path, "rows-*")
    assert names(tmp_path) == ["other.7.writing", "rows-1"]


@pytest.mark.parametrize("path", ["~", "~/features", Path("~/features")])
def test_a_home_folder_as_shells_name_it_is_refused(path: str | Path):
    with pytest.raises(ValueError, match=f"give {os.path.expanduser(path)}"):
        path_to_write(path)


@pytest.mark.parametrize("path", ["a~", "a/~", "~no such user/a"])
def test_other_names_with_a_tilde_are_names(path: str):
    assert path_to_write(path) == Path(path)
