"""A folder of crops of scikit-learn's two photographs, and what is explored of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

import randar_features as rf
from randar_features.cli.explore.collection import Collection, open_collection


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine crops of each photograph, in folders china and flower."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("china", "flower"):
        photograph = Image.fromarray(load_sample_image(f"{name}.jpg"))
        (folder / name).mkdir()
        for number in range(9):
            side = int(generator.integers(200, 360))
            left, top = (int(generator.integers(0, length - side)) for length in photograph.size)
            photograph.crop((left, top, left + side, top + side)).resize((256, 256)).save(
                folder / name / f"{number}.png"
            )
    return folder


@pytest.fixture(scope="session")
def collection(photos: Path, tmp_path_factory: pytest.TempPathFactory, small_model: rf.Model) -> Collection:
    """The photographs through the small model."""
    return open_collection(str(photos), tmp_path_factory.mktemp("scratch"), model=small_model, progress=False)
