from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from randar_features.data import adm_center_crop, to_tensor
from randar_features.data.token_store import TokenStore, tokenize, tokenizer_hash
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


def make(tokenizer: ImageTokenizer, images: Any, folder: Path) -> TokenStore:
    return tokenize(tokenizer, images, folder, image_size=IMAGE_SIZE)


def test_tokens_are_those_of_the_crop_and_its_mirror_image(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    store = make(tokenizer, images, tmp_path / "tokens")
    assert (len(store), store.tokens.shape, store.tokens.dtype) == (3, (3, 2, 16), np.uint16)
    for row in range(3):
        crop = to_tensor(adm_center_crop(picture(row), IMAGE_SIZE))[None]
        for view, pixels in enumerate((crop, crop.flip(3))):
            assert store.tokens[row, view].tolist() == tokenizer.encode(pixels)[0].tolist()
    assert not np.array_equal(store.tokens[:, 0], store.tokens[:, 1])
    assert store.labels.tolist() == [0, 1, 1]


def test_the_manifest_says_what_is_there(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    store = make(tokenizer, images, tmp_path / "tokens")
    [unreadable] = store.manifest.pop("unreadable_images")
    assert store.manifest == {
        "shape": [3, 2, 16],
        "views": ["centre crop", "mirror image"],
        "image_size": IMAGE_SIZE,
        "tokenizer": tokenizer_hash(tokenizer),
        "vocab_size": VOCAB_SIZE,
        "label_names": ["ant", "bee"],
        "unreadable": 1,
    }
    assert (unreadable["row"], unreadable["path"]) == (1, str(images / "bee/1.jpg"))
    assert "image" in unreadable["reason"]


def test_batches_take_each_images_own_view(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    store = make(tokenizer, images, tmp_path / "tokens")
    tokens, labels = store.batch(torch.tensor([2, 0, 2]), torch.tensor([1, 0, 0]))
    assert tokens.dtype == torch.int64
    for found, (row, view) in zip(tokens, ((2, 1), (0, 0), (2, 0)), strict=True):
        assert found.tolist() == store.tokens[row, view].tolist()
    assert labels.tolist() == [1, 0, 1]


def test_images_without_labels(tokenizer: ImageTokenizer, tmp_path: Path):
    store = make(tokenizer, [picture(0), picture(1)], tmp_path)
    assert store.labels.tolist() == [-1, -1]
    assert store.manifest["label_names"] is None


def test_a_finished_store_is_kept(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    before = make(tokenizer, images, tmp_path / "tokens")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").iterdir()}
    after = make(tokenizer, images, tmp_path / "tokens")
    assert np.array_equal(before.tokens, after.tokens)
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


@pytest.mark.parametrize("file", ["tokens.npy", "labels.npy", "manifest.json"])
def test_a_killed_run_is_done_again(
    tokenizer: ImageTokenizer, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
):
    folder = tmp_path / "tokens"
    original = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if target.name == file:
            raise Killed
        return original(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(Killed):
        make(tokenizer, images, folder)
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing: make the tokens with"):
        TokenStore(folder)
    monkeypatch.undo()
    (folder / "tokens.npy.writing").write_bytes(b"what a kill -9 leaves")
    assert len(make(tokenizer, images, folder)) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["labels.npy", "manifest.json", "tokens.npy"]


@pytest.mark.parametrize("name", ["tokens.npy", "labels.npy"])
@pytest.mark.parametrize("damage", [lambda content: content[:-2], lambda content: content[:9], lambda _: b"", None])
def test_a_torn_file_is_named(
    tokenizer: ImageTokenizer, images: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes] | None
):
    make(tokenizer, images, tmp_path / "tokens")
    path = tmp_path / "tokens" / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"tokens/{name} is missing or torn .*: remove .*/tokens and make"):
        TokenStore(tmp_path / "tokens")


def test_a_manifest_that_does_not_fit_its_files(tokenizer: ImageTokenizer, images: Path, tmp_path: Path):
    manifest = make(tokenizer, images, tmp_path).manifest
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest | {"shape": [4, 2, 16]}))
    with pytest.raises(ValueError, match=r"says \(4, 2, 16\) tokens, the files hold \(3, 2, 16\) tokens and 3 labels"):
        TokenStore(tmp_path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=r"manifest\.json is not valid JSON"):
        TokenStore(tmp_path)


def test_no_readable_image_is_an_error_and_leaves_no_store(tokenizer: ImageTokenizer, tmp_path: Path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    with pytest.raises(ValueError, match=r"none of 2 images could be read; the first: .*"):
        make(tokenizer, [bad, bad], tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_codes_beyond_16_bits_are_refused(tmp_path: Path, tokenizer: ImageTokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokenizer, "vocab_size", 65537)
    with pytest.raises(ValueError, match="65537 codes do not fit 16 bits: at most 65536"):
        make(tokenizer, [picture(0)], tmp_path)


@pytest.mark.parametrize("kind", ["llamagen", "maskgit"])
def test_the_hash_sees_what_decides_the_tokens_alone(kind: str):
    original = small_tokenizer(kind).state_dict()
    images = torch.rand(4, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    tokens, digest = small_tokenizer(kind).encode(images), tokenizer_hash(small_tokenizer(kind))
    changed = small_tokenizer(kind)
    assert tokenizer_hash(original) == digest  # of a state dict as well
    for name in [*list(original)[::5], "quantize.embedding.weight"]:
        value = original[name]
        changed.load_state_dict(original | {name: value + 1})
        decides = name.startswith(("encoder.", "quant_conv.", "quantize.embedding."))
        assert (tokenizer_hash(changed) != digest) == decides, name
        if not decides:
            assert torch.equal(changed.encode(images), tokens), name
