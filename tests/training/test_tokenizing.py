from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from randar_features.data import adm_center_crop, to_tensor
from randar_features.data.token_store import TokenStore
from randar_features.store import writer
from randar_features.store.shards import Shard
from randar_features.store.writer import OpenShard
from randar_features.tokenizers import ImageTokenizer
from randar_features.tokenizers.folder import tokenizer_hash
from randar_features.training.tokenizing import cut_crops, tokenize
from tests.small_models import IMAGE_SIZE, VOCAB_SIZE, small_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> ImageTokenizer:
    return small_tokenizer()


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((40, 30), Image.Resampling.BICUBIC)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three pictures of two classes, and a file between them that is none."""
    folder = tmp_path / "images"
    for index, name in enumerate(("ant/0.png", "bee/2.png", "bee/3.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(folder / name)
    (folder / "bee/1.jpg").write_text("no picture")
    return folder


def make(tokenizer: ImageTokenizer, images: Any, folder: Path, **options: Any) -> TokenStore:
    store = tokenize(tokenizer, images, folder, image_size=IMAGE_SIZE, **options)
    assert store is not None
    return store


def tokens_of(store: TokenStore) -> list:
    rows, views = torch.arange(len(store)), range(store.num_crops)
    return torch.stack([store.batch(rows, torch.full_like(rows, view))[0] for view in views], dim=1).tolist()


def expected_tokens(tokenizer: ImageTokenizer, seed: int) -> list:
    crop = to_tensor(adm_center_crop(picture(seed), IMAGE_SIZE))[None]
    return [tokenizer.encode(view)[0].tolist() for view in (crop, crop.flip(3))]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".lock")}


@pytest.mark.parametrize("shard_size", [2, 100])
def test_tokens_are_those_of_the_crop_and_its_mirror_image(
    tokenizer: ImageTokenizer, images: Path, tmp_path: Path, shard_size: int
):
    store = make(tokenizer, images, tmp_path / "tokens", shard_size=shard_size)
    assert tokens_of(store) == [expected_tokens(tokenizer, seed) for seed in range(3)]
    assert tokens_of(store)[0][0] != tokens_of(store)[0][1]
    assert store.labels.tolist() == [0, 1, 1]


def test_ten_crops_by_hand():
    pixels = torch.arange(2 * 3 * 5 * 6, dtype=torch.float32).view(2, 3, 5, 6)
    views = cut_crops(pixels, "ten", 4)
    assert views.shape == (2, 10, 3, 4, 4)
    for half, image in enumerate((pixels, pixels.flip(3))):
        for corner, (top, left) in enumerate(((0, 0), (0, 2), (1, 0), (1, 2), (0, 1))):
            # Of a margin of one pixel the centre leaves none above: half of it is rounded to the even number.
            assert torch.equal(views[:, 5 * half + corner], image[:, :, top : top + 4, left : left + 4])


def test_ten_crops_are_of_a_slightly_larger_image(tokenizer: ImageTokenizer, tmp_path: Path):
    store = make(tokenizer, [picture(0)], tmp_path, crops="ten", crop_range=1.25)
    larger = to_tensor(adm_center_crop(picture(0), 20))
    corner = tokenizer.encode(larger[None, :, :16, :16])[0].tolist()
    assert tokens_of(store)[0][0] == corner
    assert tokens_of(store)[0][9] == tokenizer.encode(larger[None, :, 2:18, 2:18].flip(3))[0].tolist()
    assert store.num_crops == len(store.manifest["views"]) == 10
    assert store.manifest["views"][6] == "top right crop of the mirror image"


def test_the_manifest_says_what_is_there(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    store = make(tokenizer, images, tmp_path / "tokens", shard_size=3)
    about = {
        "views": ["centre crop", "mirror image"],
        "crop_range": 1.0,
        "image_size": IMAGE_SIZE,
        "tokenizer": tokenizer_hash(tokenizer),
        "dtype": "float32",
        "vocab_size": VOCAB_SIZE,
        "label_names": ["ant", "bee"],
        "shard_rows": 3,
    }
    assert about.items() <= store.manifest.items()
    assert [len(shard.rows) for shard in store.store.shards] == [3, 1]
    [unreadable] = store.unreadable
    assert (unreadable["row"], unreadable["path"]) == (1, str(images / "bee/1.jpg"))
    assert "image" in unreadable["reason"]


def test_unreadable_rows_count_from_the_sources_beginning(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    (images / "bee/4.jpg").write_text("no picture")
    store = make(tokenizer, images, tmp_path / "tokens", shard_size=2, batch_size=1)
    assert [entry["row"] for entry in store.unreadable] == [1, 4]


def test_images_without_labels(tokenizer: ImageTokenizer, tmp_path: Path):
    store = make(tokenizer, [picture(0), picture(1)], tmp_path)
    assert store.labels.tolist() == [-1, -1]
    assert store.manifest["label_names"] is None


def test_half_precision_keeps_the_hash_of_the_weights(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    store = make(tokenizer, images, tmp_path / "tokens", dtype=torch.bfloat16)
    assert (store.manifest["tokenizer"], store.manifest["dtype"]) == (tokenizer_hash(tokenizer), "bfloat16")
    assert next(tokenizer.parameters()).dtype == torch.float32
    with pytest.raises(ValueError, match='dtype is "bfloat16", now "float32"'):
        make(tokenizer, images, tmp_path / "tokens")


def test_a_finished_store_is_kept(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    before = make(tokenizer, images, tmp_path / "tokens")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").iterdir()}
    after = make(tokenizer, images, tmp_path / "tokens")
    assert tokens_of(before) == tokens_of(after)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").iterdir()} == written


def test_a_store_of_another_tokenizer_is_an_error(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    make(tokenizer, images, tmp_path / "tokens")
    other = small_tokenizer(seed=1)
    message = f'tokenizer is "{tokenizer_hash(tokenizer)}", now "{tokenizer_hash(other)}"'
    with pytest.raises(ValueError, match=message):
        make(other, images, tmp_path / "tokens")


def test_a_store_of_other_images_is_an_error(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    make(tokenizer, images, tmp_path / "tokens")
    with pytest.raises(ValueError, match="made of other images: its label_names"):
        make(tokenizer, [picture(index) for index in range(4)], tmp_path / "tokens")
    with pytest.raises(ValueError, match="image_size is 16, now 8"):
        tokenize(tokenizer, images, tmp_path / "tokens", image_size=8)
    with pytest.raises(ValueError, match="views is"):
        make(tokenizer, images, tmp_path / "tokens", crops="ten")
    picture(9).save(images / "bee/4.png")
    with pytest.raises(ValueError, match=r"made of other images: 4 of .*, now 5\. 1 new \(.*bee/4\.png\)"):
        make(tokenizer, images, tmp_path / "tokens")
    (images / "bee/4.png").unlink()
    picture(50).save(images / "bee/3.png")
    with pytest.raises(ValueError, match=r"1 changed \(.*bee/3\.png\)"):
        make(tokenizer, images, tmp_path / "tokens")


def test_new_images_are_appended(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    make(tokenizer, images, tmp_path / "tokens")
    picture(9).save(images / "ant/9.png")
    store = make(tokenizer, images, tmp_path / "tokens", append=True)
    assert tokens_of(store) == [expected_tokens(tokenizer, seed) for seed in (0, 1, 2, 9)]
    assert store.labels.tolist() == [0, 1, 1, 0]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("row", [0, 2])
def test_a_killed_run_continues(
    tokenizer: ImageTokenizer, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int
):
    options = {"shard_size": 2, "batch_size": 1}
    make(tokenizer, images, tmp_path / "whole", **options)
    original = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if target.name.startswith(f"rows-{row:09d}"):
            raise Killed
        return original(path, target)

    folder = tmp_path / "tokens"
    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(Killed):
        make(tokenizer, images, folder, **options)
    with pytest.raises(ValueError, match=r"lacks the rows .*`randar tokenize`"):
        TokenStore(folder)
    monkeypatch.undo()
    (folder / f"rows-{row:09d}.77.writing").write_bytes(b"what a kill -9 leaves")
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("rows-*.arrow")}
    make(tokenizer, images, folder, **options)
    assert contents(folder) == contents(tmp_path / "whole")
    assert len(kept) == row // 2 and {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize("known", [True, False])
def test_time_that_is_up_ends_it_behind_a_shard(
    tokenizer: ImageTokenizer, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
):
    """Of four shards two are made while there is time."""
    source: Any = images if known else Stream(4)
    options: dict[str, Any] = {"image_size": IMAGE_SIZE, "shard_size": 1, "batch_size": 1}
    folder = tmp_path / "ended"
    with monkeypatch.context() as patch:
        patch.setattr(writer, "in_time", lambda deadline: len(list(folder.glob("rows-*"))) < 2)
        assert tokenize(tokenizer, source, folder, deadline=time.monotonic() + 1000, **options) is None
    made = contents(folder)
    assert len([name for name in made if name.startswith("rows-")]) == 2
    assert tokenize(tokenizer, source, folder, deadline=0.0, **options) is None
    assert contents(folder) == made
    assert tokenize(tokenizer, source, tmp_path / "never", deadline=0.0, **options) is None
    assert not (tmp_path / "never").exists()
    make(tokenizer, source, folder, shard_size=1, batch_size=1)
    make(tokenizer, source, tmp_path / "whole", shard_size=1, batch_size=1)
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_torn_manifest_is_named(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    make(tokenizer, images, tmp_path / "tokens")
    path = tmp_path / "tokens/manifest.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"manifest\.json is not valid JSON"):
        make(tokenizer, images, tmp_path / "tokens")


def test_a_damaged_shard_alone_is_made_anew(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    folder = tmp_path / "tokens"
    make(tokenizer, images, folder, shard_size=2)
    before = contents(folder)
    first, second = sorted(folder.glob("rows-*"))
    kept = second.stat().st_mtime_ns
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=f"{first.name} is damaged"):
        make(tokenizer, images, folder, shard_size=2)
    assert contents(folder) == before
    assert second.stat().st_mtime_ns == kept


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_processes_divide_the_shards(tokenizer: ImageTokenizer, images: Path, tmp_path: Path, order: tuple[int, ...]):
    whole = make(tokenizer, images, tmp_path / "whole", shard_size=1)
    for number, rank in enumerate(order):
        options = {"image_size": IMAGE_SIZE, "shard_size": 1, "rank": rank, "world_size": 3}
        store = tokenize(tokenizer, images, tmp_path / "tokens", **options)
        assert (store is None) == (number < 2)
    assert contents(tmp_path / "tokens") == contents(tmp_path / "whole")
    assert store is not None
    assert tokens_of(store) == tokens_of(whole)


class Stream(IterableDataset):
    """Pictures with their numbers as labels, of unknown number; a generator's items can be read once."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        for index in range(self.count):
            self.read += 1
            yield picture(index), index


@pytest.mark.parametrize("count", [5, 6])  # with a last shard that is short, or empty
def test_streams_are_divided_and_continued(
    tokenizer: ImageTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
):
    whole = make(tokenizer, Stream(count), tmp_path / "whole", shard_size=2)
    assert (len(whole), whole.labels.tolist()) == (count, list(range(count)))
    assert tokens_of(whole) == [expected_tokens(tokenizer, seed) for seed in range(count)]
    options = {"image_size": IMAGE_SIZE, "shard_size": 2}
    parts = [
        tokenize(tokenizer, Stream(count), tmp_path / "parts", rank=rank, world_size=2, **options) for rank in (1, 0)
    ]
    assert parts[0] is None and parts[1] is not None
    assert tokens_of(parts[1]) == tokens_of(whole)

    original = OpenShard.write

    def write(self: OpenShard) -> Shard:
        if self.rows.start == 2:
            raise Killed
        return original(self)

    monkeypatch.setattr(OpenShard, "write", write)
    with pytest.raises(Killed):
        make(tokenizer, Stream(count), tmp_path / "killed", shard_size=2)
    monkeypatch.undo()
    assert tokens_of(make(tokenizer, Stream(count), tmp_path / "killed", shard_size=2)) == tokens_of(whole)
    assert contents(tmp_path / "killed") == contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_no_readable_image_is_an_error_and_leaves_no_store(tokenizer: ImageTokenizer, tmp_path: Path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    with pytest.raises(ValueError, match=r"none of 2 images could be read; the first: .*"):
        make(tokenizer, [bad, bad], tmp_path / "tokens")
    assert not (tmp_path / "tokens/manifest.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops": "five"}, "crops='five', expected one of two, ten"),
        ({"crop_range": 0.9}, "crop_range=0.9, expected 1 to 2"),
        ({"image_size": 18}, "image_size=18, expected a multiple of 4 pixels"),
        ({"shard_size": 0}, "shard_size=0, expected at least 1"),
    ],
)
def test_options_that_cannot_be(tokenizer: ImageTokenizer, tmp_path: Path, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        tokenize(tokenizer, [picture(0)], tmp_path / "tokens", **{"image_size": IMAGE_SIZE} | options)
    assert not (tmp_path / "tokens").exists()


def test_codes_beyond_16_bits_are_refused(tmp_path: Path, tokenizer: ImageTokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokenizer, "vocab_size", 65537)
    with pytest.raises(ValueError, match="65537 codes do not fit 16 bits: at most 65536"):
        make(tokenizer, [picture(0)], tmp_path)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def imagenet_tar(path: Path, nested: bool, prefix: str = "") -> Path:
    """Four pictures of two classes, in no order, beside a file that is no image."""
    with tarfile.open(path, "w") as archive:
        add(archive, f"{prefix}README", b"hello")
        for name, seeds in (("n02", {"b": 3, "a": 2}), ("n01", {"b": 1, "a": 0})):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as folder:
                for file, seed in seeds.items():
                    add(folder if nested else archive, f"{'' if nested else prefix + name + '/'}{file}.PNG", png(seed))
            if nested:
                add(archive, f"{prefix}{name}.tar", inner.getvalue())
    return path


@pytest.mark.parametrize("nested", [False, True])
def test_a_tar_of_imagenet(tokenizer: ImageTokenizer, tmp_path: Path, nested: bool):
    path = imagenet_tar(tmp_path / "imagenet.tar", nested)
    store = make(tokenizer, path, tmp_path / "tokens", batch_size=2, num_workers=1)
    assert tokens_of(store) == [expected_tokens(tokenizer, seed) for seed in range(4)]
    assert (store.labels.tolist(), store.manifest["label_names"]) == ([0, 0, 1, 1], ["n01", "n02"])


def test_splits_in_a_tar(tokenizer: ImageTokenizer, tmp_path: Path):
    path = imagenet_tar(tmp_path / "imagenet.tar", nested=False, prefix="./imagenet/train/")
    assert len(make(tokenizer, path, tmp_path / "tokens", split="train")) == 4
    with pytest.raises(ValueError, match=r"no split 'validation' in .*imagenet\.tar': found \['train'\]"):
        make(tokenizer, path, tmp_path / "other", split="validation")


def test_a_torn_member_of_a_tar_is_unreadable_alone(tokenizer: ImageTokenizer, tmp_path: Path):
    path = tmp_path / "imagenet.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "a/0.png", png(0))
        add(archive, "a/1.png", png(1)[:200])
        add(archive, "b/2.png", png(2))
    store = make(tokenizer, path, tmp_path / "tokens")
    assert store.labels.tolist() == [0, 1]
    [entry] = store.unreadable
    assert (entry["row"], entry["path"]) == (1, f"{path}/a/1.png")


def test_archives_that_cannot_be_read(tokenizer: ImageTokenizer, tmp_path: Path):
    whole = imagenet_tar(tmp_path / "imagenet.tar", nested=False).read_bytes()
    (tmp_path / "torn.tar").write_bytes(whole[:700])
    with pytest.raises(ValueError, match=r"torn\.tar cannot be read as an uncompressed tar.*fetch it again"):
        make(tokenizer, tmp_path / "torn.tar", tmp_path / "tokens")
    with tarfile.open(tmp_path / "gzip.tar", "w:gz") as archive:
        add(archive, "a/0.png", png(0))
    with pytest.raises(ValueError, match=r"gzip\.tar cannot be read as an uncompressed tar.*gunzip"):
        make(tokenizer, tmp_path / "gzip.tar", tmp_path / "tokens")
    with tarfile.open(tmp_path / "empty.tar", "w") as archive:
        add(archive, "a/0.txt", b"hello")
    with pytest.raises(ValueError, match=r"no images in .*empty\.tar: .*0\.txt"):
        make(tokenizer, tmp_path / "empty.tar", tmp_path / "tokens")


def test_encodes_on_the_pixels_own_range(tokenizer: ImageTokenizer, tmp_path: Path):
    pixels: Tensor = torch.rand(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    store = make(tokenizer, pixels, tmp_path, batch_size=2)
    assert [row[0] for row in tokens_of(store)] == tokenizer.encode(pixels).tolist()
