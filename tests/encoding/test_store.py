from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from randar_features import Model, extract_features
from randar_features.data import ImageError, open_images
from randar_features.encoding import FeatureStore, extract_to_store, store_writer
from randar_features.encoding.store import find_shards
from randar_features.encoding.store_writer import Content, write_store
from tests.small_models import IMAGE_SIZE

SIZE = 8
ROWS = 3  # a shard


def content(**options: Any) -> Content:
    outputs = {"mean colour": {"layer": 0}, "corner": {"layer": 1}}
    return Content(
        **{"encoder": "e", "weights": "w", "outputs": outputs, "image_size": SIZE, "pooling": "mean", **options}
    )


def encode(pixels: Tensor) -> Mapping[str, Tensor]:
    """Rows that tell which image they are of."""
    return {"mean colour": pixels.mean(dim=(2, 3)), "corner": pixels[:, :, :2, :2].permute(0, 2, 3, 1)}


def write(images: Any, folder: Path, about: Content | None = None, **options: Any) -> FeatureStore:
    function = options.pop("encode", encode)
    options = {"data": "test", "batch_size": 2, "shard_rows": ROWS, "progress": False, **options}
    return write_store(open_images(images), folder, function, about or content(), **options)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def expected(images: np.ndarray) -> dict[str, np.ndarray]:
    rows = encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    return {name: value.numpy().astype(np.float16).astype(np.float32) for name, value in rows.items()}


def save(images: np.ndarray, folder: Path, first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images, first):
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Interrupted(Exception):
    pass


def interrupted_after(calls: int):
    """`encode` that ends the run at a later call than the given number."""
    left = iter(range(calls))

    def function(pixels: Tensor) -> Mapping[str, Tensor]:
        if next(left, None) is None:
            raise Interrupted
        return encode(pixels)

    return function


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
    assert (part["data"], part["first"], part["rows"]) == ("two classes", 0, 4) and len(part["fingerprint"]) == 16


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
    with pytest.raises(ValueError, match="run its extraction again"):
        FeatureStore(tmp_path / "parts")
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("rows-*")}
    assert len(done) == calls // 2
    write(images, tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert done.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}.items()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from randar_features.encoding import store_writer
from tests.encoding.test_store import SIZE, pictures, write

written_whole = store_writer.written_whole
def killed(path):
    if path.name.startswith("rows-000000003"):
        path.with_name(path.name + ".writing").write_bytes(b"half of a shar")
        os.kill(os.getpid(), signal.SIGKILL)
    return written_whole(path)

store_writer.written_whole = killed
write(pictures(8), Path(sys.argv[2]))
"""


def test_killed_while_it_writes(tmp_path: Path):
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(root), str(tmp_path / "parts")], check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert len(find_shards(tmp_path / "parts")) == 1
    write(pictures(8), tmp_path / "parts")
    write(pictures(8), tmp_path / "whole")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_finished_store_is_given_back(tmp_path: Path):
    write(pictures(5), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write(pictures(5), tmp_path, encode=interrupted_after(0))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("position", [-1, -50, -100])
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


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: b"", lambda data: data[:8] + b"#" + data[9:]])
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
        ({"pooling": None}, 'its pooling is "mean", now null'),
        ({"dtype": "float32"}, 'its dtype is "float16", now "float32"'),
        ({"image_size": 16}, "its image_size is 8, now 16"),
        ({"outputs": {"corner": {"layer": 2}}}, "its outputs is"),
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
    with pytest.raises(ValueError, match="made of other images: 4 of test, now 3 of test"):
        write(pictures(3), tmp_path / "store")
    larger = np.random.default_rng(1).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(larger).save(tmp_path / "images/03.png")
    with pytest.raises(ValueError, match="made of other images"):
        write(tmp_path / "images", tmp_path / "store")


def test_other_pixels_are_refused(tmp_path: Path):
    images = pictures(8)
    write(images, tmp_path)
    images[3] = 255 - images[3]
    with pytest.raises(ValueError, match=r"row 3 \(no path\) has other pixels now"):
        write(images, tmp_path)
    with pytest.raises(ValueError, match="made of other images: 8 of test, now 8 of test"):
        write(pictures(8, seed=1), tmp_path)


def test_append_keeps_the_rows(tmp_path: Path):
    images = pictures(9)
    write(save(images[:5], tmp_path / "images"), tmp_path / "store")
    before = contents(tmp_path / "store")
    store = write(save(images[5:], tmp_path / "images", first=5), tmp_path / "store", append=True)
    assert len(store) == 9
    np.testing.assert_array_equal(store.array("corner"), expected(images)["corner"])
    assert [Path(str(path)).name for path in store.paths] == [f"{number:02d}.png" for number in range(9)]
    assert [part["first"] for part in store.manifest["parts"]] == [0, 5]
    after = contents(tmp_path / "store")
    assert all(after[name] == data for name, data in before.items() if name != "manifest.json")
    write(tmp_path / "images", tmp_path / "store", append=True, encode=interrupted_after(0))
    assert contents(tmp_path / "store") == after


def test_an_append_that_was_interrupted_goes_on(tmp_path: Path):
    images = pictures(12)
    write(images[:4], tmp_path / "parts")
    with pytest.raises(Interrupted):
        write(images[4:], tmp_path / "parts", append=True, encode=interrupted_after(3))
    with pytest.raises(ValueError, match="finish it before appending"):
        write(pictures(3, seed=1), tmp_path / "parts", append=True)
    store = write(images[4:], tmp_path / "parts", append=True)
    np.testing.assert_array_equal(store.array("corner"), expected(images)["corner"])
    write(images[:4], tmp_path / "whole")
    write(images[4:], tmp_path / "whole", append=True)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_damaged_shard_of_what_was_appended(tmp_path: Path):
    images = pictures(9)
    write(save(images[:5], tmp_path / "images"), tmp_path / "store")
    write(save(images[5:], tmp_path / "images", first=5), tmp_path / "store", append=True)
    whole = contents(tmp_path / "store")
    flip(find_shards(tmp_path / "store")[2].path, -1)
    with pytest.warns(UserWarning, match="is damaged"):
        write(tmp_path / "images", tmp_path / "store", append=True)
    assert contents(tmp_path / "store") == whole


def test_as_many_other_images_are_appended(tmp_path: Path):
    images = pictures(8)
    for part in (images[:4], images[4:], images[:4]):
        write(part, tmp_path, append=True)
    store = FeatureStore(tmp_path)
    np.testing.assert_array_equal(store.array("corner"), expected(images)["corner"])
    for _ in range(2):
        write(Stream(images), tmp_path, append=True)
    assert len(FeatureStore(tmp_path)) == 24


def test_appending_other_classes_is_refused(tmp_path: Path):
    save(pictures(2), tmp_path / "cat").parent.joinpath("images").mkdir()
    (tmp_path / "cat").rename(tmp_path / "images/cat")
    write(tmp_path / "images", tmp_path / "store")
    save(pictures(2), tmp_path / "ape").rename(tmp_path / "images/ape")
    with pytest.raises(ValueError, match=r'label_names are \["cat"\], now \["ape", "cat"\]'):
        write(tmp_path / "images", tmp_path / "store", append=True)


class Stream(IterableDataset[Any]):
    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __iter__(self) -> Iterator[Any]:
        return iter(self.images)


@pytest.mark.parametrize("count", [0, 6, 8])
def test_a_stream_of_unknown_length(tmp_path: Path, count: int):
    images = pictures(count)
    if count == 0:
        with pytest.raises(ImageError, match="no image to read"):
            write(Stream(images), tmp_path / "parts")
        return
    with pytest.raises(Interrupted):
        write(Stream(images), tmp_path / "parts", encode=interrupted_after(2))
    with pytest.raises(ValueError, match="lacks the rows 3 to 3 of a stream"):
        FeatureStore(tmp_path / "parts")
    store = write(Stream(images), tmp_path / "parts")
    np.testing.assert_array_equal(store.array("corner"), expected(images)["corner"])
    assert store.manifest["parts"][0]["rows"] == count
    assert contents(tmp_path / "parts") == contents(write(Stream(images), tmp_path / "whole").folder)
    with pytest.raises(ValueError, match="row 0"):
        write(Stream(255 - images), tmp_path / "parts")


def test_a_loader_goes_on_behind_a_damaged_shard(tmp_path: Path):
    images = torch.from_numpy(pictures(8)).permute(0, 3, 1, 2) / 255
    loader = DataLoader(TensorDataset(images, torch.arange(8)), batch_size=4)
    store = write(loader, tmp_path)
    whole = contents(tmp_path)
    assert store.labels.tolist() == list(range(8))
    find_shards(tmp_path)[1].path.unlink()
    write(loader, tmp_path)
    assert contents(tmp_path) == whole


def test_values_beyond_half_precision(tmp_path: Path):
    def large(pixels: Tensor) -> Mapping[str, Tensor]:
        return {"mean colour": torch.full((len(pixels), 1), 1e5)}

    with pytest.raises(ValueError, match=r'mean colour is 1e\+05 in row 0, beyond float16: store it as "float32"'):
        write(pictures(2), tmp_path / "half", encode=large)
    store = write(pictures(2), tmp_path / "single", content(dtype="float32"), encode=large)
    assert store.array("mean colour").tolist() == [[1e5], [1e5]]
    with pytest.raises(ValueError, match="got 'int8'"):
        content(dtype="int8")


@pytest.mark.parametrize(("batch_size", "rows"), [(2, 4), (5, 5), (8, 5)])
def test_large_rows_make_short_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, rows: int):
    monkeypatch.setattr(store_writer, "SHARD_BYTES", 5 * (3 + 12) * 2 + 7)
    store = write(pictures(9), tmp_path, shard_rows=None, batch_size=batch_size)
    assert store.manifest["shard_rows"] == rows and len(store.rows("corner")[0]) == rows
    monkeypatch.setattr(store_writer, "SHARD_BYTES", 10**6)
    assert len(write(pictures(9), tmp_path, shard_rows=None)) == 9
    with pytest.raises(ValueError, match=f"its shard_rows is {rows}, now 3"):
        write(pictures(9), tmp_path, shard_rows=3)
    store = write(pictures(9), tmp_path / "large", shard_rows=None, batch_size=batch_size)
    assert len(store.shards) == 1 and store.manifest["shard_rows"] in (1024, 1020)


def test_processes_share_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images = pictures(14)
    write(images, tmp_path / "whole")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("randar_features.encoding.store_resume.os.environ", PerThread(os.environ))
    made: dict[int, list[int]] = {0: [], 1: []}

    def run(rank: int) -> None:
        PerThread.rank.value = str(rank)

        def counted(pixels: Tensor) -> Mapping[str, Tensor]:
            made[rank].append(len(pixels))
            return encode(pixels)

        assert len(write(images, tmp_path / "shared", encode=counted)) == 14

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {rank: sum(rows) for rank, rows in made.items()} == {0: 8, 1: 6}
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")


class PerThread(dict[str, str]):
    """An environment in which each thread has a RANK of its own."""

    rank = threading.local()

    def get(self, key: str, default: Any = None) -> Any:
        return self.rank.value if key == "RANK" else super().get(key, default)


def test_no_store(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"manifest.json is missing: make the store"):
        FeatureStore(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 7}')
    with pytest.raises(ValueError, match="no manifest of a feature store of format 1"):
        FeatureStore(tmp_path)


# The model's features in a store


def small_pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize("pool", ["mean", None])
def test_the_store_holds_what_extract_features_gives(small_model: Model, tmp_path: Path, pool: str | None):
    images = small_pictures(5)
    options: dict[str, Any] = {"layers": [0, 2], "pool": pool, "progress": False}
    store = extract_to_store(
        images,
        tmp_path,
        small_model,
        context=["reverse", "single"],
        read=["image", "instruction"],
        store_dtype="float32",
        batch_size=2,
        **options,
    )
    assert len(store.names) == 8
    for context in ("reverse", "single"):
        for read in ("image", "instruction"):
            features = extract_features(images, small_model, context=context, read=read, **options)
            rows = features.maps if pool is None else features.pooled()
            assert rows is not None
            for place, layer in enumerate((0, 2)):
                held = store.array(f"{context} {read} layer {layer}")
                np.testing.assert_allclose(held, rows[:, place].numpy(), rtol=1e-4, atol=1e-5)


def test_orders_are_part_of_what_a_store_is(small_model: Model, tmp_path: Path):
    images = small_pictures(2)
    store = extract_to_store(images, tmp_path, small_model, layers=1, orders=2, store_dtype="float32", progress=False)
    expected = extract_features(images, small_model, layers=1, orders=2, pool="mean", progress=False).pooled()[:, 0]
    np.testing.assert_allclose(store.array("reverse image layer 1"), expected.numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="its outputs is"):
        extract_to_store(images, tmp_path, small_model, layers=1, orders=3, store_dtype="float32", progress=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"context": "sideways"}, ValueError, "sideways"),
        ({"read": "mask"}, ValueError, "mask"),
        ({"layers": 3}, IndexError, "layer 3 is out of range"),
        ({"pool": "max"}, ValueError, "max"),
        ({"orders": 0}, ValueError, "at least 1"),
    ],
)
def test_what_the_model_does_not_have(small_model: Model, tmp_path: Path, options: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        extract_to_store(small_pictures(1), tmp_path / "store", small_model, progress=False, **options)
    assert not (tmp_path / "store").exists()
