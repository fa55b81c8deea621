"""The transformer of scikit-learn: its numbers, its place in pipelines and searches, and what it refuses."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import randar_features as rf
from randar_features import sklearn as module
from randar_features.data import ImageError
from randar_features.sklearn import RandARFeatures
from tests.small_models import write_folder

COUNT, SIZE, WIDTH = 12, 16, 32


@pytest.fixture
def name(small_model: rf.Model) -> str:
    return small_model.name


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(COUNT) % 2


@pytest.fixture
def paths(tmp_path: Path, pixels: np.ndarray) -> list[Path]:
    files = [tmp_path / f"{number}.png" for number in range(COUNT)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    return files


def test_the_numbers_are_those_of_extract_features_whatever_the_form(
    name: str, pixels: np.ndarray, paths: list[Path]
) -> None:
    table = rf.extract_features(pixels, name, layers=[1, -1], context="reverse", progress=False)
    features = RandARFeatures(name, layer=-1, context="reverse", batch_size=5).fit_transform(pixels)
    np.testing.assert_allclose(features, table.pooled()[:, 1], rtol=1e-5, atol=1e-6)
    assert features.dtype == np.float32 and features.shape == (COUNT, WIDTH)
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    forms: list[Any] = [paths, [str(path) for path in paths], paths[0].parent, list(pixels), tensors]
    forms.append([Image.fromarray(image) for image in pixels])
    order = sorted(range(COUNT), key=lambda number: str(number))  # of a folder
    for form in forms:
        found = RandARFeatures(name, spec="reverse/image/2").transform(form)
        expected = features[order] if isinstance(form, Path) else features
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_scikit_learns_checks(name: str) -> None:
    with pytest.warns(UserWarning, match="requires input"):  # they make tables of numbers, which are no images
        found = check_estimator(RandARFeatures(name), on_skip=None)
    assert found and {check["status"] for check in found} == {"passed"}


def test_a_search_over_layers_and_contexts_loads_once_and_encodes_each_image_once(
    name: str, pixels: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []

    def encode(model: rf.Model, images: torch.Tensor, *rest: Any, **options: Any) -> Any:
        encoded.append(len(images))
        return rf.features.encode(model, images, *rest, **options)

    monkeypatch.setattr(module, "encode", encode)
    module._loaded.cache_clear()
    pipeline = make_pipeline(RandARFeatures(name), LogisticRegression(max_iter=20))
    grid = {"randarfeatures__layer": [0, 2], "randarfeatures__context": ["single", "reverse"]}
    grid |= {"randarfeatures__read": ["image", "instruction"], "logisticregression__C": [0.1, 1.0]}
    fresh = pixels[..., ::-1].copy()  # that no other test has encoded
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(fresh, labels)
    assert len(search.cv_results_["params"]) == 16 and search.predict(fresh).shape == (COUNT,)
    assert sum(encoded) == COUNT * 8
    assert module._loaded.cache_info().misses == 1


def test_a_clone_and_a_pickle_hold_settings_alone(name: str, pixels: np.ndarray, small_model: rf.Model) -> None:
    features = RandARFeatures(name, layer=1, read="instruction").fit()
    copy = clone(features)
    assert copy.get_params() == features.get_params() and not hasattr(copy, "weights_")
    loaded = RandARFeatures(small_model, layer=1, read="instruction").fit()
    for each in (features, loaded):
        content = pickle.dumps(each)
        assert len(content) < 2000
        np.testing.assert_array_equal(pickle.loads(content).transform(pixels), features.transform(pixels))


def test_other_weights_under_the_name_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    folder = write_folder(tmp_path / "model")
    features = RandARFeatures(folder).fit()
    write_folder(folder, kind="maskgit")
    with pytest.raises(ValueError, match=str(features.weights_)):
        features.transform(pixels)
    assert features.fit().transform(pixels).shape == (COUNT, WIDTH)


def test_pandas_columns_have_the_name_of_the_feature(name: str, paths: list[Path]) -> None:
    pandas = pytest.importorskip("pandas")
    series = pandas.Series(paths[:3], index=[7, 8, 9])
    frame = RandARFeatures(name, layer=0, context="single").set_output(transform="pandas").fit_transform(series)
    assert list(frame.columns) == [f"single/image/0_{number}" for number in range(WIDTH)]
    assert list(frame.index) == [7, 8, 9]
    joined = RandARFeatures(name, spec="single/image/0/orders=2/concatenate")
    assert joined.transform(series).shape == (3, len(joined.get_feature_names_out())) == (3, 2 * WIDTH)


def test_an_image_that_cannot_be_read(name: str, paths: list[Path]) -> None:
    paths[1].write_bytes(b"no picture")
    with pytest.raises(ImageError, match=rf"image 1 .*{paths[1].name}") as refused:
        RandARFeatures(name, batch_size=1).fit_transform(paths)
    assert str(refused.value).count("read") == 1
    features = RandARFeatures(name, on_error="nan").fit_transform(paths)
    assert np.flatnonzero(np.isnan(features).all(1)).tolist() == [1]
    assert np.isfinite(np.delete(features, 1, 0)).all()
    assert np.isnan(RandARFeatures(name, on_error="nan").transform(paths[1:2])).all()


def test_an_image_larger_than_allowed_has_no_vector_though_it_had_one(name: str, pixels: np.ndarray) -> None:
    images = [Image.fromarray(pixels[0]), Image.fromarray(pixels[1, :8, :8])]
    assert np.isfinite(RandARFeatures(name).transform(images)).all()
    features = RandARFeatures(name, max_pixels=64, on_error="nan").transform(images)
    assert np.isnan(features).all(1).tolist() == [True, False]


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"layer": 9}, IndexError, "layer 9"),
        ({"context": "backwards"}, ValueError, "backwards"),
        ({"read": "query"}, ValueError, "query"),
        ({"context": ["reverse", "single"]}, TypeError, "context"),
        ({"read": ["image", "instruction"]}, TypeError, "read"),
        ({"on_error": "skip"}, ValueError, "on_error"),
        ({"dtype": "int8"}, ValueError, "int8"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"max_pixels": 0}, ValueError, "max_pixels"),
        ({"value_range": (3, 1)}, ValueError, "value_range"),
        ({"spec": "reverse/image"}, ValueError, "reverse/image"),
        ({"spec": "reverse/image/1", "context": "single"}, ValueError, "context"),
    ],
)
def test_wrong_settings_are_refused_by_fit(
    name: str, settings: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        RandARFeatures(name, **settings).fit()


def test_the_vectors_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    recent = module._Recent()
    monkeypatch.setattr(module, "BYTES_KEPT", 3 * 16)
    for key in "abc":
        recent.put(key, np.zeros(4, np.float32))
    recent.get("a")
    recent.put("d", np.zeros(4, np.float32))
    assert list(recent.vectors) == ["c", "a", "d"] and recent.bytes == 48


def test_a_range_as_a_list(name: str, pixels: np.ndarray) -> None:
    ranged = RandARFeatures(name, value_range=[0, 255]).fit_transform(pixels[:1])
    np.testing.assert_array_equal(ranged, RandARFeatures(name).fit_transform(pixels[:1]))
