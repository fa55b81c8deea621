from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.result import read_result
from benchmarks.tasks.generators.samples import Config, run
from tests.small_models import write_folder


@pytest.mark.parametrize(
    ("architecture", "pictures"), [("randar", {"extended", "middle", "samples"}), ("llamagen", {"samples"})]
)
def test_a_model_of_one_order_draws_samples_alone(tmp_path: Path, architecture: str, pictures: set[str]) -> None:
    folder = write_folder(tmp_path / "model", architecture=architecture)
    run(Config(model=str(folder), classes=2, each=1, edited=1, draws=1), tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == pictures
    warnings = read_result(tmp_path / "out")["card"]["warnings"]
    assert any("one order only" in warning for warning in warnings) == (architecture == "llamagen")
