from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, get_worker_info

from randar_features.data import ImageError, open_images


def png(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade,) * 3).save(file, "PNG")
    return file.getvalue()


def shades(source: Any) -> list[int]:
    return [round(float(image[0, 0, 0]) * 255) for batch in source.batches(4, 3) for image in batch.pixels]


# Tars


def write_tar(path: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_a_tar_names_classes_as_a_folder_does(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"data/cat/x/1.png": png(1), "data/dog/2.png": png(2)})
    source = open_images(path)
    assert source.label_names == ["cat", "dog"] and shades(source) == [1, 2]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_torn_tar_is_refused_wherever_it_ends(tmp_path: Path, share: float) -> None:
    path = write_tar(tmp_path / "a.tar", {f"cat/{number}.png": png(number) for number in range(40)})
    whole = path.read_bytes().rstrip(b"\0")
    blocks = int(len(whole) * share) // 512
    for size in (blocks * 512, blocks * 512 + 100):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a\.tar cannot be read as an uncompressed tar.*fetch it again"):
            open_images(path)


def test_damaged_and_joined_tars_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{number}.png": png(number) for number in range(4)})
    whole = path.read_bytes()
    path.write_bytes(whole + whole)
    with pytest.raises(ValueError, match="several tars joined"):
        open_images(path)
    second = whole.index(b"1.png")
    path.write_bytes(whole[:second] + b"X" * 200 + whole[second + 200 :])
    with pytest.raises(ValueError, match="no header: damaged"):
        open_images(path)
    negative = bytearray(whole)
    negative[second + 124 : second + 136] = b"\xff" * 11 + b"\x00"
    negative[second + 148 : second + 156] = b"        "
    checksum = sum(negative[second : second + 512])
    negative[second + 148 : second + 156] = b"%06o\0 " % checksum
    path.write_bytes(negative)
    with pytest.raises(ValueError, match=r"a\.tar cannot be read"):
        open_images(path)


def test_links_and_later_copies_in_a_tar_are_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, shade in (("1.png", 1), ("2.png", 2), ("1.png", 3)):
            info = tarfile.TarInfo(name)
            info.size = len(png(shade))
            archive.addfile(info, io.BytesIO(png(shade)))
        link = tarfile.TarInfo("3.png")
        link.type, link.linkname = tarfile.LNKTYPE, "1.png"
        archive.addfile(link)
    with pytest.warns(UserWarning, match=r"links in the tar: 1 \(3\.png\).*later one of the same name: 1 \(1\.png\)"):
        assert shades(open_images(tmp_path / "a.tar")) == [3, 2]


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        ({"1.cls": b"7", "2.cls": b"4"}, [7, 4], None),
        ({"1.cls": b"dog", "2.cls": b"cat\n"}, [1, 0], ["cat", "dog"]),
        ({"1.json": b'{"label": 3}', "2.json": b'{"label": 0, "width": 9}'}, [3, 0], None),
        ({"1.cls": b"5", "notes.json": b"{}"}, [5, -1], None),
        ({"1.cls": b"5", "2.cls": b"", "1.mask.png": png(9)}, [5, -1], None),
        ({"1.cls": b"\xef\xbb\xbf--1", "2.cls": b"--1"}, [0, 0], ["--1"]),
    ],
)
@pytest.mark.filterwarnings("ignore:files passed over")
def test_labels_in_webdataset_tars(tmp_path: Path, labels: dict[str, bytes], expected: list[int], names: Any) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.png": png(1), "2.seg.png": png(2), **labels})
    source = open_images(path)
    assert source.labels is not None and source.labels.tolist() == expected and source.label_names == names


def test_names_in_a_tar_stay_in_it(tmp_path: Path) -> None:
    """As unpacking has them: `/cat` is `cat`, and `../dog` is `dog`, in a tar inside a tar too."""
    inner = write_tar(tmp_path / "in.tar", {"/1.png": png(3)}).read_bytes()
    path = write_tar(tmp_path / "a.tar", {"/cat/1.png": png(1), "../dog/2.png": png(2), "./../owl.tar": inner})
    source = open_images(path)
    assert source.label_names == ["cat", "dog", "owl"] and shades(source) == [1, 2, 3]


def write_shards(folder: Path, names: list[str]) -> list[Path]:
    """A tar for each name, of two images with shades and labels of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write_tar(
            folder / f"{name}.tar",
            {f"{key}.png": png(20 * number + key) for key in (1, 2)} | {f"{key}.cls": b"%d" % key for key in (1, 2)},
        )
        for number, name in enumerate(names)
    ]


def test_shards_of_tars_are_one_source_in_their_order(tmp_path: Path) -> None:
    tars = write_shards(tmp_path / "shards", ["000", "001", "002"])
    (tmp_path / "shards/notes.txt").write_text("by hand")
    whole = [1, 2, 21, 22, 41, 42]
    for given in (f"{tmp_path}/shards/{{000..002}}.tar", f"{tmp_path}/shards/*.tar", tars, [f"{tmp_path}/*/*.tar"]):
        source = open_images(given)
        assert source.labels is not None and source.labels.tolist() == [1, 2] * 3 and source.files() == tars
        assert shades(source) == whole and source.account.images == 6 and source.account.classes == 2
    assert shades(open_images(tars[::-1])) == [41, 42, 21, 22, 1, 2]
    with pytest.warns(UserWarning, match=r"files passed over.*notes\.txt"):
        assert shades(open_images(tmp_path / "shards")) == whole
    roots = [open_images(given).root for given in (f"{tmp_path}/shards/*.tar", tars, tmp_path / "shards")]
    assert roots == [tmp_path / "shards"] * 3


def test_a_shard_that_is_torn_missing_or_empty_is_named(tmp_path: Path) -> None:
    tars = write_shards(tmp_path, ["train-00000-of-00003", "train-00001-of-00003"])
    with pytest.warns(UserWarning, match=r"missing of the number.*train-…-of-00003: 2 are there"):
        open_images(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train-00002-of-00003\.tar"):
        open_images(f"{tmp_path}/train-{{00000..00002}}-of-00003.tar")
    with pytest.raises(ValueError, match="more than 1000000 files"):
        open_images(f"{tmp_path}/{{0..99999999999}}.tar")
    write_tar(tars[0], {})
    with pytest.warns(UserWarning, match=r"tars without images: 1 \(.*00000-of"):
        open_images(tars)
    tars[1].write_bytes(tars[1].read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"00001-of-00003\.tar cannot be read.*fetch it again"):
        open_images(tars)


def test_tars_called_after_classes_are_folders_of_their_names(tmp_path: Path) -> None:
    for name in ("n01440764", "n02101006"):
        write_tar(tmp_path / f"{name}.tar", {"1.png": png(1)})
    source = open_images(tmp_path)
    assert source.label_names == ["n01440764", "n02101006"] and source.account.classes == 2


def test_splits_are_folders_or_names_of_tars(tmp_path: Path) -> None:
    write_shards(tmp_path / "a/train", ["000"]), write_shards(tmp_path / "a/val", ["000"])
    write_shards(tmp_path / "b", ["train-000", "val-000"])
    for folder in ("a", "b"):
        with pytest.raises(ValueError, match=r"holds the splits \['train', 'val'\]"):
            open_images(tmp_path / folder)
        assert len(open_images(tmp_path / folder, split="val")) == 2
    (tmp_path / "c").mkdir()
    write_tar(tmp_path / "c/000.tar", {"train/cat/1.png": png(1), "test/cat/2.png": png(2)})
    assert shades(open_images(tmp_path / "c", split="test")) == [2]


def test_parquet_beside_a_tar_of_its_name_is_no_table_of_images(tmp_path: Path) -> None:
    write_shards(tmp_path, ["00000"])
    pq.write_table(pa.table({"url": ["a", "b"]}), tmp_path / "00000.parquet")
    with pytest.warns(UserWarning, match=r"passed over.*00000\.parquet"):
        assert shades(open_images(tmp_path)) == [1, 2]


# Parquet


def write_parquet(path: Path, images: list[Any], **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, **columns}), path)
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("0000", "0001"),
        ("part-0", "part-1"),
        ("train/0000", "train/0001"),
        ("part.0-c000.snappy", "part.1-c000.snappy"),
    ],
)
def test_shards_are_one_table(tmp_path: Path, names: tuple[str, str]) -> None:
    files = [
        write_parquet(tmp_path / f"{name}.parquet", [png(shade)], label=[shade]) for shade, name in enumerate(names)
    ]
    source = open_images(tmp_path)
    assert shades(source) == [0, 1] and source.files() == files
    assert shades(open_images(files[::-1])) == [1, 0]
    with pytest.raises(ValueError, match="split='train' needs a folder"):
        open_images(files, split="train")


def test_splits_are_folders_of_shards(tmp_path: Path) -> None:
    for shade, split in enumerate(("train", "test")):
        write_parquet(tmp_path / f"default/{split}/0000.parquet", [png(shade)])
    with pytest.raises(ValueError, match=r"holds the splits \['test', 'train'\]"):
        open_images(tmp_path)
    assert shades(open_images(tmp_path, split="test")) == [1]


@pytest.mark.parametrize(
    ("column", "values", "labels", "names"),
    [
        ("target", [4, 2], [4, 2], None),
        ("label", ["dog", "cat"], [1, 0], ["cat", "dog"]),
        ("category", [1.0, None], [1, -1], None),
        ("labels", [[0, 1], [1, 0]], [1, 0], None),
    ],
)
def test_columns_of_labels(tmp_path: Path, column: str, values: Any, labels: list[int], names: Any) -> None:
    path = write_parquet(tmp_path / "a.parquet", [png(), png()], **{column: values})
    source = open_images(path)
    assert source.labels is not None and source.labels.tolist() == labels and source.label_names == names


def test_several_columns_of_classes_are_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [png()], target=[1], category=[2])
    with pytest.warns(UserWarning, match="labels dropped, several columns .*target, category"):
        assert open_images(path).labels is None


def test_torn_parquet_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [png()])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read as Parquet \(fetch it again"):
        open_images(path)


def test_a_damaged_row_group_is_named_in_each_of_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    noise = [png(0) + bytes(np.random.default_rng(seed).integers(0, 256, 500, np.uint8)) for seed in range(4)]
    pq.write_table(pa.table({"image": noise}), path, row_group_size=2, compression="zstd", write_page_checksum=True)
    damaged = bytearray(path.read_bytes())
    place = damaged.index(noise[0][-40:])
    damaged[place : place + 20] = b"x" * 20
    path.write_bytes(damaged)
    batch = next(open_images(path).batches(4, 4))
    assert [status == "ok" for status in batch.status] == [False, False, True, True]
    assert "a.parquet" in batch.status[0]


def test_tables_read_no_files_outside_their_folder(tmp_path: Path) -> None:
    (tmp_path / "out.png").write_bytes(png())
    (tmp_path / "data").mkdir()
    (tmp_path / "data/in.png").write_bytes(png())
    places = ["in.png", "../out.png", str(tmp_path / "out.png"), str(tmp_path / "data/in.png")]
    for name, images in {"a": places, "b": [{"bytes": None, "path": place} for place in places]}.items():
        path = write_parquet(tmp_path / f"data/{name}.parquet", images)
        batch = next(open_images(path).batches(4, 4))
        assert [status == "ok" for status in batch.status] == [True, False, False, True]
        assert "leads out of" in batch.status[1]


# Tables of `datasets`


def test_saved_tables(tmp_path: Path) -> None:
    import datasets

    columns = {"image": [{"bytes": png(shade), "path": None} for shade in (3, 5)], "label": ["dog", "cat"]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    table = datasets.Dataset.from_dict(columns, features=features)
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=table, test=table.select([1])).save_to_disk(tmp_path / "two")
    source = open_images(tmp_path / "one")
    assert shades(source) == [3, 5] and source.label_names == ["cat", "dog"]
    assert shades(open_images(tmp_path / "two", split="test")) == [5]
    with pytest.raises(ValueError, match=r"the splits \['train', 'test'\]"):
        open_images(tmp_path / "two")
    (tmp_path / "one/state.json").write_text("{")
    with pytest.raises(ValueError, match=r"one cannot be read as a folder of datasets\.save_to_disk"):
        open_images(tmp_path / "one")
    assert json.loads((tmp_path / "two/dataset_dict.json").read_text())["splits"] == ["train", "test"]


def test_two_columns_of_classes_are_named() -> None:
    import datasets

    classes = datasets.ClassLabel(names=["a", "b"])
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": png(), "path": None}], "coarse": [0], "species": [1]},
        features=datasets.Features({"image": datasets.Image(), "coarse": classes, "species": classes}),
    )
    with pytest.warns(UserWarning, match="coarse, species"):
        assert open_images(table).labels is None


# Data sets and loaders of torch


class Shades(Dataset[Any]):
    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


class Streamed(IterableDataset[Any]):
    def __init__(self, *items: Any) -> None:
        self.items = Shades(*items)

    def __iter__(self) -> Iterator[Any]:
        return (self.items[index] for index in range(len(self.items)))


class Divided(Streamed):
    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        return iter(self.items.items if info is None else self.items.items[info.id :: info.num_workers])


def shade(value: int) -> torch.Tensor:
    return torch.full((3, 4, 4), value / 255)


@pytest.mark.parametrize("bad", [KeyError("gone"), ZeroDivisionError(), RecursionError("deep"), None])
@pytest.mark.parametrize("place", [0, 1])
def test_an_image_that_a_data_set_cannot_give_keeps_its_place(bad: Any, place: int) -> None:
    items = [shade(7), shade(9)]
    items.insert(place, bad)
    source = open_images(Shades(*items))
    batch = next(source.batches(4, 3))
    assert [status == "ok" for status in batch.status] == [index != place for index in range(3)]
    assert (type(bad).__name__ if bad else "None") in batch.status[place]
    assert shades(source)[2 if place < 2 else 0] == 9


def test_a_stream_that_fails_does_not_look_as_if_it_had_ended() -> None:
    for images in (Streamed(shade(1), shade(2), KeyError("gone")), DataLoader(Shades(shade(1), KeyError("gone")))):
        with pytest.raises(ImageError, match=r"failed after . of them: KeyError"):
            list(open_images(images).batches(4, 1))


def test_loaders_that_repeat_images_are_named() -> None:
    with pytest.warns(UserWarning, match="2 workers of the iterable Streamed gives each image 2 times"):
        open_images(DataLoader(Streamed(shade(1)), num_workers=2))
    for loader in (
        DataLoader(Divided(shade(1)), num_workers=2),
        DataLoader(Streamed(shade(1)), num_workers=1),
        DataLoader(Shades(shade(1)), num_workers=2),
    ):
        assert open_images(loader).account.images in (None, 1)


def test_pairs_of_text_in_a_loader_without_batches(tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    Path(path).write_bytes(png(6))
    dataset = Shades((path, "cat"))
    dataset.classes = ["cat"]  # type: ignore[attr-defined]
    batch = next(open_images(DataLoader(dataset, batch_size=None)).batches(4, 2))
    assert batch.labels == [0] and batch.paths == [path]


def test_a_part_of_a_data_set_has_its_class_names() -> None:
    dataset = Shades((shade(1), 0), (shade(2), 1))
    dataset.classes = ["cat", "dog"]  # type: ignore[attr-defined]
    assert open_images(Subset(dataset, [1])).label_names == ["cat", "dog"]


def test_labels_that_are_dropped_while_reading_are_counted() -> None:
    source = open_images(Shades((shade(1), "cat"), (shade(2), 1), (shade(3), {"boxes": []})))
    with pytest.warns(UserWarning, match="labels dropped: a label is"):
        assert next(source.batches(4, 3)).labels == [None, 1, None]
    assert sum(named.count for named in source.account.dropped.values()) == 2


def test_bytes_of_a_picture_and_grey_arrays() -> None:
    assert shades(open_images(png(8))) == [8]
    grey = np.full((4, 4), 9, np.uint8)
    for images in (grey, [grey], torch.from_numpy(grey), torch.from_numpy(grey)[None].float() / 255):
        assert shades(open_images(images)) == [9]


def test_sets_have_no_order() -> None:
    with pytest.raises(TypeError, match=r"sorted\("):
        open_images({"a.png", "b.png"})


def test_a_picture_that_is_nearly_black_is_named() -> None:
    source = open_images([png(1), png(2), png(200)])
    with pytest.warns(UserWarning, match="nearly black"):
        next(source.batches(4, 3))
    assert source.account.noticed.count == 2


def test_the_range_of_values_can_be_stated() -> None:
    picture = Image.fromarray(np.full((4, 4), 4095, np.uint16))
    batch = next(open_images([picture], value_range=(0, 4095)).batches(4, 1))
    assert batch.pixels.min() == 1


def test_a_list_reads_nothing_through_a_link_that_leads_out_of_its_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in (tmp_path / "secret.png", data / "own.png"):
        Image.new("RGB", (8, 8)).save(path)
    (data / "link.png").symlink_to(tmp_path / "secret.png")
    (data / "inside.png").symlink_to("own.png")
    (data / "folder").symlink_to(tmp_path)
    for name in ("link.png", "folder/secret.png"):
        (data / "list.csv").write_text(f"file_name\ninside.png\n{name}\n")
        with pytest.raises(ValueError, match=r"list\.csv, image 2: .* link"):
            open_images(data / "list.csv")
    (data / "list.csv").write_text("file_name\ninside.png\nown.png\n")
    assert len(open_images(data / "list.csv")) == 2


def test_captions_are_no_classes(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (8, 8), (50 * number, 9, 9)).save(tmp_path / f"{number}.png")
    lines = [f"{number}.png,a picture of {number} red cats\n" for number in range(4)]
    (tmp_path / "list.csv").write_text("file_name,label\n" + "".join(lines))
    with pytest.warns(UserWarning, match="captions"):
        source = open_images(tmp_path / "list.csv")
    assert source.labels is None and source.label_names is None
    lines = [f"{number}.png,{'red' if number % 2 else 'light blue'}\n" for number in range(4)]
    (tmp_path / "list.csv").write_text("file_name,label\n" + "".join(lines))
    assert open_images(tmp_path / "list.csv").label_names == ["light blue", "red"]


def test_a_data_set_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for split, shade in (("train", 1), ("test", 2)):
        for label in ("cat", "dog"):
            path = tmp_path / "photos" / split / label / "a.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(png(shade))
    name = f"datasets:{tmp_path / 'photos'}"  # a folder of pictures has a loader of its own in `datasets`
    source = open_images(name, split="test")
    assert shades(source) == [2, 2] and source.label_names == ["cat", "dog"] and source.labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match="'train', 'test'"):
        open_images(name)
    with pytest.raises(ValueError, match=r"datasets:.*validation"):
        open_images(name, split="validation")
    with pytest.raises(FileNotFoundError, match="datasets:nobody/nothing"):
        open_images("datasets:nobody/nothing")


@pytest.mark.parametrize(
    ("text", "labels", "names"),
    [
        ("Path,Label\n1.png,dog\n2.png,cat\n", [1, 0], ["cat", "dog"]),
        ("path, label\n1.png, dog\n2.png, cat\n", [1, 0], ["cat", "dog"]),
        ("Path,label,Label\n1.png,5,7\n2.png,4,7\n", [5, 4], None),
        (b"path,label\n1.png,caf\xe9\n2.png,caf\xe8\n", [1, 0], ["caf\udce8", "caf\udce9"]),
    ],
)
def test_columns_and_labels_however_they_are_written(tmp_path: Path, text: Any, labels: Any, names: Any) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    (tmp_path / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    source = open_images(tmp_path / "list.csv")
    assert source.labels is not None and source.labels.tolist() == labels and source.label_names == names


def test_a_table_without_labels_names_its_columns(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    (tmp_path / "list.csv").write_text("path,species\n1.png,dog\n")
    for path in (tmp_path / "list.csv", write_parquet(tmp_path / "a.parquet", [png(1)], species=["dog"])):
        assert "none of the columns species is called 'label'" in str(open_images(path).account)


def test_a_column_that_may_be_labels_is_named(tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "a.parquet", [png(1)], label_id=[3], width=[8])
    with pytest.warns(UserWarning, match="a column is called label_id: call the right one 'label'"):
        assert open_images(table).labels is None
