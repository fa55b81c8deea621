"""`scripts/tokenize_images.py` as one calls it."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from randar_features import load_tokenizer
from randar_features.data.token_store import TokenStore
from randar_features.tokenizers.folder import tokenizer_hash
from tests.small_models import IMAGE_SIZE, VOCAB_SIZE, small_config, small_tokenizer, write_folder

SCRIPT = Path(__file__).parents[2] / "scripts/tokenize_images.py"


def call(*arguments: str | Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tokenize_images.py", *map(str, arguments), "--device", "cpu"])
        errors = io.StringIO()
        try:
            with contextlib.redirect_stderr(errors):
                runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise SystemExit(errors.getvalue() if ended.code == 2 else ended.code) from None


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (18, 20, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders train and validation of two classes: five pictures and two."""
    folder = tmp_path_factory.mktemp("data")
    for index in range(7):
        path = folder / ("train" if index < 5 else "validation") / ("ant", "bee")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(index))
    return folder


def test_the_tokenizer_is_kept_with_the_tokens(tokenizer: Path, data: Path, tmp_path: Path):
    call("--tokenizer", tokenizer, "--data", data, "--out", tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens/train")
    assert store.tokenizer == tmp_path / "tokens/tokenizer"
    assert TokenStore(tmp_path / "tokens/validation").tokenizer == store.tokenizer
    loaded, image_size = load_tokenizer(store.tokenizer, device="cpu")
    assert image_size == IMAGE_SIZE
    assert tokenizer_hash(loaded) == store.manifest["tokenizer"]
    for name, value in small_tokenizer().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").rglob("*.*")}
    call("--tokenizer", store.tokenizer, "--data", data, "--out", tmp_path / "tokens")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").rglob("*.*")} == written


def test_how_the_tokenizer_was_trained_is_kept_with_it(data: Path, tmp_path: Path):
    told = {"tokenizer_training": {"train": "decoder"}, "initial_training": {"train": "all"}}
    write_folder(tmp_path / "polished", **told)
    call("--tokenizer", tmp_path / "polished", "--data", data, "--out", tmp_path / "tokens", "--splits", "validation")
    kept = json.loads((tmp_path / "tokens/tokenizer/config.json").read_text())
    assert kept == told | {"tokenizer": small_config()["tokenizer"], "image_size": IMAGE_SIZE}


def test_a_polished_decoder_takes_the_place_of_the_older_one(tokenizer: Path, data: Path, tmp_path: Path):
    arguments = ("--data", data, "--out", tmp_path / "tokens", "--splits", "validation")
    call("--tokenizer", tokenizer, *arguments)
    polished = load_file(tokenizer / "tokenizer.safetensors")
    polished["decoder.conv_out.bias"] += 1
    save_file(polished, write_folder(tmp_path / "polished") / "tokenizer.safetensors")
    call("--tokenizer", tmp_path / "polished", *arguments)
    kept = load_file(tmp_path / "tokens/tokenizer/tokenizer.safetensors")
    assert torch.equal(kept["decoder.conv_out.bias"], polished["decoder.conv_out.bias"])


def test_weights_from_half_precision_are_kept_so(tokenizer: Path, data: Path, tmp_path: Path):
    halves = {name: value.half() for name, value in small_tokenizer().state_dict().items()}
    (tmp_path / "half").mkdir()
    save_file(halves, tmp_path / "half/tokenizer.safetensors")
    (tmp_path / "half/config.json").write_text((tokenizer / "config.json").read_text())
    call("--tokenizer", tmp_path / "half", "--data", data, "--out", tmp_path / "tokens", "--splits", "validation")
    kept = load_file(tmp_path / "tokens/tokenizer/tokenizer.safetensors")
    assert {value.dtype for value in kept.values()} == {torch.float16}
    assert not (tmp_path / "tokens/train").exists()


def test_another_tokenizer_is_refused_before_anything_is_written(tokenizer: Path, data: Path, tmp_path: Path):
    call("--tokenizer", tokenizer, "--data", data, "--out", tmp_path / "tokens", "--splits", "validation")
    other = write_folder(tmp_path / "other", kind="maskgit")
    with pytest.raises(SystemExit, match="holds tokens made by tokenizer"):
        call("--tokenizer", other, "--data", data, "--out", tmp_path / "tokens", "--splits", "train")
    assert not (tmp_path / "tokens/train").exists()


def test_processes_started_together(tokenizer: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = ["--tokenizer", tokenizer, "--data", data, "--shard-size", "2", "--crops", "ten"]
    call(*options, "--out", tmp_path / "whole")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        call(*options, "--out", tmp_path / "tokens")
    for split in ("train", "validation"):
        files, whole = (
            {path.name: path.read_bytes() for path in (tmp_path / name / split).glob("[!.]*")}
            for name in ("tokens", "whole")
        )
        assert files == whole
    assert TokenStore(tmp_path / "tokens/train").num_crops == 10


@pytest.mark.parametrize("options", [[], ["--streaming"]])
def test_a_data_set_by_its_name(
    tokenizer: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
):
    """A folder stands for a name on the Hub: `load_dataset` reads both in the same way."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    call("--tokenizer", tokenizer, "--dataset", data, "--out", tmp_path / "tokens", "--shard-size", "2", *options)
    call("--tokenizer", tokenizer, "--data", data, "--out", tmp_path / "plain")
    for split, count in (("train", 5), ("validation", 2)):
        store, plain = (TokenStore(tmp_path / name / split) for name in ("tokens", "plain"))
        assert len(store) == count
        assert store.manifest["label_names"] == ["ant", "bee"]
        assert store.manifest["parts"][0]["data"] == plain.manifest["parts"][0]["data"] == f"{data} {split}"
        rows = torch.arange(count)
        for found, expected in zip(store.batch(rows, rows * 0), plain.batch(rows, rows * 0), strict=True):
            assert torch.equal(found, expected)


def test_data_without_splits_are_refused_before_anything_is_written(tokenizer: Path, data: Path, tmp_path: Path):
    with pytest.raises(SystemExit, match=r"no split 'train'.* --as "):
        call("--tokenizer", tokenizer, "--data", data / "train", "--out", tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_data_without_splits(tokenizer: Path, data: Path, tmp_path: Path):
    call("--tokenizer", tokenizer, "--data", data / "train", "--out", tmp_path, "--as", "everything")
    store = TokenStore(tmp_path / "everything")
    assert len(store) == 5
    assert store.manifest["parts"][0]["data"] == str(data / "train")


@pytest.mark.parametrize("known", [True, False])
def test_published_codes(tokenizer: Path, tmp_path: Path, known: bool):
    (tmp_path / "codes/4").mkdir(parents=True)
    codes = np.arange(32).reshape(2, 16)
    np.save(tmp_path / "codes/4/0.npy", codes)
    made_by = ["--tokenizer", tokenizer] if known else ["--vocab-size", "1024"]
    call("--codes", tmp_path / "codes", "--out", tmp_path / "tokens", *made_by)
    store = TokenStore(tmp_path / "tokens/train")
    assert store.batch(torch.tensor([0]), torch.tensor([1]))[0].tolist() == [codes[1].tolist()]
    assert (store.vocab_size, store.labels.tolist()) == (VOCAB_SIZE if known else 1024, [4])
    assert store.manifest["tokenizer"] == (tokenizer_hash(small_tokenizer()) if known else None)
    assert (store.tokenizer is None) == (not known)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x"], "--tokenizer is required"),
        (["--tokenizer", "x", "--data", "x", "--codes", "x"], "one of --data, --dataset and --codes"),
        (["--tokenizer", "x", "--data", "x", "--crops", "tem"], "'tem'"),
        (["--tokenizer", "x", "--data", "x", "--crop", "ten"], "--crops"),
        (["--tokenizer", "x", "--data", "x", "--streaming"], "--streaming is for --dataset"),
        (["--tokenizer", "x", "--data", "x", "--as", "train", "--splits", "test"], "--splits .*--as"),
        (["--tokenizer", "x", "--data", "x", "--vocab-size", "9"], "--vocab-size"),
        (["--tokenizer", "x", "--data", "x", "--crop-range", "1.2"], "--crops ten"),
        (["--tokenizer", "x", "--data", "x", "--bach-size", "3"], "--batch-size"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], message: str):
    with pytest.raises(SystemExit, match=message):
        call(*arguments, "--out", "nowhere")
