from __future__ import annotations

import io
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from randar_features.data.published_codes import import_codes
from randar_features.data.token_store import TokenStore

NAMES = ["0/2.npy", "0/10.npy", "7/1.npy", "7/3.npy", "207/4.npy"]


def codes(row: int, views: int = 2) -> np.ndarray:
    return np.random.default_rng(row).integers(0, 1024, (views, 256))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write(place: Path, contents: dict[str, bytes]) -> Path:
    """Files in a folder, or in a tar below a folder of its name, in reverse order."""
    if place.suffix != ".tar":
        for name, content in contents.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
        return place
    with tarfile.open(place, "w") as archive:
        for name, content in reversed(contents.items()):
            info = tarfile.TarInfo(f"./{place.stem}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return place


def published(place: Path, views: int = 2) -> Path:
    return write(place, {name: npy(codes(row, views)) for row, name in enumerate(NAMES)})


def bring(source: Path, folder: Path, vocab_size: int = 1024, **options: int) -> TokenStore:
    store = import_codes(source, folder, vocab_size=vocab_size, **options)
    assert store is not None
    return store


@pytest.mark.parametrize("name", ["codes", "imagenet-maskgit-adm-256_codes.tar"])
@pytest.mark.parametrize(("views", "first"), [(2, "centre crop"), (10, "top left crop"), (3, "view 0")])
def test_folders_and_tars_as_they_are_published(tmp_path: Path, name: str, views: int, first: str):
    store = bring(published(tmp_path / name, views), tmp_path / "tokens", shard_size=2)
    assert (store.num_crops, store.num_tokens, store.vocab_size, store.num_classes) == (views, 256, 1024, 208)
    assert store.labels.tolist() == [0, 0, 7, 7, 207]
    for view in range(views):
        tokens, _ = store.batch(torch.arange(5), torch.full((5,), view))
        assert tokens.tolist() == [codes(row, views)[view].tolist() for row in range(5)]
    assert store.manifest["views"][0] == first
    assert (store.tokenizer, store.manifest["tokenizer"], store.manifest["label_names"]) == (None, None, None)
    assert [len(shard.rows) for shard in store.store.shards] == [2, 2, 1]


def test_llamagens_own_arrays_have_one_more_dimension(tmp_path: Path):
    store = bring(write(tmp_path / "codes", {"3/0.npy": npy(codes(0)[None])}), tmp_path / "tokens")
    assert store.batch(torch.tensor([0]), torch.tensor([1]))[0].tolist() == [codes(0)[1].tolist()]


def test_torn_files_and_other_shapes_are_named(tmp_path: Path):
    contents = {name: npy(codes(row)) for row, name in enumerate(NAMES)}
    contents |= {NAMES[0]: contents[NAMES[0]][:100], NAMES[3]: npy(codes(3, views=1))}
    contents["207/5.npy"] = npy(np.ones((2, 256)))
    store = bring(write(tmp_path / "codes", contents), tmp_path / "tokens")
    assert store.labels.tolist() == [0, 7, 207]
    reasons = {Path(entry["path"]).name: entry["reason"] for entry in store.unreadable}
    assert reasons["3.npy"] == "holds (1, 256) codes, the others (2, 256)"
    assert reasons["5.npy"] == "holds float64 (2, 256), expected integers (K, N)"
    assert sorted(reasons) == ["2.npy", "3.npy", "5.npy"]


def test_an_import_continues_and_is_divided(tmp_path: Path):
    source = published(tmp_path / "codes")
    whole = bring(source, tmp_path / "whole", shard_size=1)
    options = {"vocab_size": 1024, "shard_size": 1}
    assert import_codes(source, tmp_path / "tokens", rank=1, world_size=2, **options) is None
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").glob("rows-*")}
    store = bring(source, tmp_path / "tokens", shard_size=1)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert import_codes(source, tmp_path / "ended", deadline=time.monotonic(), **options) is None
    assert not (tmp_path / "ended").exists()
    for path in whole.folder.iterdir():
        assert path.read_bytes() == (store.folder / path.name).read_bytes()


def test_other_codes_of_the_same_shape_are_refused(tmp_path: Path):
    bring(published(tmp_path / "codes"), tmp_path / "tokens")
    other = write(tmp_path / "other", {name: npy((codes(row, 2) + 1) % 1024) for row, name in enumerate(NAMES)})
    with pytest.raises(ValueError, match=r"was made of other images: .* 5 new .*0/2\.npy"):
        bring(other, tmp_path / "tokens")


def test_codes_of_another_tokenizer_are_refused(tmp_path: Path):
    source = published(tmp_path / "codes")
    with pytest.raises(ValueError, match=r"0/2\.npy holds codes \d+ to \d+, but the tokenizer has 512: give the tok"):
        bring(source, tmp_path / "tokens", vocab_size=512)
    bring(source, tmp_path / "tokens")
    with pytest.raises(ValueError, match="vocab_size is 1024, now 2048"):
        bring(source, tmp_path / "tokens", vocab_size=2048)


def test_what_holds_no_codes(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no folder or tar of codes at"):
        bring(tmp_path / "missing", tmp_path / "tokens")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no \.npy files in .*: expected one folder a class index"):
        bring(tmp_path / "empty", tmp_path / "tokens")
    with pytest.raises(ValueError, match=r"holds dog/1\.npy, whose folder 'dog' is no class index: .* such as 207/1"):
        bring(write(tmp_path / "named", {"dog/1.npy": npy(codes(0))}), tmp_path / "tokens")
    with pytest.raises(ValueError, match=r"none of 1 files in .* could be read; the first: 1/1\.npy: "):
        bring(write(tmp_path / "torn", {"1/1.npy": b"nothing"}), tmp_path / "tokens")


def test_new_files_are_appended(tmp_path: Path):
    bring(published(tmp_path / "codes"), tmp_path / "tokens")
    write(tmp_path / "codes", {"7/2.npy": npy(codes(9))})
    store = bring(tmp_path / "codes", tmp_path / "tokens", append=True)
    assert sorted(store.labels.tolist()) == [0, 0, 7, 7, 7, 207]
    tokens, _ = store.batch(torch.tensor([5]), torch.tensor([1]))
    assert (tokens[0].numpy() == codes(9)[1]).all()
