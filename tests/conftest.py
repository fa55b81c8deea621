from __future__ import annotations

import gc
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # what takes seconds to import is not for the process that only shares the tests out
    from randar_features import Model


def pytest_configure() -> None:
    """RANDAR_TEST_FORMAT=bfloat16 or float32: the fastest format of a machine that has, or lacks, such instructions."""
    if wanted := os.environ.get("RANDAR_TEST_FORMAT"):
        if wanted not in ("bfloat16", "float32"):
            raise pytest.UsageError(f"RANDAR_TEST_FORMAT={wanted}: expected bfloat16 or float32")
        import torch

        torch.cpu.get_capabilities = lambda: {"amx_bf16": wanted == "bfloat16"}
    gc.disable()  # while the tests are imported


LONG = ("test_cluster.py", "test_wheel.py", "test_page.py", "test_full_size_model")
"""Tests that take longest. They run first: at the end one process would wait for the other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    items.sort(key=lambda item: not any(name in item.nodeid for name in LONG))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays: the search for garbage, else a tenth of the time, leaves it out."""
    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()
    for logger in logging.root.manager.loggerDict.values():  # pytest hangs a handler into each that does not propagate
        if isinstance(logger, logging.Logger) and logger.name.startswith("torch"):
            logger.propagate = True


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hashes of files are kept apart from the user's; no test cuts the power, so none waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANDAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Three blocks on 4×4 tokens of 16×16 pixels."""
    from randar_features import load_model
    from tests.small_models import write_folder

    return load_model(write_folder(tmp_path_factory.mktemp("small_model")), device="cpu")


@pytest.fixture(autouse=True)
def _small_model_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that changes the model which it shares with the others fails itself, not one that comes after it."""
    model = request.getfixturevalue("small_model") if "small_model" in request.fixturenames else None
    if not hasattr(model, "optional_tokenizer"):  # some files have a small model of their own
        yield
        return
    before = _state(model)
    yield
    assert _state(model) == before, f"{request.node.nodeid} changed small_model, which other tests share: take a copy"


def _state(model: Model) -> dict[str, tuple[object, ...]]:
    """What changes where weights are written over, exchanged or unfrozen, or a module goes into training mode."""
    state: dict[str, tuple[object, ...]] = {}
    for part in (model.transformer, model.optional_tokenizer):
        assert part is not None
        kind = type(part).__name__
        state |= {f"{kind}.{name}": (module.training,) for name, module in part.named_modules()}
        state |= {
            f"{kind}.{name}, weights": (weights.data_ptr(), weights._version, weights.dtype, weights.requires_grad)
            for name, weights in part.named_parameters()
        }
    return state


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; without one the tests of pages are skipped. It holds an event loop, so not for a session."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder `photos/` that README and the examples speak of, with 20 small pictures in two classes."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 255, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    monkeypatch.chdir(tmp_path)
