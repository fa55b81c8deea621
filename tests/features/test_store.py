from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from randar_features import FeatureStore
from randar_features.store import shards
from randar_features.store.shards import find_shards
from tests.features.stores import (
    Interrupted,
    content,
    contents,
    expected,
    flip,
    interrupted_after,
    pictures,
    save,
    write,
)
from tests.kill.__main__ import start


def test_rows_are_those_of_the_images(tmp_path: Path):
    images = pictures(7)
    store = write(images, tmp_path)
    assert len(store) == 7 and store.names == ["mean colour", "corner"]
    assert store.shape("mean colour") == (3,) and store.shape("corner") == (2, 2, 3)
    for name, rows in expected(images).items():
        np.testing.assert_array_equal(store.array(name), rows)
        np.testing.assert_array_equal(np.concatenate(store.rows(name)).astype(np.float32), rows)
        np.testing.assert_array_equal(store.array(name, [6, 0, 3, 3]), rows[[6, 0, 3, 3]])
        blocks = list(store.blocks(name, 4))
        assert [start for start, _ in blocks] == [0, 4]
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), rows)
    assert [len(shard) for shard in store.rows("corner")] == [3, 3, 1]
    assert store.rows("corner")[0].dtype == np.float16
    assert store.labels.tolist() == [-1] * 7 and store.paths == [None] * 7 and store.status == ["ok"] * 7


def test_manifest_labels_and_paths(tmp_path: Path):
    for label in ("cat", "dog"):
        save(pictures(2), tmp_path / label)
    images = tmp_path / "images"
    images.mkdir()
    for label in ("cat", "dog"):
        (tmp_path / label).rename(images / label)
    store = write(images, tmp_path / "store", content(dtype="float32"), data="two classes")
    assert store.labels.tolist() == [0, 0, 1, 1] and store.label_names == ["cat", "dog"]
    assert store.paths == [str(images / label / name) for label in ("cat", "dog") for name in ("00.png", "01.png")]
    assert store.rows("corner")[0].dtype == np.float32
    manifest = store.manifest
    assert (manifest["encoder"], manifest["weights"], manifest["pooling"]) == ("e", "w", "mean")
    assert manifest["outputs"] == {"mean colour": {"layer": 0}, "corner": {"layer": 1}}
    assert manifest["transform"] == "ADM centre crop of 8 pixels"
    (part,) = manifest["parts"]
    assert (part["data"], part["first"], part["rows"]) == ("two classes", 0, 4)


def test_only_some_outputs(tmp_path: Path):
    write(pictures(2), tmp_path)
    store = FeatureStore(tmp_path, ["corner"])
    assert store.names == ["corner"]
    with pytest.raises(ValueError, match=r"no output 'mean colour'.*expected one of corner"):
        store.array("mean colour")
    with pytest.raises(ValueError, match=r"holds no depth; its outputs are: mean colour, corner"):
        FeatureStore(tmp_path, ["depth"])


def test_rows_outside(tmp_path: Path):
    store = write(pictures(2), tmp_path)
    with pytest.raises(IndexError, match="0 to 1, got 0 to 2"):
        store.array("corner", [0, 2])


def test_unreadable_images_keep_their_row(tmp_path: Path):
    images = pictures(5)
    save(images, tmp_path / "images")
    (tmp_path / "images/02.png").write_bytes(b"no image")
    store = write(tmp_path / "images", tmp_path / "store")
    assert store.ok.tolist() == [True, True, False, True, True]
    assert "02.png" in str(store.paths[2]) and store.status[2] != "ok"
    rows = store.array("mean colour")
    assert np.isnan(rows[2]).all()
    np.testing.assert_array_equal(rows[[0, 1, 3, 4]], expected(images)["mean colour"][[0, 1, 3, 4]])


@pytest.mark.parametrize("calls", [0, 1, 2, 3, 4])
def test_interrupted_equals_uninterrupted(tmp_path: Path, calls: int):
    images = pictures(8)
    write(images, tmp_path / "whole")
    with pytest.raises(Interrupted):
        write(images, tmp_path / "parts", encode=interrupted_after(calls))
    with pytest.raises(ValueError, match="lacks the rows"):
        FeatureStore(tmp_path / "parts")
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("rows-*")}
    assert len(done) == calls // 2
    write(images, tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert done.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}.items()


def test_killed_while_it_writes(tmp_path: Path):
    whole = shards.written_whole

    def killed(path: Path) -> Any:
        if path.name.startswith("rows-000000003"):
            path.with_name(path.name + ".77.writing").write_bytes(b"half of a shar")
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(path)

    def work(_: Path, folder: Path) -> None:
        shards.written_whole = killed  # of the child alone
        write(pictures(8), folder)

    process = start(work, tmp_path, tmp_path / "parts")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(find_shards(tmp_path / "parts")) == 1
    write(pictures(8), tmp_path / "parts")
    assert not list((tmp_path / "parts").glob(".lock-owner"))
    write(pictures(8), tmp_path / "whole")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_finished_store_is_given_back(tmp_path: Path):
    write(pictures(5), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write(pictures(5), tmp_path, encode=interrupted_after(0))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("position", [-20, -50, -100])
def test_a_flipped_byte_is_named_and_costs_one_shard(tmp_path: Path, position: int):
    images = pictures(8)
    write(images, tmp_path)
    whole = contents(tmp_path)
    shards = find_shards(tmp_path)
    flip(shards[1].path, position)
    others = [shard.path.stat().st_mtime_ns for shard in (shards[0], shards[2])]
    store = FeatureStore(tmp_path)
    np.testing.assert_array_equal(store.array("corner", [0, 7]), expected(images)["corner"][[0, 7]])
    with pytest.raises(ValueError, match=rf"{shards[1].path.name} is damaged: its checksum is"):
        store.array("corner", [3])
    with pytest.raises(ValueError, match="is damaged"):
        FeatureStore(tmp_path).verify()
    with pytest.warns(UserWarning, match=rf"{shards[1].path.name} is damaged"):
        write(images, tmp_path)
    assert contents(tmp_path) == whole
    assert [shard.path.stat().st_mtime_ns for shard in (shards[0], shards[2])] == others


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: b"", lambda data: b"#" + data[1:]])
def test_a_torn_file_is_named_at_once(tmp_path: Path, damage: Callable[[bytes], bytes]):
    write(pictures(8), tmp_path)
    whole, torn = contents(tmp_path), find_shards(tmp_path)[2].path
    torn.write_bytes(damage(torn.read_bytes()))
    with pytest.raises(ValueError, match=rf"{torn.name} is torn"):
        FeatureStore(tmp_path)
    with pytest.warns(UserWarning, match=torn.name):
        write(pictures(8), tmp_path)
    assert contents(tmp_path) == whole


def test_a_missing_shard_is_named(tmp_path: Path):
    write(pictures(8), tmp_path)
    find_shards(tmp_path)[1].path.unlink()
    with pytest.raises(ValueError, match="lacks the rows 3 to 5 of 8"):
        FeatureStore(tmp_path)
    write(pictures(8), tmp_path)
    assert len(FeatureStore(tmp_path)) == 8


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"weights": "other"}, 'its weights is "w", now "other"'),
        ({"encoder": "f"}, 'its encoder is "e", now "f"'),
        ({"pooling": None}, 'its pooling is "mean", now none'),
        ({"dtype": "float32"}, 'its dtype is "float16", now "float32"'),
        ({"image_size": 16}, "its image_size is 8, now 16"),
        ({"compute_dtype": "bfloat16"}, 'its compute_dtype is "float32", now "bfloat16"'),
        ({"outputs": {"corner": {"layer": 2}}}, "its outputs is"),
        ({"outputs": {"edge": {}}}, r'its outputs is \["mean colour", "corner"\], now \["edge"\]'),
    ],
)
def test_features_of_another_encoder_are_refused(tmp_path: Path, option: dict[str, Any], message: str):
    write(pictures(2), tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message):
        write(pictures(2), tmp_path, content(**option))
    assert contents(tmp_path) == before


def test_other_images_are_refused(tmp_path: Path):
    save(pictures(4), tmp_path / "images")
    write(tmp_path / "images", tmp_path / "store")
    with pytest.raises(ValueError, match="made of other images: 4 of test, now 3"):
        write(pictures(3), tmp_path / "store")
    larger = np.random.default_rng(1).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(larger).save(tmp_path / "images/03.png")
    with pytest.raises(ValueError, match=r"made of other images: .* 1 changed \(.*images/03.png\)\. .*append"):
        write(tmp_path / "images", tmp_path / "store")


def test_other_pixels_are_refused(tmp_path: Path):
    images = pictures(8)
    write(images, tmp_path)
    images[3] = 255 - images[3]
    with pytest.raises(ValueError, match=r"1 new \(image 3\); 1 not given now \(row 3\)"):
        write(images, tmp_path)
    with pytest.raises(ValueError, match="made of other images: 8 of test, now 8"):
        write(pictures(8, seed=1), tmp_path)


def test_values_beyond_half_precision(tmp_path: Path):
    def large(pixels: Tensor) -> Mapping[str, Tensor]:
        return {"mean colour": torch.full((len(pixels), 1), 1e5)}

    with pytest.raises(ValueError, match=r'mean colour is 1e\+05 of .*, beyond float16: store it as "float32"'):
        write(pictures(2), tmp_path / "half", encode=large)
    store = write(pictures(2), tmp_path / "single", content(dtype="float32"), encode=large)
    assert store.array("mean colour").tolist() == [[1e5], [1e5]]
    with pytest.raises(ValueError, match="got 'int8'"):
        content(dtype="int8")


def test_no_store(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"manifest.json is missing: make the store"):
        FeatureStore(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 7}')
    with pytest.raises(ValueError, match="no manifest of a store of format 2"):
        FeatureStore(tmp_path)


def test_rows_are_numbers_or_a_mask(tmp_path: Path):
    store = write(pictures(5), tmp_path)
    rows = expected(pictures(5))["corner"]
    mask = np.array([True, False, False, True, True])
    for choice in (mask, mask.tolist(), torch.from_numpy(mask), [0, 3, 4], np.array([0, 3, 4], np.uint8)):
        np.testing.assert_array_equal(store.array("corner", choice), rows[mask])
    np.testing.assert_array_equal(store.array("corner", slice(1, 4)), rows[1:4])
    assert len(store.array("corner", [])) == 0
    for wrong in (mask[:4], [-1], [5]):
        with pytest.raises(IndexError):
            store.array("corner", wrong)
    for fractions in ([0.9, 2.2], 2, [[0, 1]], ["0"], [True, 2], (2, np.True_)):
        with pytest.raises(TypeError):
            store.array("corner", fractions)
    for size in (0, -3):
        with pytest.raises(ValueError, match="at least 1"):
            store.blocks("corner", size)


@pytest.mark.parametrize("damage", ["altered", "torn", "nested", "list"])
def test_a_damaged_manifest_is_one_line_that_names_it(tmp_path: Path, damage: str):
    write(pictures(2), tmp_path)
    path = tmp_path / "manifest.json"
    text = path.read_text()
    path.write_text(
        {
            "altered": text.replace('"rows": 2', '"rows": "2"'),
            "torn": text[:-20],
            "nested": "[" * 100_000,
            "list": "[1]",
        }[damage]
    )
    for open_it in (lambda: FeatureStore(tmp_path), lambda: write(pictures(2), tmp_path)):
        with pytest.raises(ValueError, match=r"manifest\.json") as error:
            open_it()
        assert "\n" not in str(error.value)


def test_a_store_of_an_earlier_version_is_told(tmp_path: Path):
    (tmp_path / "rows-000000000-0000003-1a2b3c4d.safetensors").touch()
    (tmp_path / "manifest.json").write_text('{"format": 1}')
    for open_it in (lambda: FeatureStore(tmp_path), lambda: write(pictures(2), tmp_path)):
        with pytest.raises(ValueError, match=r"earlier version.*make it anew with .*`randar extract`"):
            open_it()


def test_other_programs_open_the_shards_as_they_are(tmp_path: Path):
    import pyarrow as pa

    store = write(pictures(4), tmp_path)
    with pa.memory_map(str(store.shards[0].path)) as file:
        frame = pa.ipc.open_file(file).read_all().to_pandas()
    assert list(frame) == ["path", "label", "status", "hash", "mean colour", "corner"]
    np.testing.assert_array_equal(np.stack(frame["mean colour"]), store.rows("mean colour")[0])
