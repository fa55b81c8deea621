from __future__ import annotations

import logging
import os
import socket
import warnings
from pathlib import Path

import pytest
from PIL import Image

from randar_features.data import ImageSource, open_images, open_pairs
from randar_features.data.containers.layout import find_splits


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name, "PNG")
    return folder


def read(folder: Path | str, split: str | None = None) -> ImageSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_images(folder, split=split)


def names_of(source: ImageSource, folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in source.files()]


def labels_of(source: ImageSource) -> list[int] | None:
    return None if source.labels is None else source.labels.tolist()


def test_links_that_go_round_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "data", "cat/a.png", "dog/b.png")
    write(tmp_path, "beside/c.png")
    for name, target in {"cat/back": "..", "dog/back": "..", "dog/out": "../..", "owl": "../beside"}.items():
        os.symlink(target, tmp_path / "data" / name)
    source = read(tmp_path / "data")
    assert names_of(source, tmp_path / "data") == ["cat/a.png", "dog/b.png", "owl/c.png"]
    assert source.label_names == ["cat", "dog", "owl"]
    assert source.account.passed_over["links to a folder that they lie in"].count == 3


def test_a_folder_and_a_link_to_it_are_read_by_its_own_name(tmp_path: Path) -> None:
    write(tmp_path, "cat/a.png")
    os.symlink("cat", tmp_path / "alias")
    assert names_of(read(tmp_path), tmp_path) == ["cat/a.png"]


def test_an_empty_folder_is_named_since_it_moves_labels(tmp_path: Path) -> None:
    write(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "ape").mkdir()
    (tmp_path / "ape/.gitkeep").touch()
    source = read(tmp_path)
    assert source.label_names == ["cat", "dog"]
    assert source.account.passed_over["empty folders"].names == ["ape"]


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("nowhere.png", tmp_path / "broken.png")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.png"))
        source = read(tmp_path)
    assert names_of(source, tmp_path) == ["a.png"]
    assert sorted(source.account.passed_over) == ["devices", "links to nothing", "pipes (FIFO)", "sockets"]
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(ValueError, match=f"{name} is a (pipe|device)"):
            open_images(tmp_path / name)


def test_images_are_known_by_content_where_the_ending_says_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a", "b.dat", "c.heic", "d.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    with pytest.warns(UserWarning, match=r"of no image format: 1 \(notes\.txt\)") as caught:
        source = open_images(tmp_path)
    assert len(caught) == 1 and "hidden" not in str(caught[0].message)
    assert names_of(source, tmp_path) == ["a", "b.dat", "c.heic", "d.png"]
    assert source.account.passed_over["hidden"].names == [".hidden.png"]
    assert next(source.batches(4, 4)).status == ["ok"] * 4


def test_the_account_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "cat/a.png", "dog/b.png")
    with caplog.at_level(logging.INFO):
        open_images(tmp_path)
    assert "2 images of 2 classes" in caplog.text


def test_a_stray_image_costs_no_labels_but_its_own(tmp_path: Path) -> None:
    write(tmp_path, "cat/a.png", "cat/b.png", "dog/c.png", "stray.png")
    with pytest.warns(UserWarning, match=r"labels dropped.*stray\.png"):
        source = open_images(tmp_path)
    assert source.label_names == ["cat", "dog"] and labels_of(source) == [0, 0, 1, -1]
    assert source.account.unlabelled == 1
    assert next(source.batches(4, 4)).labels == [0, 0, 1, None]


def test_folders_beside_most_images_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png", "old/c.png", "new/d.png")
    with pytest.warns(UserWarning, match="labels dropped, images lie beside the folders"):
        source = open_images(tmp_path)
    assert source.label_names is None and len(source) == 4


@pytest.mark.parametrize("above", ["", "dataset/", "a/b/"])
def test_a_level_that_says_nothing_is_left_out(tmp_path: Path, above: str) -> None:
    write(tmp_path, f"{above}cat/x/a.png", f"{above}dog/b.png")
    source = read(tmp_path)
    assert source.label_names == ["cat", "dog"] and labels_of(source) == [0, 1]


@pytest.mark.parametrize("above", ["", "dataset/"])
@pytest.mark.parametrize("names", [("train", "validation"), ("train", "val", "test"), ("seg_test", "seg_train")])
def test_splits_are_no_classes(tmp_path: Path, above: str, names: tuple[str, ...]) -> None:
    write(tmp_path, *(f"{above}{split}/{name}/a.png" for split in names for name in ("cat", "dog")))
    with pytest.raises(ValueError, match=r"holds the splits \[.*choose one, as in split="):
        open_images(tmp_path)
    source = open_images(tmp_path, split=names[0])
    assert source.label_names == ["cat", "dog"]
    assert names_of(source, tmp_path) == [f"{above}{names[0]}/{name}/a.png" for name in ("cat", "dog")]
    with pytest.raises(ValueError, match=rf"no split 'other' in .*found \[.*{names[0]}"):
        open_images(tmp_path, split="other")


def test_a_single_split_is_opened_and_a_class_may_be_named_as_one(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a", "train/cat/a.png", "train/dog/b.png")).label_names == ["cat", "dog"]
    assert read(write(tmp_path / "b", "car/a.png", "train/b.png")).label_names == ["car", "train"]
    assert find_splits(["bullet_train", "car"]) == []


def test_splits_in_the_class_folders(tmp_path: Path) -> None:
    write(tmp_path, "cat/train/a.png", "cat/test/b.png", "dog/train/c.png")
    with pytest.raises(ValueError, match="holds the splits"):
        open_images(tmp_path)
    source = open_images(tmp_path, split="train")
    assert source.label_names == ["cat", "dog"] and names_of(source, tmp_path) == ["cat/train/a.png", "dog/train/c.png"]


def test_images_and_masks_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path, "images/a.png", "masks/a.png")
    with pytest.raises(ValueError, match="as pairs, or the folder 'images'"):
        open_images(tmp_path)


def test_pairs_know_splits_too(tmp_path: Path) -> None:
    write(tmp_path, "images/train/a.png", "masks/train/a.png", "images/val/b.png", "masks/val/b.png")
    with pytest.raises(ValueError, match=r"the splits \['train', 'val'\]"):
        open_pairs(tmp_path)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    write(tmp_path, "a.png").joinpath("a.png").rename(tmp_path / name)
    batch = next(open_images(tmp_path).batches(4, 1))
    assert batch.status == ["ok"] and batch.paths == [str(tmp_path / name)]
    (tmp_path / os.fsdecode(b"\xe9.txt")).write_text("no image")
    with pytest.warns(UserWarning, match=r"\\udce9\.txt"):
        open_images(tmp_path)


def test_folders_that_cannot_be_listed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.png", "locked/b.png")
    original = os.scandir

    def scandir(path: Path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.warns(UserWarning, match=r"cannot be listed \(Permission denied\): 1 \(locked\)"):
        assert len(open_images(tmp_path)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file_name,label\na.png,dog\nb.png,cat\na.png,dog\n", None),
        ("file_name,label\na.png,dog\nb.png,cat\nb.png,dog\n", r"give the image several: 1 \(b\.png\)"),
        ('{"file_name": "a.png", "label": "dog"}\n{"file_name": "b.png", "label": "cat"}\n', None),
        ("file_name,label\na.png,dog\ngone.png,cat\n", r"not there: 1 \(gone\.png\).*do not name the image: 1"),
        ("file_name,label\na.png,dog\n../b.png,cat\n", r"not there: 1 \(\.\./b\.png\)"),
    ],
)
def test_metadata_of_a_folder(tmp_path: Path, content: str, message: str | None) -> None:
    write(tmp_path, "a.png", "b.png")
    (tmp_path / f"metadata.{'jsonl' if content.startswith('{') else 'csv'}").write_text(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = open_images(tmp_path)
    if message is None:
        assert not caught and source.label_names == ["cat", "dog"] and labels_of(source) == [1, 0]
    else:
        assert labels_of(source) == [0, -1]
        with pytest.warns(UserWarning, match=message):
            open_images(tmp_path)


@pytest.mark.parametrize("name", ["metadata.csv", "list.csv", "metadata.jsonl"])
def test_a_column_of_splits_that_is_not_read_is_told(tmp_path: Path, name: str) -> None:
    write(tmp_path, "a.png", "b.png")
    rows = [("a.png", "dog", "train"), ("b.png", "cat", "test")]
    text = "".join(
        f'{{"file_name": "{path}", "label": "{label}", "Split": "{split}"}}\n' for path, label, split in rows
    )
    if name.endswith(".csv"):
        text = "file_name,label,Split\n" + "".join(",".join(row) + "\n" for row in rows)
    (tmp_path / name).write_text(text)
    with pytest.warns(UserWarning, match=rf"{name}.*'Split' \(test, train\)"):
        source = open_images(tmp_path / name if name == "list.csv" else tmp_path)
    assert len(source) == 2 and source.label_names == ["cat", "dog"]
    (tmp_path / name).write_text(text.replace("train", "banana").replace("test", "pea"))  # no splits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_images(tmp_path / name if name == "list.csv" else tmp_path)


def test_lists_of_files(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png")
    (tmp_path / "list.csv").write_text(f"path,target\nb.png,3\n{tmp_path}/a.png,1\n,2\ngone.png,2\n")
    (tmp_path / "spaced.csv").write_text("label, path\n1, a.png\n")
    assert next(open_images(tmp_path / "spaced.csv").batches(4, 4)).status == ["ok"]
    batch = next(open_images(tmp_path / "list.csv").batches(4, 4))
    assert batch.labels == [3, 1, 2, 2] and [status == "ok" for status in batch.status] == [True, True, False, False]
    for text, message in {
        "path\n../out.png\n": r"list\.csv, image 1: '\.\./out\.png' leads out of",
        "path\nhttps://a/b.png\n": "is a URL",
        "a,b\n1,2\n": "no column of paths: got a, b",
        "path,label\na.png,1,2\n": r"list\.csv cannot be read as a list of images",
        "path;label\na.png;1\n": "semicolons, expected commas",
        "\udcff\udcfep\0a\0t\0h\0": "UTF-16: save it as UTF-8",
    }.items():
        (tmp_path / "list.csv").write_text(text, errors="surrogateescape")
        with pytest.raises(ValueError, match=message):
            open_images(tmp_path / "list.csv")


def test_a_folder_in_a_list_holds_many(tmp_path: Path) -> None:
    write(tmp_path, "cat/a.png", "b.png")
    with pytest.raises(ValueError, match="cat' in a list of images holds many"):
        open_images([tmp_path / "b.png", str(tmp_path / "cat")])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", b"PK\x03\x04", r"a\.zip is compressed \(zip\): unpack"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        ("a.npy", b"\x93NUMPY", "holds arrays"),
        ("a.txt", b"text", "no picture of a known format"),
    ],
)
def test_files_that_hold_no_images_as_they_are(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_images(tmp_path / name)


def test_what_is_no_path_of_images() -> None:
    with pytest.raises(ValueError, match="an empty path"):
        open_images("")
    with pytest.raises(ValueError, match="is a URL: download"):
        open_images("https://example.org/a.png")
    with pytest.raises(TypeError, match="open file"), Path(__file__).open("rb") as file:
        open_images(file)
