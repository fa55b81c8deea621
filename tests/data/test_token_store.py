from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from randar_features.data.token_store import TokenStore
from randar_features.store import shards
from randar_features.tokenizers.folder import tokenizer_hash
from tests.small_models import IMAGE_SIZE, small_tokenizer
from tests.training.small import VOCAB_SIZE, random_tokens, write_store


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    """20 images in shards of 8, 8 and 4."""
    return write_store(tmp_path / "tokens/train", random_tokens())


def test_what_training_asks(store: TokenStore):
    assert (len(store), store.num_crops, store.num_tokens) == (20, 2, 9)
    assert (store.vocab_size, store.num_classes) == (VOCAB_SIZE, 3)
    assert store.labels.tolist() == [index % 3 for index in range(20)]
    assert [len(shard.rows) for shard in store.store.shards] == [8, 8, 4]


def test_classes_without_names_are_counted(tmp_path: Path):
    labels = np.array([5, 0, 7, 2])
    assert write_store(tmp_path, random_tokens(4), labels, label_names=None).num_classes == 8


def test_images_without_labels_can_be_trained_on(tmp_path: Path):
    """As of one class that none of them shows."""
    assert write_store(tmp_path, random_tokens(4), np.full(4, -1), label_names=None).num_classes == 1


def test_batches_take_each_images_own_view_from_any_shard(store: TokenStore):
    expected = random_tokens()
    rows, views = [19, 0, 7, 8, 15, 16, 7], [1, 0, 1, 0, 1, 0, 0]
    tokens, labels = store.batch(torch.tensor(rows), torch.tensor(views))
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [expected[row, view].tolist() for row, view in zip(rows, views, strict=True)]
    assert labels.tolist() == [row % 3 for row in rows]


@pytest.mark.parametrize("row", [-1, 20])
def test_an_image_outside_is_an_error(store: TokenStore, row: int):
    with pytest.raises(IndexError, match="the store holds 0 to 19"):
        store.batch(torch.tensor([row]), torch.tensor([0]))


def test_tokens_are_read_from_the_file_when_they_are_needed(store: TokenStore):
    assert not any(shard.column("tokens").flags.owndata for shard in store.store.shards)


def test_the_tokenizer_beside_the_tokens(store: TokenStore):
    assert store.tokenizer is None
    folder = store.folder.parent / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.safetensors").touch()
    assert store.tokenizer == folder


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize("damage", [lambda content: content[:-2], lambda content: content[:9], lambda _: b"", flipped])
def test_a_torn_or_flipped_shard_is_named(store: TokenStore, damage: Callable[[bytes], bytes]):
    path = store.store.shards[1].path
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{path.name} is (torn|damaged)"):
        TokenStore(store.folder)


def test_a_missing_shard_is_named(store: TokenStore):
    store.store.shards[0].path.unlink()
    with pytest.raises(ValueError, match=r"lacks the rows 0 to 7 of 20: run `randar tokenize` again"):
        TokenStore(store.folder)


def test_a_missing_or_damaged_manifest(store: TokenStore, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing: make the store with `randar tokenize`"):
        TokenStore(tmp_path)
    path = store.folder / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 20', '"rows": 21'))
    with pytest.raises(ValueError, match=r"manifest\.json was altered"):
        TokenStore(store.folder)
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=r"manifest\.json is not valid JSON"):
        TokenStore(store.folder)


def test_a_full_disk_keeps_the_shards_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = shards.written_whole

    def written_whole(path: Path) -> Any:
        if "rows-000000016" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path)

    monkeypatch.setattr(shards, "written_whole", written_whole)
    with pytest.raises(OSError, match="No space left"):
        write_store(tmp_path, random_tokens())
    with pytest.raises(ValueError, match="lacks the rows 16 to 19"):
        TokenStore(tmp_path)
    monkeypatch.undo()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("rows-*")}
    assert len(before) == 2
    assert len(write_store(tmp_path, random_tokens())) == 20
    assert {path: path.stat().st_mtime_ns for path in before} == before


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
