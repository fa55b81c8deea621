from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from randar_features import Model, load_model
from tests.small_models import write_folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hashes of files are kept apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANDAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Three blocks on 4×4 tokens of 16×16 pixels."""
    return load_model(write_folder(tmp_path_factory.mktemp("small_model")), device="cpu")
