"""One table in memory and on disk."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from randar_features import FeatureSpec, FeatureTable, Model, extract_features, open_table
from randar_features.cli.export import main as export
from randar_features.store.records import escape, unescape

SPECS = ["reverse/image/0", "reverse/image/2", "single/image/0", "single/image/2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures in two classes, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    pictures = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        (folder / f"class{index % 2}").mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / f"class{index % 2}" / f"{index}.png")
    (folder / "class0/2.png").write_bytes(b"no picture")
    return folder


def extract(folder: Path, model: Model, **options: Any) -> FeatureTable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given: dict[str, Any] = {"layers": [0, 2], "context": ["reverse", "single"], "progress": False}
        return extract_features(folder, model, **given | options)


@pytest.mark.parametrize("pool", [None, "mean"])
def test_in_memory_on_disk_and_saved_are_the_same(folder: Path, small_model: Model, tmp_path: Path, pool: str | None):
    table = extract(folder, small_model, pool=pool)
    stored = extract(folder, small_model, pool=pool, out=tmp_path / "stored")
    assert table.store is None and stored.store is not None and table.specs == SPECS
    for other in (stored, table.save(tmp_path / "saved"), stored.save(tmp_path / "again")):
        assert (other.specs, other.layers, other.status) == (SPECS, [0, 2, 0, 2], table.status)
        assert (other.paths, other.label_names, other.is_pooled) == (table.paths, table.label_names, pool is not None)
        assert other.labels is not None and other.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert other.details["weights"] == small_model.weights_hash and other.details["dtype"] == "float32"
        for spec in SPECS:
            np.testing.assert_allclose(other[spec], table[spec], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other.pooled(), table.pooled(), equal_nan=True)
        assert (other.maps is None) == (pool is not None)
    saved = open_table(tmp_path / "saved")
    assert np.array_equal(saved[SPECS[1]], table[FeatureSpec("reverse", "image", 2)], equal_nan=True)


def test_labelled_images_train_a_model_of_scikit_learn(folder: Path, small_model: Model):
    for pool in (None, "mean"):
        vectors, labels = extract(folder, small_model, pool=pool).labelled("reverse/image/2")
        assert vectors.shape == (5, 32) and labels.tolist() == [0, 0, 1, 1, 1]
        assert LogisticRegression(C=1e6, max_iter=1000).fit(vectors, labels).score(vectors, labels) == 1
    table = extract_features(torch.rand(2, 3, 16, 16), small_model, progress=False)
    with pytest.raises(ValueError, match="has a label"):
        table.labelled(table.specs[0])
    with pytest.warns(UserWarning, match=r"gone\.png"):
        lost = extract_features([("gone.png", 1), (np.zeros((9, 9, 3), np.uint8), None)], small_model, progress=False)
    with pytest.raises(ValueError, match="has a label"):
        lost.labelled(lost.specs[0])


def test_a_spec_that_is_not_there_is_named(folder: Path, small_model: Model):
    table = extract(folder, small_model, pool="mean")
    with pytest.raises(ValueError, match=r"holds no reverse/image/1: .*reverse/image/0"):
        table["reverse/image/1"]
    with pytest.raises(ValueError, match="is no spec"):
        table["layer 1"]


def test_as_pandas_and_parquet_have_it(folder: Path, small_model: Model, tmp_path: Path):
    pytest.importorskip("pandas")
    table = extract(folder, small_model)
    frame = table.to_pandas()
    assert list(frame.columns) == ["path", "label", "status", *SPECS] and len(frame) == 6
    assert np.array_equal(np.stack(frame[SPECS[3]]), table[SPECS[3]], equal_nan=True)
    table.paths[0] = "a/caf\udce9.png"
    assert table.to_pandas()["path"][0] == escape("a/caf\udce9.png"), "pandas holds UTF-8 alone"
    table.to_parquet(tmp_path / "table.parquet")
    read = pq.read_table(tmp_path / "table.parquet")
    about = json.loads(read.schema.metadata[b"randar_features"])
    assert about["shape"] == [4, 4, 32] and about["details"]["weights"] == small_model.weights_hash
    assert read.schema.field(SPECS[0]).type.list_size == 512
    flat = np.stack([np.array(one, np.float32) for one in read[SPECS[0]].to_pylist()])
    assert np.array_equal(flat.reshape(6, 4, 4, 32), table[SPECS[0]], equal_nan=True)
    assert read["status"].to_pylist() == table.status and read["label"].to_pylist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("name", ["table.csv", "table", "table.parquet.gz"])
def test_a_parquet_file_has_its_name(folder: Path, small_model: Model, tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=rf"\.parquet.*{name}"):
        extract(folder, small_model).to_parquet(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_as_zarr_has_it(folder: Path, small_model: Model, tmp_path: Path):
    zarr = pytest.importorskip("zarr")
    table = extract(folder, small_model)
    table.to_zarr(tmp_path / "table.zarr")
    group = zarr.open_group(tmp_path / "table.zarr", mode="r")
    for spec in SPECS:
        assert np.array_equal(group[spec][:], table[spec], equal_nan=True)
    assert group["status"][:].tolist() == table.status and group["path"][:].tolist() == table.paths
    assert group["label"][:].tolist() == [0, 0, 0, 1, 1, 1]
    about = group.attrs["randar_features"]
    assert about["specs"] == SPECS and about["details"]["weights"] == small_model.weights_hash
    with pytest.raises(FileExistsError, match=r"table\.zarr"):
        table.to_zarr(tmp_path / "table.zarr")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("table")] == ["table.zarr"]


def test_names_that_are_not_utf8_are_escaped(small_model: Model, tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        Image.effect_noise((16, 16), 90).convert("RGB").save(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    table = extract_features([tmp_path / name], small_model, layers=0, progress=False)
    table.to_parquet(tmp_path / "table.parquet")
    [path] = pq.read_table(tmp_path / "table.parquet")["path"].to_pylist()
    assert unescape(path) == str(tmp_path / name)


def test_the_command_writes_a_table_in_both_formats(
    folder: Path, small_model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    zarr = pytest.importorskip("zarr")
    table = extract(folder, small_model, pool="mean", out=tmp_path / "table")
    assert export([str(tmp_path / "table"), "--out", str(tmp_path / "a.parquet")]) == 0
    assert export([str(tmp_path / "table"), "--out", str(tmp_path / "a.zarr")]) == 0
    assert pq.read_table(tmp_path / "a.parquet")["status"].to_pylist() == table.status
    vectors = zarr.open_group(tmp_path / "a.zarr", mode="r")[SPECS[0]][:]
    assert vectors.shape == (6, 32) and np.array_equal(vectors, table[SPECS[0]], equal_nan=True)
    for wrong, named in ((["--out", "a.csv"], "a.csv"), (["--out", "a.zarr", "--steps", "3"], "--steps")):
        assert export([str(tmp_path / "table"), *wrong]) == 2
        assert named in capsys.readouterr().err
    assert export(["--out", "model", "--tokens", "t"]) == 2


def test_a_folder_holds_one_table(folder: Path, small_model: Model, tmp_path: Path):
    extract(folder, small_model, pool="mean").save(tmp_path / "table")
    with pytest.raises(ValueError):
        extract(folder, small_model, pool="mean", norm=True).save(tmp_path / "table")


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"append": True}, ValueError, "append.*out"),
        ({"retry": True}, ValueError, "retry.*out"),
        ({"shard_rows": 3}, ValueError, "shard_rows.*out"),
        ({"pool": True}, ValueError, "pool.*True"),
        ({"batch_size": 0}, ValueError, "batch_size.*0"),
        ({"batch_size": 2.5}, TypeError, r"batch_size.*2\.5"),
        ({"num_workers": 1.5}, TypeError, r"num_workers.*1\.5"),
        ({"num_workers": -1}, ValueError, "num_workers.*-1"),
        ({"classes": -1}, ValueError, "classes.*-1"),
        ({"dtype": "half"}, ValueError, "dtype.*half"),
    ],
)
@pytest.mark.parametrize("disk", [False, True])
def test_arguments_are_refused_before_any_work(
    small_model: Model, tmp_path: Path, options: dict[str, Any], error: type, named: str, disk: bool
):
    if disk and options.keys() & {"append", "retry", "shard_rows"}:
        pytest.skip("goes together")
    out = {"out": tmp_path / "table"} if disk else {}
    with pytest.raises(error, match=named):
        extract_features(tmp_path / "no folder", small_model, progress=False, **options, **out)
    assert not (tmp_path / "table").exists()


def test_an_empty_path_is_not_the_working_directory(
    folder: Path, small_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    table = extract(folder, small_model)
    for write in (table.save, table.to_parquet):
        with pytest.raises(ValueError, match="empty path"):
            write("")
    assert not list(tmp_path.iterdir())
