"""The wheel alone, unpacked into an empty folder and used from outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PACKAGES = ("randar_features", "probes", "benchmarks")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was unpacked into; it is built in a copy, so that nothing old gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    build = [sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"]
    subprocess.run(build, cwd=folder / "source", check=True, capture_output=True)  # as pip does, which starts slowly
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def randar(installed: Path, where: Path, *commands: str) -> str:
    """What commands print, run by one process, whose start takes the most time, in a folder outside the checkout."""
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    start = "import randar_features; print(randar_features.__file__); from randar_features.cli.commands import main"
    each = "import sys; raise SystemExit(max(main(command.split()) for command in sys.argv[1:]))"
    command = [sys.executable, "-c", f"{start}; {each}", *commands]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))
    return done.stdout


def test_extraction_and_a_benchmark_from_the_wheel(installed: Path, tmp_path: Path):
    for number in range(24):
        path = tmp_path / "photos" / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 128, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise + np.uint8(100 * (number % 2))).save(path)
    extract = "extract photos --out store --no-progress"
    shown = randar(installed, tmp_path, extract, "bench classification --data store --probe knn --out found")
    assert "reverse/image" in shown and "result.json" in shown
    assert (tmp_path / "found" / "result.json").is_file()


def test_recipes_and_the_command_are_in_the_wheel(installed: Path):
    assert (installed / "randar_features/cli/recipes/tiny.yaml").is_file()
    [scripts] = installed.glob("*.dist-info/entry_points.txt")
    assert "randar = randar_features.cli.commands:main" in scripts.read_text()
