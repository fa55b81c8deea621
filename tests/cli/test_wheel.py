"""The wheel alone, installed into an empty folder and used from outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was installed into."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def randar(installed: Path, where: Path, *arguments: str) -> str:
    """What the command prints, run in a folder outside the checkout."""
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "randar_features", *arguments]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_extraction_and_a_benchmark_from_the_wheel(installed: Path, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{number}.png")
    assert "reverse/image" in randar(installed, tmp_path, "extract", "photos", "--out", "store", "--no-progress")
    assert str(installed) in randar(installed, tmp_path, "doctor")
    shown = randar(
        installed, tmp_path, "bench", "retrieval", "--data", "photo-digits", "--split", "test", "--max-images", "40",
        "--encoder", "pixels", "--out", "found",
    )  # fmt: skip
    assert "result.json" in shown
    assert (tmp_path / "found" / "result.json").is_file()


def test_recipes_are_in_the_wheel(installed: Path):
    assert (installed / "randar_features/cli/recipes/tiny.yaml").is_file()
