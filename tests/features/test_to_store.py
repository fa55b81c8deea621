from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from randar_features import Model, extract_features, extract_to_store
from tests.small_models import IMAGE_SIZE


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
                held = store.array(f"{context}/{read}/{layer}")
                np.testing.assert_allclose(held, rows[:, place].numpy(), rtol=1e-4, atol=1e-5)


def test_orders_are_part_of_what_a_store_is(small_model: Model, tmp_path: Path):
    images = small_pictures(2)
    store = extract_to_store(images, tmp_path, small_model, layers=1, orders=2, store_dtype="float32", progress=False)
    expected = extract_features(images, small_model, layers=1, orders=2, pool="mean", progress=False).pooled()[:, 0]
    np.testing.assert_allclose(store.array("reverse/image/1/orders=2"), expected.numpy(), rtol=1e-4, atol=1e-5)
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


def test_features_of_changed_weights_are_not_those_of_the_files(small_model: Model, tmp_path: Path) -> None:
    model, image = copy.deepcopy(small_model), np.zeros((4, 4, 3), np.uint8)
    extract_features(image, model, out=tmp_path / "table", progress=False)
    model.transformer.layers[0].attention.wo.weight.data.mul_(2)
    with pytest.raises(ValueError, match="weights"):
        extract_features(image, model, out=tmp_path / "table", progress=False)
