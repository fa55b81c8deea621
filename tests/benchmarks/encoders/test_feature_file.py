"""Files of features as encoders: entries find their images by path or by place, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import randar_features as rf
from benchmarks.encoders import extract, load_encoder
from benchmarks.result import read_result
from benchmarks.tasks.dense import correspondence, segmentation
from benchmarks.tasks.whole_images import classification, retrieval
from randar_features.features.store import FeatureStore
from tests.benchmarks.image_folders import write_classes


@pytest.fixture
def data(tmp_path: Path) -> list[Path]:
    return write_classes(tmp_path / "data", per_class=15, seed=0)


def vectors_of(count: int, width: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def store_of(file: Path | str, data: Path, **options: object) -> FeatureStore:
    encoder = load_encoder(f"features:{file}")
    return extract(encoder, data, folder=data.parent / "cache", progress=False, **options)  # type: ignore[arg-type]


def test_an_array_is_matched_by_place(tmp_path: Path, data: list[Path]) -> None:
    vectors = vectors_of(len(data))
    np.save(tmp_path / "f.npy", vectors)
    store = store_of(tmp_path / "f.npy", tmp_path / "data")
    np.testing.assert_array_equal(store.array("features"), vectors)
    assert store.labels.tolist() == np.repeat([0, 1, 2], 15).tolist() and store.label_names == ["blue", "green", "red"]
    first = store_of(tmp_path / "f.npy", tmp_path / "data", max_images=5)
    np.testing.assert_array_equal(first.array("features"), vectors[:5])


def test_a_table_is_matched_by_path_in_any_order(tmp_path: Path, data: list[Path]) -> None:
    vectors, shuffled = vectors_of(len(data)), np.random.default_rng(1).permutation(len(data))
    for number, prefix in enumerate((tmp_path / "data", Path())):
        paths = [str(prefix / data[row].relative_to(tmp_path / "data")) for row in shuffled]
        columns = {"path": [*paths, "of another folder.png"], "own": [*vectors[shuffled], vectors[0]]}
        pd.DataFrame(columns).to_parquet(tmp_path / f"{number}.parquet")
        store = store_of(tmp_path / f"{number}.parquet", tmp_path / "data")
        np.testing.assert_array_equal(store.array("own"), vectors)


def test_maps_are_pooled_and_a_table_of_ours_is_read(tmp_path: Path, data: list[Path], small_model: rf.Model) -> None:
    table = rf.extract_features(str(tmp_path / "data"), model=small_model, layers=0, context="single", progress=False)
    table.to_parquet(tmp_path / "ours.parquet")
    (spec,) = table.specs
    maps = np.asarray(table[spec])
    assert maps.ndim == 4
    pooled = store_of(tmp_path / "ours.parquet", tmp_path / "data").array(spec)
    np.testing.assert_allclose(pooled, maps.mean((1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        store_of(tmp_path / "ours.parquet", tmp_path / "data", pooling=None).array(spec), maps
    )


def test_an_image_without_features_keeps_its_place(tmp_path: Path, data: list[Path]) -> None:
    vectors = vectors_of(len(data))
    vectors[4, 1] = np.nan
    np.save(tmp_path / "f.npy", vectors)
    store = store_of(tmp_path / "f.npy", tmp_path / "data")
    assert np.flatnonzero(~store.ok).tolist() == [4] and "f.npy" in store.status[4]


def test_what_does_not_fit_is_named(tmp_path: Path, data: list[Path]) -> None:
    np.save(tmp_path / "few.npy", vectors_of(7))
    with pytest.raises(ValueError, match=r"few\.npy.* 7 images.* 45"):
        store_of(tmp_path / "few.npy", tmp_path / "data")
    paths = [str(path) for path in data[:-1]]
    pd.DataFrame({"path": paths, "own": list(vectors_of(44))}).to_parquet(tmp_path / "lacking.parquet")
    with pytest.raises(ValueError, match=r"lacking\.parquet has no features of .*red/14\.png"):
        store_of(tmp_path / "lacking.parquet", tmp_path / "data")
    np.save(tmp_path / "cube.npy", np.zeros((45, 2, 2)))
    pd.DataFrame({"path": paths}).to_parquet(tmp_path / "empty.parquet")
    pd.DataFrame({"own": [[1.0], [1.0, 2.0]]}).to_parquet(tmp_path / "ragged.parquet")
    (tmp_path / "text.npy").write_text("no array")
    for name in ("cube.npy", "empty.parquet", "ragged.parquet", "text.npy"):
        with pytest.raises(ValueError, match=name):
            load_encoder(f"features:{tmp_path / name}")
    with pytest.raises(FileNotFoundError, match=r"absent\.npy"):
        load_encoder(f"features:{tmp_path / 'absent.npy'}")


def test_benchmarks_take_a_file(tmp_path: Path, data: list[Path]) -> None:
    labels = np.repeat([0, 1, 2], 15)
    np.save(tmp_path / "f.npy", np.eye(3, dtype=np.float32)[labels] + 0.01 * vectors_of(45, 3))
    name = f"features:{tmp_path / 'f.npy'}"
    config = classification.Config(
        data=str(tmp_path / "data"), encoder=(name,), probe=("knn",), cache=str(tmp_path / "cache"), duplicates=False
    )
    classification.run(config, tmp_path / "out")
    (row,) = read_result(tmp_path / "out")["results"]
    assert row["accuracy"] == 1 and row["encoder"] == name
    np.save(tmp_path / "maps.npy", np.zeros((45, 4, 4, 3), np.float32))
    digits = correspondence.Config(
        data="digits", encoder=(f"features:{tmp_path / 'maps.npy'}",), pairs=2, cache=str(tmp_path / "cache")
    )
    with pytest.raises(ValueError, match=r"maps\.npy"):
        correspondence.run(digits, tmp_path / "correspondence")


def test_a_file_a_split_is_segmented(tmp_path: Path) -> None:
    counts = {"train": 12, "evaluation": 6}
    for part, count in counts.items():
        np.save(tmp_path / f"{part}.npy", np.random.default_rng(0).normal(size=(count, 4, 4, 3)).astype(np.float32))
    config = segmentation.Config(
        data="photo-digits",
        encoder=(f"features:{tmp_path}/{{split}}.npy",),
        head="knn",
        train_images=12,
        evaluation_images=6,
        duplicates=False,
        cache=str(tmp_path / "cache"),
    )
    segmentation.run(config, tmp_path / "out")
    (row,) = json.loads((tmp_path / "out/result.json").read_text())["results"]
    assert row["grid"] == "4x4"


def test_results_of_other_images_are_not_compared(tmp_path: Path, data: list[Path]) -> None:
    """Files that lack features of two images of one class leave the same labels, of other images."""
    names = []
    for number, row in enumerate((0, 14)):
        vectors = vectors_of(len(data))
        vectors[row] = np.nan
        np.save(tmp_path / f"{number}.npy", vectors)
        names.append(f"features:{tmp_path / f'{number}.npy'}")
    options = {"data": str(tmp_path / "data"), "encoder": tuple(names), "cache": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match=r"1\.npy was given other evaluation images than .*0\.npy"):
        config = classification.Config(**options, probe=("knn",), duplicates=False)
        classification.run(config, tmp_path / "classification")
    with pytest.raises(ValueError, match=r"1\.npy was given other images than .*0\.npy"):
        retrieval.run(retrieval.Config(**options, index_kind=("none",), duplicates=False), tmp_path / "retrieval")


def test_entries_of_paths_that_come_twice_must_be_in_the_datas_order(tmp_path: Path, data: list[Path]) -> None:
    twice = [*data[:2], data[0]]
    pd.DataFrame({"path": [str(path) for path in twice]}).to_csv(tmp_path / "list.csv", index=False)
    vectors = vectors_of(3)
    for name, order in (("same", [0, 1, 2]), ("other", [1, 0, 2])):
        columns = {"path": [str(twice[row]) for row in order], "own": [*vectors[order]]}
        pd.DataFrame(columns).to_parquet(tmp_path / f"{name}.parquet")
    store = store_of(tmp_path / "same.parquet", tmp_path / "list.csv")
    np.testing.assert_array_equal(store.array("own"), vectors)
    with pytest.raises(ValueError, match=r"other\.parquet names an image more than once.* entry 1 is .*01\.png"):
        store_of(tmp_path / "other.parquet", tmp_path / "list.csv")
