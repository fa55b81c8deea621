"""Extraction over a local Ray of two workers: the numbers of one process, whatever dies."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import randar_features as rf
from randar_features.features import cluster as cluster_module
from randar_features.features.cluster import _workers

SETTINGS: dict[str, Any] = {"batch_size": 4, "shard_rows": 10, "context": ["single", "reverse"], "dtype": "float32"}


@pytest.fixture(scope="module")
def ray() -> Any:
    """The module; here, since its import takes seconds in each process of the tests."""
    return pytest.importorskip("ray.data") and sys.modules["ray"]


@pytest.fixture(scope="module")
def cluster(ray: Any) -> Iterator[None]:
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8, logging_level="error",
        _system_config={"worker_register_timeout_seconds": 600},  # imports take long on a machine with other work
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(22):
        path = folder / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    (folder / "a" / "04.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    Image.fromarray(generator.integers(0, 4096, (40, 50), np.uint16)).save(folder / "a" / "06.png")
    Image.new("RGB", (50, 50), "white").save(folder / "b" / "07.png")
    return folder


class Images:
    def __len__(self) -> int:
        return 22

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        return np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8), number % 3


def mortal() -> type:
    """An actor that image 8 kills where it comes first, and image 15 always. It gives what one process has read.

    The class is defined here, so that it is sent whole: a class of a module would have each process import PyTorch.
    """

    class Mortal:
        def __init__(self, read: pa.Table, mark: Path) -> None:
            self.table, self.mark = read, mark

        def __call__(self, batch: pa.Table) -> pa.Table:
            return self.read(batch["numbers"][0].as_py())

        def read(self, numbers: list[int]) -> pa.Table:
            for number in numbers:
                if number == 15 or (number == 8 and "8" not in self.mark.read_text().split()):
                    with self.mark.open("a") as file:
                        file.write(f"{number} ")
                    os.kill(os.getpid(), signal.SIGKILL)
            return self.table.take(numbers)

    return Mortal


def same(one: rf.FeatureTable, other: rf.FeatureTable) -> None:
    assert one.specs == other.specs and one.status == other.status and one.paths == other.paths
    assert one.labels is not None and other.labels is not None and one.labels.tolist() == other.labels.tolist()
    assert one.store is not None and other.store is not None and one.store.hashes == other.store.hashes
    assert one.store.manifest == other.store.manifest
    for spec in one.specs:
        np.testing.assert_allclose(one[spec], other[spec], rtol=1e-3, atol=1e-3)  # threads may differ


def test_equals_one_process(cluster: None, photos: Path, tmp_path: Path, small_model: rf.Model):
    settings = SETTINGS | {"pool": "mean", "value_range": (0, 4095), "max_pixels": 40 * 50}
    with pytest.warns(UserWarning, match="04.png"):
        table = rf.extract_features_ray(
            photos, small_model, out=tmp_path / "ray", workers=1, **settings, progress=False
        )
    with pytest.warns(UserWarning, match="04.png"):
        same(table, rf.extract_features(photos, small_model, out=tmp_path / "one", **settings, progress=False))
    assert [number for number, status in enumerate(table.status) if status != "ok"] == [2, 14]


def test_a_ray_data_set_names_images(ray: Any, cluster: None, photos: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("randar_features.features.extract.Extraction.to_table", lambda self, images, *_: images)
    rows = [{"path": str(path), "label": "x"} for path in sorted(photos.rglob("*.png"))[:2]]
    found = rf.extract_features_ray(ray.data.from_items(rows, override_num_blocks=1), out="nowhere")
    assert found == [(row["path"], "x") for row in rows]


def test_a_killed_worker_costs_no_more_than_the_image_that_kills_every_one(
    cluster: None, tmp_path: Path, small_model: rf.Model, monkeypatch: pytest.MonkeyPatch
):
    mark, real = tmp_path / "mark", cluster_module._Worker
    mark.touch()

    class ReadByMortals(cluster_module._RayImages):
        def __init__(self, *arguments: Any, **reading: Any) -> None:
            super().__init__(*arguments, **reading)
            worker = real(*self._worker)
            self._worker: Any = pa.concat_tables([worker.read([number]) for number in range(22)]), mark

    monkeypatch.setattr(cluster_module, "_RayImages", ReadByMortals)
    monkeypatch.setattr(cluster_module, "_Worker", mortal())
    with pytest.warns(UserWarning, match="image 15 .*died"):
        table = rf.extract_features_ray(Images(), small_model, out=tmp_path / "ray", **SETTINGS, progress=False)
    deaths = mark.read_text().split()
    assert deaths.count("8") == 1 and 2 <= deaths.count("15") < 10
    assert [number for number, status in enumerate(table.status) if status != "ok"] == [15]
    one = rf.extract_features(Images(), small_model, **SETTINGS | {"shard_rows": None}, progress=False)
    for spec in table.specs:
        assert np.isnan(table[spec][15]).all()
        np.testing.assert_allclose(table[spec][table.ok], one[spec][table.ok], rtol=1e-3, atol=1e-3)


def test_what_cannot_be_shared_out_is_refused(ray: Any, tmp_path: Path, small_model: rf.Model):
    with pytest.raises(ValueError, match="stream"):
        rf.extract_features_ray(rf_loader(), small_model, out=tmp_path / "out")
    with pytest.raises(ValueError, match="auto"):
        rf.extract_features_ray([], small_model, out=tmp_path / "out", dtype="auto")
    assert not (tmp_path / "out").exists()


def rf_loader() -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(Images(), batch_size=2)


def test_one_actor_a_gpu_else_a_core():
    assert _workers(None, None, {"CPU": 8.0, "GPU": 2.0}) == (2, 1)
    assert _workers(None, "cpu", {"CPU": 8.0, "GPU": 2.0}) == (8, 0)
    assert _workers(3, None, {"CPU": 8.0}) == (3, 0)
    with pytest.raises(ValueError, match="GPU"):
        _workers(None, "cuda", {"CPU": 8.0})
