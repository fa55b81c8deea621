"""Results do not depend on torch's default device: on "meta" a tensor that is made without a device has no data."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import benchmarks
import probes
import randar_features as rf
from probes import generation as metrics
from randar_features.generation.complete import ORDERS
from tests.small_models import write_folder
from tests.training.small import random_images, small_tokenizer_trainer, small_trainer

PIXELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TOKENS = torch.arange(32).view(2, 16)
MASK = (torch.arange(16) < 7).expand(16, 16)
VECTORS = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
LABELS = np.arange(60) % 3
POINTS = np.array([[3.0, 4.0]])
MAPS = VECTORS[:54].reshape(6, 3, 3, 8)
MASKS = list(np.random.default_rng(1).integers(0, 3, (6, 12, 12)))

OF_MODEL: dict[str, Callable[[rf.Model], Any]] = {
    "encode": lambda model: model.tokenizer.encode(PIXELS),
    "decode": lambda model: model.tokenizer.decode(TOKENS),
    "arrays": lambda model: (
        rf.extract_features(
            PIXELS.permute(0, 2, 3, 1).mul(255).byte().numpy(), model, orders=2, classes=1, progress=False
        ).maps
    ),
    "encoder": lambda model: rf.ImageEncoder(model)(PIXELS),
    "encode_tokens": lambda model: rf.encode_tokens(model, TOKENS, [0, 2], list(range(16)), layers=[0]),
    "seeds": lambda model: rf.generate(model, [0, 1], generator=[4, 5], order=list(range(16))),
    "numpy": lambda model: rf.generate(model, np.array([0, 1]), generator=0, top_p=0.9, dtype="bfloat16"),
    "known": lambda model: rf.generate(model, [0, 1], generator=0, tokens=TOKENS, known=TOKENS[0] < 5),
    "upscale": lambda model: rf.upscale_tokens(model.transformer, [1], generator=0, steps=4),
    "inpaint": lambda model: rf.inpaint(model, PIXELS, MASK.numpy(), classes=1, generator=0),
    "outpaint": lambda model: rf.outpaint(model, PIXELS, 4, generator=0),
    "likelihood": lambda model: rf.log_likelihood(model, TOKENS, 1, orders=3),
    "orders": lambda model: rf.log_likelihood(model, TOKENS, [1, 2], orders=[[list(range(16))]]),
}
OF_ARRAYS: dict[str, Callable[[], Any]] = {
    "standardizer": lambda: probes.Standardizer().fit(VECTORS).apply(torch.from_numpy(VECTORS)),
    "whitener": lambda: probes.Whitener(3).fit(VECTORS).apply(torch.from_numpy(VECTORS)),
    "logistic": lambda: probes.LogisticProbe(C_grid=(1.0,)).fit(VECTORS, LABELS).predict_proba(VECTORS),
    "linear": lambda: probes.LinearProbe(epochs=1).fit(VECTORS, LABELS).predict_proba(VECTORS),
    "chunks": lambda: (
        probes.LinearProbe(epochs=1, batch_size=16, buffer_rows=32).fit(VECTORS, LABELS).predict_proba(VECTORS)
    ),
    "attentive": lambda: (
        probes.AttentiveProbe(num_heads=2, epochs=1, learning_rates=(0.1,), batch_size=60)
        .fit(VECTORS[:, None], LABELS)
        .predict_proba(VECTORS[:, None])
    ),
    "knn": lambda: probes.KNNProbe(k=5).fit(VECTORS, LABELS).predict_proba(VECTORS)[5],
    "search": lambda: probes.search(VECTORS, VECTORS, 3, exclude=np.arange(60)).ids,
    "segment": lambda: probes.LinearSegmenter(3, iterations=2).fit(MAPS, MASKS).scores(MAPS[0]),
    "all pixels": lambda: probes.LinearSegmenter(3, iterations=2, pixels=None).fit(MAPS, MASKS).scores(MAPS[0]),
    "patches": lambda: probes.KNNSegmenter(3, k_grid=(3,)).fit(MAPS, MASKS).scores(MAPS[0]),
    "match": lambda: probes.match_points(MAPS[0], MAPS[1], POINTS, source_size=(12, 12), target_size=(9, 9)),
    "basis": lambda: probes.remove_basis(MAPS, probes.positional_basis(MAPS, 2)),
    "precision": lambda: metrics.precision(VECTORS, VECTORS + 0.5),
    "coverage": lambda: metrics.coverage(VECTORS, VECTORS + 0.5),
    "frechet": lambda: metrics.frechet_distance(VECTORS, VECTORS + 0.5),
}


MAKERS = {
    "arange",
    "empty",
    "eye",
    "full",
    "linspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "randperm",
    "tensor",
    "zeros",
}


def numbers(result: Any) -> np.ndarray:
    return result.numpy(force=True) if isinstance(result, torch.Tensor) else np.asarray(result)


@pytest.mark.parametrize("name", OF_MODEL)
def test_models(small_model: rf.Model, name: str):
    expected = OF_MODEL[name](small_model)
    with torch.device("meta"):
        found = OF_MODEL[name](small_model)
    np.testing.assert_array_equal(numbers(found), numbers(expected))


@pytest.mark.parametrize("order", ORDERS)
def test_orders(small_model: rf.Model, order: str):
    expected = rf.generate(small_model, [0, 1], generator=0, order=order)
    with torch.device("meta"):
        assert torch.equal(rf.generate(small_model, [0, 1], generator=0, order=order), expected)


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_probes(name: str):
    expected = OF_ARRAYS[name]()
    with torch.device("meta"):
        found = OF_ARRAYS[name]()
    np.testing.assert_array_equal(numbers(found), numbers(expected))


def test_loading_extraction_and_search(small_model: rf.Model, tmp_path: Path):
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(2):
            picture = Image.effect_noise((20, 18), 30 + 40 * number).convert("RGB")
            picture.save(tmp_path / "photos" / label / f"{number}.png")
    write_folder(tmp_path / "model")
    expected = rf.extract_features(tmp_path / "photos", small_model, pool="mean", progress=False)
    with torch.device("meta"):
        model = rf.load_model(tmp_path / "model", device="cpu")
        table = rf.extract_features(tmp_path / "photos", model, pool="mean", out=tmp_path / "table", progress=False)
        rf.build_index(table, tmp_path / "index", progress=False)
        hits = rf.open_index(tmp_path / "index").search(PIXELS, k=2)
    assert torch.equal(model.transformer.rotary, small_model.transformer.rotary)
    np.testing.assert_array_equal(table[table.specs[0]], expected[expected.specs[0]])
    assert hits.ids.shape == (2, 2)


def test_a_module_of_ones_own_is_made_where_torch_says(small_model: rf.Model):
    with torch.device("meta"):
        assert type(small_model.transformer)(small_model.transformer.config).device.type == "meta"


@pytest.mark.parametrize("make", [small_trainer, small_tokenizer_trainer])
def test_training(make: Callable[..., Any], tmp_path: Path):
    given = (random_images(),) if make is small_tokenizer_trainer else ()
    expected = make(tmp_path / "expected", *given).train_step(0)
    with torch.device("meta"):
        assert make(tmp_path / "found", *given).train_step(0) == expected


@pytest.mark.parametrize("files", ["benchmarks/**/*.py", "scripts/*.py"])
def test_benchmarks_and_scripts_say_where_each_tensor_is_made(files: str):
    for path in Path(benchmarks.__file__).parents[1].glob(files):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in {f"torch.{name}" for name in MAKERS}:
                assert "device" in {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}"
