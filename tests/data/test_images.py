from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from randar_features.data import ImageBatch, ImageSource, open_images

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

SIZE = 8
PICTURES = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
PIXELS = torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 255  # (5, 3, 8, 8)
LABELS = [2, 0, 1, 1, 0]


def _read(images: Any, batch_size: int = 2, num_workers: int = 0, **options: Any) -> ImageBatch:
    """All rows of ``images`` as one batch."""
    source = images if isinstance(images, ImageSource) else open_images(images, **options)
    batches = list(source.batches(SIZE, batch_size, num_workers))
    assert all(len(batch.status) == batch_size for batch in batches[:-1])
    assert source.length in (None, sum(len(batch.status) for batch in batches))
    return ImageBatch(
        torch.cat([batch.pixels for batch in batches]),
        [label for batch in batches for label in batch.labels],
        [path for batch in batches for path in batch.paths],
        [status for batch in batches for status in batch.status],
        [digest for batch in batches for digest in batch.hashes],
        [is_file for batch in batches for is_file in batch.files],
    )


def _expect(batch: ImageBatch, labels: Sequence[int | None] = (None,) * 5) -> None:
    assert batch.status == ["ok"] * 5
    assert batch.pixels.dtype == torch.float32
    assert torch.equal(batch.pixels, PIXELS)
    assert batch.labels == list(labels)


def _save(folder: Path, names: list[str]) -> list[Path]:
    paths = [folder / name for name in names]
    for path, picture in zip(paths, PICTURES, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return paths


class _Pictures(Dataset[Any]):
    """Items ``make(i)`` for the five pictures."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


class _Streamed(IterableDataset[Any]):
    def __init__(self, make: Any) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        return (self.make(index) for index in range(5))


# Forms


@pytest.mark.parametrize(
    "images",
    [
        PICTURES,
        list(PICTURES),
        PIXELS,
        PIXELS.double(),
        list(PIXELS),
        [Image.fromarray(picture) for picture in PICTURES],
        (Image.fromarray(PICTURES[0]), PICTURES[1], PIXELS[2], PICTURES[3], PIXELS[4]),
        torch.from_numpy(PICTURES),
        torch.from_numpy(PICTURES).permute(0, 3, 1, 2),
        (picture for picture in PICTURES),
    ],
    ids=[
        "stack",
        "arrays",
        "tensor",
        "double",
        "tensors",
        "pillow",
        "mixed",
        "uint8-tensor",
        "uint8-planes",
        "generator",
    ],
)
def test_what_is_in_memory(images: Any) -> None:
    _expect(_read(images))


@pytest.mark.parametrize("image", [PICTURES[0], PIXELS[0], Image.fromarray(PICTURES[0])])
def test_a_single_image(image: Any) -> None:
    assert len(open_images(image)) == 1
    assert torch.equal(_read(image).pixels, PIXELS[:1])


def test_paths_with_and_without_workers(tmp_path: Path) -> None:
    paths = _save(tmp_path, ["e.png", "d.png", "c.png", "b.png", "a.png"])
    for num_workers in (0, 2):
        batch = _read(paths, num_workers=num_workers)
        _expect(batch)
        assert batch.paths == [str(path) for path in paths]
    assert torch.equal(_read(str(paths[3])).pixels, PIXELS[3:4])


@pytest.mark.parametrize("dtype", [str, object])
def test_paths_in_an_array(tmp_path: Path, dtype: type) -> None:
    paths = [str(path) for path in _save(tmp_path, [f"{i}.png" for i in range(5)])]
    batch = _read(np.array(paths, dtype=dtype))
    _expect(batch)
    assert batch.paths == paths


def test_a_series_is_read_in_its_order_not_by_its_index(tmp_path: Path) -> None:
    paths = [str(path) for path in _save(tmp_path, [f"{i}.png" for i in range(5)])]
    batch = _read(pd.Series(paths)[::-1])
    assert batch.paths == paths[::-1]
    assert torch.equal(batch.pixels, PIXELS.flip(0))
    assert _read(pd.Series(paths)[[3, 1]]).paths == [paths[3], paths[1]]
    assert _read(pd.DataFrame({"path": paths})[::-1]).paths == paths[::-1]  # of one column, as of ColumnTransformer


def test_a_frame_of_several_columns_asks_for_one() -> None:
    with pytest.raises(TypeError, match=r"DataFrame of several columns: .*frame\['path'\]"):
        open_images(pd.DataFrame({"path": ["a.png"], "label": [0]}))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    "make",
    [
        lambda i: (Image.fromarray(PICTURES[i]), LABELS[i]),
        lambda i: (PIXELS[i], torch.tensor(LABELS[i]), "more"),
        lambda i: [PICTURES[i], np.int64(LABELS[i])],
        lambda i: {"image": PICTURES[i], "label": LABELS[i]},
        lambda i: {"img": PIXELS[i], "fine_label": LABELS[i], "coarse_label": 9},
    ],
)
def test_datasets_of_torch(make: Any, num_workers: int) -> None:
    _expect(_read(_Pictures(make), num_workers=num_workers), LABELS)
    _expect(_read(_Streamed(make), num_workers=num_workers), LABELS)


def test_streams_have_no_length_and_can_be_read_again() -> None:
    source = open_images(_Streamed(lambda i: PICTURES[i]))
    assert source.length is None
    with pytest.raises(TypeError, match="no known length"):
        len(source)
    for _ in range(2):
        _expect(_read(source))


@pytest.mark.parametrize("label", [None, -1, 1.5, "cat", torch.zeros(4, 4), {"boxes": []}])
def test_what_is_no_class_is_no_label(label: Any) -> None:
    _expect(_read(_Pictures(lambda i: (PICTURES[i], label))))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("make", "labels"),
    [
        (lambda i: PIXELS[i], (None,) * 5),
        (lambda i: (PIXELS[i], LABELS[i]), LABELS),
        (lambda i: (PICTURES[i], LABELS[i]), LABELS),
        (lambda i: {"img": PIXELS[i], "label": LABELS[i]}, LABELS),
    ],
)
def test_loaders_of_torch_are_cut_into_other_batches(make: Any, labels: Any, batch_size: int) -> None:
    source = open_images(DataLoader(_Pictures(make), batch_size=3))
    assert source.length == 5
    _expect(_read(source, batch_size), labels)
    _expect(_read(DataLoader(_Streamed(make), batch_size=2), batch_size), labels)


@pytest.mark.parametrize(
    "collate",
    [
        list,  # a list of items
        lambda items: tuple(zip(*items, strict=True)),  # images, labels
        lambda items: {"image": [item[0] for item in items], "label": [item[1] for item in items]},
    ],
)
def test_loaders_may_collate_pillow_images(collate: Any) -> None:
    dataset = _Pictures(lambda i: (Image.fromarray(PICTURES[i]), LABELS[i]))
    _expect(_read(DataLoader(dataset, batch_size=2, collate_fn=collate)), LABELS)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("collate", [list, lambda items: tuple(zip(*items, strict=True))], ids=["items", "columns"])
@pytest.mark.parametrize("kind", ["pillow", "tensor", "file"])
def test_loaders_may_collate_images_with_names_of_classes(
    tmp_path: Path, kind: str, collate: Any, batch_size: int
) -> None:
    pictures = [Image.fromarray(picture) for picture in PICTURES]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    images = {"pillow": pictures, "tensor": PIXELS, "file": [str(tmp_path / f"{n}.png") for n in range(5)]}[kind]
    dataset = _Pictures(lambda i: (images[i], ("dog", "cat")[i % 2]))
    dataset.classes = ["cat", "dog"]  # type: ignore[attr-defined]
    _expect(_read(DataLoader(dataset, batch_size=batch_size, collate_fn=collate)), (1, 0, 1, 0, 1))


def test_loaders_may_collate_items_of_an_image_alone() -> None:
    _expect(_read(DataLoader(TensorDataset(PIXELS), batch_size=2, collate_fn=list)))


def test_a_source_that_is_opened_again_keeps_what_is_not_stated() -> None:
    source = open_images(list(PIXELS), value_range=(0, 4095), max_pixels=64)
    again = [open_images(source, **stated).reading for stated in ({}, {"max_pixels": 65}, {"value_range": (0, 1)})]
    assert [one.value_range for one in again] == [(0, 4095), (0, 4095), (0, 1)]
    assert [one.max_pixels for one in again] == [64, 65, 64]
    with pytest.raises(ValueError, match="split='train'"):
        open_images(source, split="train")


def test_loaders_that_drop_or_sample_tell_their_length() -> None:
    dataset = _Pictures(lambda i: PIXELS[i])
    assert len(open_images(DataLoader(dataset, batch_size=2, drop_last=True))) == 4
    assert len(open_images(DataLoader(dataset, batch_size=2, sampler=[4, 1, 0]))) == 3
    assert open_images(DataLoader(dataset, batch_sampler=[[0, 1], [2]])).length is None
    assert open_images(DataLoader(_Streamed(lambda i: PIXELS[i]), batch_size=2)).length is None


@pytest.mark.parametrize(
    ("make", "labels"),
    [
        (lambda i: PIXELS[i], (None,) * 5),
        (lambda i: Image.fromarray(PICTURES[i]), (None,) * 5),
        (lambda i: (PIXELS[i], torch.tensor(LABELS[i])), LABELS),
        (lambda i: (PIXELS[i], "cat"), (None,) * 5),
        (lambda i: {"image": Image.fromarray(PICTURES[i]), "label": LABELS[i]}, LABELS),
    ],
    ids=["tensor", "pillow", "pair", "name", "mapping"],
)
def test_loaders_without_batches_give_one_item_each(make: Any, labels: Any) -> None:
    for dataset in (_Pictures(make), _Streamed(make)):
        _expect(_read(DataLoader(dataset, batch_size=None)), labels)


def test_loaders_without_batches_may_pass_on_those_of_their_dataset() -> None:
    cuts = [slice(0, 2), slice(2, 5)]
    for make in (
        lambda cut: (PIXELS[cut], torch.tensor(LABELS[cut])),
        lambda cut: {"image": PIXELS[cut], "label": LABELS[cut]},
        lambda cut: list(zip(PIXELS[cut], LABELS[cut], strict=True)),
    ):
        _expect(_read(DataLoader([make(cut) for cut in cuts], batch_size=None)), LABELS)  # type: ignore[arg-type]
    _expect(_read(DataLoader([list(PIXELS[cut]) for cut in cuts], batch_size=None)))  # type: ignore[arg-type]
    pairs = DataLoader(TensorDataset(PIXELS, torch.tensor(LABELS)), batch_sampler=[[0, 1], [2], [3, 4]])
    _expect(_read(pairs), LABELS)


def test_class_names_of_torch_datasets() -> None:
    dataset = _Pictures(lambda i: (PICTURES[i], LABELS[i]))
    assert open_images(dataset).label_names is None
    dataset.classes = ["cat", "dog", "owl"]  # type: ignore[attr-defined]
    assert open_images(dataset).label_names == ["cat", "dog", "owl"]
    assert open_images(DataLoader(dataset, batch_size=2)).label_names == ["cat", "dog", "owl"]


# Folders


def test_a_folder_is_read_in_sorted_order_below_too(tmp_path: Path) -> None:
    names = ["B.JPG.png", "a.png", "sub/a.PNG", "sub/deep/b.png", "z.png"]
    paths = _save(tmp_path, names)
    (tmp_path / "readme.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "thumbnail.png").write_text("no image")
    batch = _read(tmp_path)
    assert batch.paths == [str(path) for path in paths]
    _expect(batch)
    assert open_images(str(tmp_path)).label_names is None


def test_subfolders_are_classes_where_they_hold_all_files(tmp_path: Path) -> None:
    _save(tmp_path, ["cat/x/2.png", "cat/1.png", "dog/1.png", "owl/1.png", "owl/2.png"])
    source = open_images(tmp_path)
    assert source.label_names == ["cat", "dog", "owl"]
    batch = _read(source)
    assert batch.labels == [0, 0, 1, 2, 2]
    assert torch.equal(batch.pixels, PIXELS[[1, 0, 2, 3, 4]])


def test_a_folder_without_images_is_named_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=rf"no images in folder '{tmp_path}'.*notes\.txt"):
        open_images(tmp_path)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        open_images(tmp_path / "absent")


# Bad rows


def _spoiled_folder(folder: Path) -> list[Path]:
    paths = _save(folder, ["0.png", "1.jpg", "2.png", "3.png", "4.png"])
    paths[1].write_text("not an image")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(paths[2])
    paths[2].write_bytes(paths[2].read_bytes()[:5000])
    Image.new("RGB", (1, 1), (0, 102, 255)).save(paths[3])
    return paths


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_bad_files_keep_their_rows_and_shift_none(tmp_path: Path, batch_size: int, num_workers: int) -> None:
    paths = _spoiled_folder(tmp_path)
    batch = _read([(path, label) for path, label in zip(paths, LABELS, strict=True)], batch_size, num_workers)
    assert [status == "ok" for status in batch.status] == [True, False, False, True, True]
    assert str(paths[1]) in batch.status[1]
    assert "not an image" in batch.status[1]
    assert str(paths[2]) in batch.status[2]
    assert batch.labels == LABELS
    assert batch.paths == [str(path) for path in paths]
    assert torch.equal(batch.pixels[[0, 4]], PIXELS[[0, 4]])
    assert not batch.pixels[1:3].any()
    assert torch.equal(batch.pixels[3], torch.tensor([0, 0.4, 1])[:, None, None].expand(3, SIZE, SIZE))


def test_bad_images_of_a_dataset_keep_their_rows(tmp_path: Path) -> None:
    paths = _spoiled_folder(tmp_path)

    def opened(index: int) -> tuple[Image.Image, int]:
        return Image.open(paths[index]).convert("RGB"), LABELS[index]

    batch = _read(_Pictures(opened))
    assert [status == "ok" for status in batch.status] == [True, False, False, True, True]
    assert torch.equal(batch.pixels[[0, 4]], PIXELS[[0, 4]])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("bad", [0, 2])
def test_a_row_whose_decoder_fails_keeps_its_place(bad: int, num_workers: int) -> None:
    def decoded(index: int) -> tuple[Tensor, int]:
        if index == bad:
            raise RuntimeError("invalid JPEG")
        return PIXELS[index], LABELS[index]

    batch = _read(_Pictures(decoded), num_workers=num_workers)
    kept = [index for index in range(5) if index != bad]
    assert batch.status == ["invalid JPEG" if index == bad else "ok" for index in range(5)]
    assert torch.equal(batch.pixels[kept], PIXELS[kept])
    assert [batch.labels[index] for index in kept] == [LABELS[index] for index in kept]


def test_later_tensors_out_of_range_are_bad_rows() -> None:
    dataset = _Pictures(lambda i: PIXELS[i] * (3 if i == 2 else 1))
    for images in (dataset, DataLoader(dataset, batch_size=3), _Streamed(dataset.make)):
        batch = _read(images)
        assert [status == "ok" for status in batch.status] == [True, True, False, True, True]
        assert "expected pixels in [0, 1]" in batch.status[2]
        assert torch.equal(batch.pixels[3:], PIXELS[3:])


# Wrong arguments


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ((PIXELS * 255).to(torch.int32), TypeError, r"torch.int32 \(3, 8, 8\): divide"),
        ((PIXELS[:, :, :, :3] * 255).to(torch.uint8), ValueError, r"\(3, 8, 3\): which axis is colour"),
        (PIXELS * 255, ValueError, r"expected pixels in \[0, 1\]"),
        (PIXELS * 2 - 1, ValueError, "values from -1 to"),
        (torch.cat([PIXELS, PIXELS[:1] * float("nan")]), ValueError, "NaN"),
        (PIXELS[:, :2], ValueError, r"got shape \(2, 8, 8\)"),
        (PIXELS.to("meta"), TypeError, "expected a dense tensor of pixels, got .* on meta"),
        (PIXELS[0].to_sparse(), TypeError, "expected a dense tensor of pixels, got torch.sparse_coo"),
        ("~/pictures", FileNotFoundError, "expanduser"),
        (PIXELS[0, 0], ValueError, r"got shape \(8, 8\)"),
        (PICTURES[..., :2], ValueError, r"got shape \(8, 8, 2\).* Pillow"),
        (PICTURES.transpose(0, 3, 1, 2), ValueError, r"got shape \(3, 8, 8\): channels come last"),
        (PICTURES / 255, TypeError, "got float64"),
        ([PICTURES[0], PICTURES[1] / 255], TypeError, "got float64"),
        ([PICTURES[0], None], TypeError, "NoneType"),
        ([], ValueError, "the list is empty"),
        (PIXELS[:0], ValueError, "the Tensor is empty"),
        (_Pictures(lambda i: PIXELS[i] * 2 - 1), ValueError, "values from"),
        (
            _Pictures(lambda i: {"picture": 1, "label": 2}),
            ValueError,
            r"got \['picture', 'label'\], expected",
        ),
        (17, TypeError, "cannot read images from int: expected a path"),
        (b"bytes", ValueError, "5 bytes that are no picture"),
    ],
)
def test_wrong_arguments_raise_at_once(images: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_images(images)


def test_streams_of_the_wrong_kind_raise_with_the_first_item() -> None:
    dataset = _Pictures(lambda i: PIXELS[i] * 2 - 1)
    for images in (_Streamed(dataset.make), DataLoader(dataset, batch_size=2)):
        with pytest.raises(ValueError, match="expected pixels in"):
            next(open_images(images).batches(SIZE, 2))
    with pytest.raises(ValueError, match=r"batches of images \(B, 3, H, W\), got shape \(2, 8, 8\)"):
        next(open_images(DataLoader(_Pictures(lambda i: PIXELS[i, 0]), batch_size=2)).batches(SIZE, 2))


@pytest.mark.parametrize(("image_size", "batch_size", "num_workers"), [(0, 1, 0), (8, 0, 0), (8, 1, -1)])
def test_sizes_below_the_least_raise_at_once(image_size: int, batch_size: int, num_workers: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        open_images(PICTURES).batches(image_size, batch_size, num_workers)


def test_a_split_of_what_has_none(tmp_path: Path) -> None:
    _save(tmp_path, [f"{i}.png" for i in range(5)])
    with pytest.raises(ValueError, match=f"no split 'train' in '{tmp_path}'"):
        open_images(tmp_path, split="train")
    with pytest.raises(ValueError, match=r"split='train' needs a folder.*got ndarray"):
        open_images(PICTURES, split="train")


# Hub tables


class _Files(NamedTuple):
    table: Any
    parquet: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> _Files:
    """The five pictures as a `datasets` table and as Parquet files of two splits and small row groups."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("hub")
    encoded = [path.read_bytes() for path in _save(folder / "png", [f"{i}.png" for i in range(5)])]
    columns = {
        "id": list("abcde"),
        "fine_label": LABELS,
        "photo": [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(encoded)],
    }
    names = datasets.ClassLabel(names=["cat", "dog", "owl"])
    features = datasets.Features({"id": datasets.Value("string"), "fine_label": names, "photo": datasets.Image()})
    table = datasets.Dataset.from_dict(columns, features=features)
    (folder / "parquet").mkdir()
    table.select(range(3)).to_parquet(folder / "parquet" / "train-00000-of-00002.parquet", batch_size=2)
    table.select(range(3, 5)).to_parquet(folder / "parquet" / "train-00001-of-00002.parquet")
    table.select([4]).to_parquet(folder / "parquet" / "test-00000-of-00001.parquet")
    return _Files(table, folder / "parquet")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_tables_of_datasets(files: _Files, num_workers: int) -> None:
    for table in (files.table, files.table.with_format("torch"), files.table.to_iterable_dataset()):
        source = open_images(table)
        batch = _read(source, num_workers=num_workers)
        _expect(batch, LABELS)
        assert batch.paths == [f"{i}.png" for i in range(5)]
        assert source.label_names == ["cat", "dog", "owl"]


def test_text_in_a_stream_is_dropped_with_a_word_on_how_to_name_classes(files: _Files) -> None:
    stream = files.table.remove_columns("fine_label").rename_column("id", "label").to_iterable_dataset()
    with pytest.warns(UserWarning, match=r"labels dropped: .*text.*datasets\.ClassLabel.*\('a'\)"):
        _expect(_read(open_images(stream)))


def test_a_column_of_images(files: _Files) -> None:
    _expect(_read(files.table["photo"]))
    _expect(_read(files.table.to_iterable_dataset()["photo"]))


def test_table_with_a_transform_of_its_own(files: _Files) -> None:
    def halve(rows: dict[str, Any]) -> dict[str, Any]:
        return {"image": [np.asarray(photo) // 2 for photo in rows["photo"]], "label": rows["fine_label"]}

    source = open_images(files.table.with_transform(halve))
    batch = _read(source)
    assert torch.equal(batch.pixels, torch.from_numpy(PICTURES // 2).permute(0, 3, 1, 2) / 255)
    assert batch.labels == LABELS and source.label_names == ["cat", "dog", "owl"]


def test_bad_images_of_a_table_keep_their_rows(files: _Files) -> None:
    import datasets

    encoded = [row["photo"] for row in files.table.cast_column("photo", datasets.Image(decode=False))]
    encoded[1] = {"bytes": b"not an image", "path": "notes.jpg"}
    features = datasets.Features({"image": datasets.Image()})
    table = datasets.Dataset.from_dict({"image": encoded}, features=features)
    batch = _read(table)
    assert [status == "ok" for status in batch.status] == [True, False, True, True, True]
    assert batch.paths[1] == "notes.jpg"
    assert torch.equal(batch.pixels[2:], PIXELS[2:])


def test_split_dictionaries_need_a_split(files: _Files) -> None:
    import datasets

    tables = datasets.DatasetDict(train=files.table, test=files.table.select([4]))
    assert len(open_images(tables, split="test")) == 1
    with pytest.raises(ValueError, match=r"has the splits \['train', 'test'\], got split=None"):
        open_images(tables)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_parquet_files_in_row_groups(files: _Files, num_workers: int) -> None:
    source = open_images(files.parquet, split="train")
    batch = _read(source, 3, num_workers)
    _expect(batch, LABELS)
    assert batch.paths == [f"{i}.png" for i in range(5)]
    assert source.label_names == ["cat", "dog", "owl"]
    single = _read(files.parquet / "test-00000-of-00001.parquet")
    assert torch.equal(single.pixels, PIXELS[4:])


def test_parquet_splits_must_be_named_and_exist(files: _Files) -> None:
    with pytest.raises(ValueError, match=r"the splits \['test', 'train'\]: choose one"):
        open_images(files.parquet)
    with pytest.raises(ValueError, match=r"no split 'validation' in .*: found \['test', 'train'\]"):
        open_images(files.parquet, split="validation")


def test_columns_are_named_where_none_is_an_image(files: _Files) -> None:
    table = files.table.remove_columns("photo")
    with pytest.raises(ValueError, match=r"'fine_label': 'ClassLabel'.*expected one of type Image"):
        open_images(table)


# Order and randomness


def test_reading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    _read(PICTURES)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_opened_source_passes_through() -> None:
    source = open_images(PICTURES)
    assert open_images(source) is source


def test_pixels_of_other_sizes_agree_between_forms(tmp_path: Path) -> None:
    big = np.random.default_rng(2).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    Image.fromarray(big).save(tmp_path / "big.png")
    tensor: Tensor = torch.from_numpy(big).permute(2, 0, 1) / 255
    expected = _read(tmp_path / "big.png").pixels
    for form in (big, Image.fromarray(big), tensor):
        assert torch.equal(_read(form).pixels, expected)


class Numbers(IterableDataset):
    """Images that tell which they are."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self):
        return (np.full((4, 4, 3), number, dtype=np.uint8) for number in range(self.count))


@pytest.mark.parametrize("streamed", [False, True])
def test_runs_of_rows(streamed: bool):
    source = open_images(Numbers(20) if streamed else list(Numbers(20)))
    assert source.streamed == streamed
    runs = [range(1, 2), range(5, 10), range(10, 12)]
    batches = [(batch.pixels[:, 0, 0, 0] * 255).round().int().tolist() for batch in source.batches(4, 3, rows=runs)]
    assert batches == [[1], [5, 6, 7], [8, 9], [10, 11]]
    assert list(source.batches(4, 3, rows=[])) == []


def test_the_first_rows(tmp_path: Path):
    source = open_images(list(Numbers(5)))
    few = source.first(3)
    assert len(few) == 3 and len(source) == 5
    assert [len(batch.status) for batch in few.batches(4, 2)] == [2, 1]
    assert len(source.first(9)) == 5
    for name in ("a", "b", "c"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    files = open_images(tmp_path).first(2)
    assert files.files() == [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(ValueError, match="count of at least 1, got 0"):
        source.first(0)
    with pytest.raises(ValueError, match=r"fixed order .* got a stream"):
        open_images(Numbers(5)).first(2)


def test_a_stream_ends_in_a_run_that_it_cannot_fill():
    runs = (range(start, start + 4) for start in itertools.count(0, 4))
    batches = open_images(Numbers(10)).batches(4, 8, rows=runs)
    assert [len(batch.status) for batch in batches] == [4, 4, 2]


def test_some_images_by_their_numbers(tmp_path: Path):
    for name in ("a", "b", "c"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    source = open_images(tmp_path)
    assert source.files() == [tmp_path / f"{name}.png" for name in ("a", "b", "c")]
    few = source.take(np.array([2, 0]))
    assert few.files() == [tmp_path / "c.png", tmp_path / "a.png"] and len(few) == 2
    assert next(few.batches(4, 2)).paths == [str(tmp_path / "c.png"), str(tmp_path / "a.png")]
    assert open_images([Image.new("RGB", (4, 4))]).files() == []
    for wrong in (3, -1):
        with pytest.raises(IndexError, match=f"no image {wrong}: .* 0 to 2"):
            source.take([wrong])
    stream = open_images(Numbers(3))
    assert stream.files() == []
    with pytest.raises(ValueError, match="stream"):
        stream.take([0])


def test_some_items_of_a_data_set_with_their_labels():
    data = TensorDataset(torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 4, 4) / 4, torch.arange(4))
    batch = next(open_images(data).take([3, 1]).batches(4, 2))
    assert batch.labels == [3, 1] and batch.pixels[:, 0, 0, 0].tolist() == [0.75, 0.25]


def test_a_stated_range_and_limit_reach_every_picture(tmp_path: Path) -> None:
    deep = np.full((8, 8), 4095, np.uint16)
    for name in ("a", "b"):
        Image.fromarray(deep).save(tmp_path / f"{name}.png")
    Image.fromarray(np.full((9, 9), 200, np.uint8)).save(tmp_path / "c.png")
    source = open_images(tmp_path)
    with pytest.warns(UserWarning, match=r"a\.png is nearly black: its values reach 4095 .*value_range"):
        list(source.batches(8, 2))
    assert source.account.noticed.count == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = open_images(tmp_path, value_range=(0, 4095), max_pixels=64)
        (batch,) = source.batches(8, 3)
        (first,) = source.first(1).batches(8, 1)
    assert batch.pixels[:2].eq(1).all() and first.pixels.eq(1).all()
    assert batch.status[:2] == ["ok", "ok"] and "9x9 pixels are more than the limit of 64" in batch.status[2]
    again = open_images(open_images([deep_file := tmp_path / "a.png"]), value_range=(0, 8190))
    assert next(again.batches(8, 1)).pixels[0, 0, 0, 0] == pytest.approx(128 / 255) and deep_file.exists()
    for wrong in ({"value_range": (1, 0)}, {"max_pixels": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            open_images(tmp_path, **wrong)  # type: ignore[arg-type]
