from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from randar_features.data import load_image, to_tensor
from randar_features.training import log as log_module
from randar_features.training.log import Log
from tests.training.small import read_log

IMAGES = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=True)
    accumulator.Reload()
    return accumulator


def test_lines_hold_step_time_and_six_digits(tmp_path: Path):
    log = Log(tmp_path / "run", writers=[])
    log.write(2, {"loss": 1.23456789, "lr": 1e-7})
    log.close()
    line = json.loads((tmp_path / "run/log.jsonl").read_text())
    assert line.pop("time") > 1.7e9
    assert line == {"step": 2, "loss": 1.23457, "lr": 1e-7}


@pytest.mark.parametrize("torn", ['{"step": 1, "ti', '{"loss": 2}', "7", "\n"])
def test_resuming_drops_what_is_behind_the_step_and_torn_lines(tmp_path: Path, torn: str):
    first = Log(tmp_path, writers=[])
    for step in (1, 2, 3):
        first.write(step, {"loss": float(step)})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(torn)
    Log(tmp_path, 2, writers=[]).write(3, {"loss": 30.0})
    assert read_log(tmp_path) == [{"step": step, "loss": loss} for step, loss in ((1, 1.0), (2, 2.0), (3, 30.0))]


def test_tensorboard_has_figures_pictures_and_nothing_twice(tmp_path: Path):
    log = Log(tmp_path, writers=["tensorboard"], settings={"batch_size": 64})
    for step in (1, 2, 3):
        log.write(step, {"loss": float(step)})
    log.close()
    time.sleep(1 - time.time() % 1)  # files of one second are read by name, in which 10 stands before 9
    log = Log(tmp_path, 2, writers=["tensorboard"])
    log.write(3, {"loss": 30.0})
    log.images(3, "samples", IMAGES)
    log.close()
    found = events(tmp_path)
    assert [(scalar.step, scalar.value) for scalar in found.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert [picture.step for picture in found.Images("samples")] == [3]
    assert b'"batch_size": 64' in found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]


def test_tensorboard_has_what_was_logged_before_a_kill(tmp_path: Path):
    killed = Log(tmp_path, writers=["tensorboard"])
    killed.write(1, {"loss": 1.0})
    log = Log(tmp_path, 1, writers=["tensorboard"])
    log.write(2, {"loss": 2.0})
    # TensorBoard draws by step; its files of one second are read by name, in which 10 stands before 9.
    found = sorted((scalar.step, scalar.value) for scalar in events(tmp_path).Scalars("loss"))
    assert found == [(1, 1.0), (2, 2.0)]
    killed.close()
    log.close()


def test_pictures_are_files_of_the_run(tmp_path: Path):
    Log(tmp_path, writers=[]).images(40, "samples", IMAGES)
    sheet = to_tensor(load_image(tmp_path / "samples/samples-step-00000040.png"))
    assert sheet.shape == (3, 4, 16)  # three of 4 pixels and two gaps of 2
    torch.testing.assert_close(sheet[:, :, 6:10], IMAGES[1], atol=0.5 / 255 + 1e-6, rtol=0)


def test_all_processes_but_the_main_one_write_nothing(tmp_path: Path):
    log = Log(tmp_path / "run", 3, writers=["no such writer"], active=False)
    log.write(4, {"loss": 1.0})
    log.images(4, "samples", IMAGES)
    log.close()
    assert not (tmp_path / "run").exists()


def test_an_unknown_writer_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="'tensorbord', expected some of tensorboard, wandb"):
        Log(tmp_path, writers=["tensorbord"])


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(log_module.importlib.util, "find_spec", lambda name: None if name == package else find(name))


def test_a_writer_that_is_not_installed_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hide(monkeypatch, "wandb")
    with pytest.raises(ModuleNotFoundError, match="pip install wandb"):
        Log(tmp_path, writers=["wandb"])


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_is_written_by_default_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
):
    if not installed:
        hide(monkeypatch, "tensorboard")
    log = Log(tmp_path)
    log.write(1, {"loss": 1.0})
    log.close()
    assert (tmp_path / "tensorboard").exists() == installed
    assert read_log(tmp_path) == [{"step": 1, "loss": 1.0}]


class Run:
    """Records what Weights & Biases is told."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.lines: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **options: Any) -> Run:
        self.started.append(options)
        return self

    def log(self, figures: Mapping[str, Any], step: int) -> None:
        self.lines.append((step, dict(figures)))

    def finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_continues_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = Run()
    fake = SimpleNamespace(init=run.init, Image=lambda image: image.shape, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (0, 2):
        log = Log(tmp_path, step, writers=["wandb"], settings={"batch_size": 64})
        log.write(step + 1, {"loss": 1.0})
        log.images(step + 1, "samples", IMAGES)
        log.close()
    first, second = run.started
    assert first == second and first["resume"] == "allow" and first["config"] == {"batch_size": 64}
    assert run.lines == [
        (1, {"loss": 1.0}),
        (1, {"samples": [(4, 16, 3)]}),
        (3, {"loss": 1.0}),
        (3, {"samples": [(4, 16, 3)]}),
    ]
    assert run.finished == 2


def test_the_tensor_is_not_changed(tmp_path: Path):
    images: Tensor = IMAGES.clone() * 2 - 0.5
    Log(tmp_path, writers=["tensorboard"]).images(1, "samples", images)
    assert torch.equal(images, IMAGES * 2 - 0.5)
