from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.run import main
from benchmarks.speed.extraction_speed import rates, write_files


def test_files_are_of_imagenets_size(tmp_path: Path) -> None:
    write_files(tmp_path, 3)
    images = [Image.open(path) for path in sorted(tmp_path.iterdir())]
    assert [(image.format, image.size) for image in images] == [("JPEG", (500, 375))] * 3
    assert len({image.tobytes() for image in images}) == 3


def test_ratios_by_hand() -> None:
    found = rates({"whole": 5.0, "decode": 4.0, "model": 3.0, "write": 1.0}, 20)
    assert found["whole_images_per_second"] == 4 and found["slowest"] == "decode"
    assert found["share_of_slowest"] == pytest.approx(0.8) and found["times_one_after_another"] == pytest.approx(1.6)


def test_a_small_run(tmp_path: Path) -> None:
    sizes = {"images": 4, "batch-size": 2, "num-workers": 0, "repeats": 1}
    given = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    assert main("extraction_speed", [*given, "--dtype", "float32", "--device", "cpu", "--out", str(tmp_path)]) == 0
    (found,) = json.loads((tmp_path / "result.json").read_text())["results"]
    assert all(found[f"{part}_images_per_second"] > 0 for part in ("whole", "decode", "model", "write"))
