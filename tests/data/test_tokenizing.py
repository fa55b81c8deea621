from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from randar_features.data import adm_center_crop, to_tensor, token_shards
from randar_features.data.token_store import TokenStore, tokenizer_hash
from randar_features.data.tokenizing import crop_views, tokenize
from randar_features.tokenizers import ImageTokenizer
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
    rows, views = torch.arange(len(store)), range(store.num_views)
    return torch.stack([store.batch(rows, torch.full_like(rows, view))[0] for view in views], dim=1).tolist()


def expected_tokens(tokenizer: ImageTokenizer, seed: int) -> list:
    crop = to_tensor(adm_center_crop(picture(seed), IMAGE_SIZE))[None]
    return [tokenizer.encode(view)[0].tolist() for view in (crop, crop.flip(3))]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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
    views = crop_views(pixels, "ten", 4)
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
    assert store.num_views == len(store.manifest["views"]) == 10
    assert store.manifest["views"][6] == "top right crop of the mirror image"


def test_the_manifest_says_what_is_there(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    manifest = make(tokenizer, images, tmp_path / "tokens", shard_size=3).manifest
    [unreadable] = manifest.pop("unreadable_images")
    assert [(shard["name"], shard["count"]) for shard in manifest.pop("shards")] == [
        ("shard-00000", 2),
        ("shard-00001", 1),
    ]
    assert manifest == {
        "shape": [3, 2, 16],
        "views": ["centre crop", "mirror image"],
        "crop_range": 1.0,
        "image_size": IMAGE_SIZE,
        "tokenizer": tokenizer_hash(tokenizer),
        "dtype": "float32",
        "vocab_size": VOCAB_SIZE,
        "label_names": ["ant", "bee"],
        "shard_size": 3,
        "unreadable": 1,
    }
    assert (unreadable["row"], unreadable["path"]) == (1, str(images / "bee/1.jpg"))
    assert "image" in unreadable["reason"]


def test_unreadable_rows_count_from_the_sources_beginning(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    (images / "bee/4.jpg").write_text("no picture")
    store = make(tokenizer, images, tmp_path / "tokens", shard_size=2, batch_size=1)
    assert [entry["row"] for entry in store.manifest["unreadable_images"]] == [1, 4]


def test_images_without_labels(tokenizer: ImageTokenizer, tmp_path: Path):
    store = make(tokenizer, [picture(0), picture(1)], tmp_path)
    assert store.labels.tolist() == [-1, -1]
    assert store.manifest["label_names"] is None


def test_half_precision_keeps_the_hash_of_the_weights(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    store = make(tokenizer, images, tmp_path / "tokens", dtype=torch.bfloat16)
    assert (store.manifest["tokenizer"], store.manifest["dtype"]) == (tokenizer_hash(tokenizer), "bfloat16")
    assert next(tokenizer.parameters()).dtype == torch.float32
    with pytest.raises(ValueError, match="dtype is 'bfloat16' there, now 'float32'"):
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
    message = f"made by tokenizer {tokenizer_hash(tokenizer)}, but the one given is {tokenizer_hash(other)}"
    with pytest.raises(ValueError, match=message):
        make(other, images, tmp_path / "tokens")


def test_a_store_of_other_images_is_an_error(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    make(tokenizer, images, tmp_path / "tokens")
    with pytest.raises(ValueError, match="made of other images: label_names is"):
        make(tokenizer, [picture(index) for index in range(4)], tmp_path / "tokens")
    with pytest.raises(ValueError, match="made of other images: image_size is 16 there, now 8"):
        tokenize(tokenizer, images, tmp_path / "tokens", image_size=8)
    with pytest.raises(ValueError, match="views is"):
        make(tokenizer, images, tmp_path / "tokens", crops="ten")
    picture(9).save(images / "bee/4.png")
    with pytest.raises(ValueError, match="made of other images: images is 4 there, now 5"):
        make(tokenizer, images, tmp_path / "tokens")
    (images / "bee/4.png").unlink()
    for index, path in enumerate(sorted(images.rglob("*.png"))):
        picture(50 + index).save(path)
    with pytest.raises(ValueError, match="made of other images: the tokens of the first 3 given differ"):
        make(tokenizer, images, tmp_path / "tokens")


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "file", [f"shard-0000{number}.{end}" for number in (0, 1) for end in ("tokens.npy", "labels.npy", "json")]
)
def test_a_killed_run_continues(
    tokenizer: ImageTokenizer, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
):
    options = {"shard_size": 2, "batch_size": 1}
    make(tokenizer, images, tmp_path / "whole", **options)
    original = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if target.name == file:
            raise Killed
        return original(path, target)

    folder = tmp_path / "tokens"
    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(Killed):
        make(tokenizer, images, folder, **options)
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing: make the tokens with"):
        TokenStore(folder)
    monkeypatch.undo()
    (folder / f"{file}.writing").write_bytes(b"what a kill -9 leaves")
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("shard-00000*") if "00001" in file}
    make(tokenizer, images, folder, **options)
    assert contents(folder) == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize("known", [True, False])
def test_time_that_is_up_ends_it_behind_a_shard(
    tokenizer: ImageTokenizer, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
):
    """Of four shards two are made while the clock, a second on each time it is looked at, is below 2."""
    source: Any = images if known else Stream(4)
    options: dict[str, Any] = {"image_size": IMAGE_SIZE, "shard_size": 1}
    with monkeypatch.context() as patch:
        seconds = iter(range(100))
        patch.setattr(token_shards.time, "monotonic", lambda: float(next(seconds)))
        assert tokenize(tokenizer, source, tmp_path / "ended", deadline=2.0, **options) is None
        assert next(seconds) == 3
    made = contents(tmp_path / "ended")
    assert sorted(made) == sorted(f"shard-0000{n}.{of}" for n in (0, 1) for of in ("json", "labels.npy", "tokens.npy"))
    assert tokenize(tokenizer, source, tmp_path / "ended", deadline=0.0, **options) is None
    assert contents(tmp_path / "ended") == made
    make(tokenizer, source, tmp_path / "ended", shard_size=1)
    make(tokenizer, source, tmp_path / "whole", shard_size=1)
    assert contents(tmp_path / "ended") == contents(tmp_path / "whole")


def test_a_torn_manifest_is_written_anew(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    make(tokenizer, images, tmp_path / "tokens")
    before = contents(tmp_path / "tokens")
    (tmp_path / "tokens/manifest.json").write_bytes(before["manifest.json"][:-20])
    make(tokenizer, images, tmp_path / "tokens")
    assert contents(tmp_path / "tokens") == before


def test_a_damaged_shard_alone_is_made_anew(
    tokenizer: ImageTokenizer, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "tokens"
    make(tokenizer, images, folder, shard_size=2)
    before = contents(folder)
    kept = (folder / "shard-00001.tokens.npy").stat().st_mtime_ns
    (folder / "shard-00000.tokens.npy").write_bytes(before["shard-00000.tokens.npy"][:-1])
    make(tokenizer, images, folder, shard_size=2)
    assert "shard-00000 is damaged and is made anew" in capsys.readouterr().out
    assert contents(folder) == before
    assert (folder / "shard-00001.tokens.npy").stat().st_mtime_ns == kept


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

    original = token_shards.ShardWriter.write

    def write(self: token_shards.ShardWriter, number: int, shard: token_shards.Shard) -> None:
        if number == 1:
            raise Killed
        original(self, number, shard)

    monkeypatch.setattr(token_shards.ShardWriter, "write", write)
    with pytest.raises(Killed):
        make(tokenizer, Stream(count), tmp_path / "killed", shard_size=2)
    monkeypatch.undo()
    assert tokens_of(make(tokenizer, Stream(count), tmp_path / "killed", shard_size=2)) == tokens_of(whole)


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
    [entry] = store.manifest["unreadable_images"]
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
    with pytest.raises(ValueError, match=r"no images in .*empty\.tar, which holds 1 other files"):
        make(tokenizer, tmp_path / "empty.tar", tmp_path / "tokens")


def test_encodes_on_the_pixels_own_range(tokenizer: ImageTokenizer, tmp_path: Path):
    pixels: Tensor = torch.rand(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    store = make(tokenizer, pixels, tmp_path, batch_size=2)
    assert [row[0] for row in tokens_of(store)] == tokenizer.encode(pixels).tolist()
