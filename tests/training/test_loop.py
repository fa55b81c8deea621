"""The loop itself, on a trainer whose state is one number; the real trainers' resuming is in their own tests."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from randar_features.store.lock import FolderLockedError, locked
from randar_features.training import loop
from randar_features.training.bundle import check_finished
from randar_features.training.checkpoint import list_checkpoints, newest_checkpoint
from randar_features.training.log import Progress, spoken
from randar_features.training.loop import LoopConfig, run
from tests.training.small import Killed, read_log


@dataclass(frozen=True)
class ToyConfig:
    total_steps: int = 10
    loop: LoopConfig = field(default_factory=LoopConfig)


class Toy:
    """x ← x/2 + step; is killed before the step `dies_at`, and gives `bad` as a figure at step `bad_at`."""

    def __init__(self, *, dies_at: int | None = None, bad_at: int | None = None, bad: dict[str, float] | None = None):
        self.config, self.x = ToyConfig(), 1.0
        self.dies_at, self.bad_at, self.bad = dies_at, bad_at, bad or {}

    def train_step(self, step: int) -> dict[str, float]:
        if step == self.dies_at:
            raise Killed
        self.x = self.x / 2 + step
        return {"loss": self.x} | (self.bad if step == self.bad_at else {})

    def evaluate(self) -> dict[str, float]:
        return {"validation_loss": 2 * self.x}

    def pictures(self) -> dict[str, torch.Tensor]:
        return {"x": torch.full((1, 3, 2, 2), self.x % 1)}

    def rates(self, steps: int, seconds: float) -> dict[str, float]:
        return {"images_per_second": steps / seconds}

    def settings(self) -> dict[str, Any]:
        return asdict(self.config)

    def state_dict(self) -> dict[str, Any]:
        return {"x": torch.tensor(self.x)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.x = state["x"].item()

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "x").write_text(str(self.x))


CONFIG = LoopConfig(log_every=2, evaluate_every=4, checkpoint_every=3, log_writers=[])


def expected_log() -> list[dict[str, float]]:
    lines: list[dict[str, float]] = []
    x = 1.0
    for step in range(1, 11):
        x = x / 2 + step - 1
        lines += [{"step": step, "loss": float(f"{x:.6g}")}] if step % 2 == 0 else []
        lines += [{"step": step, "validation_loss": float(f"{2 * x:.6g}")}] if step in (4, 8, 10) else []
    return lines


def test_logs_evaluates_saves_and_exports(tmp_path: Path):
    trainer = Toy()
    assert run(trainer, tmp_path, CONFIG)
    assert read_log(tmp_path) == expected_log()
    saved = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert saved == ["step-00000009", "step-00000010"]
    assert float((tmp_path / "model/x").read_text()) == trainer.x


@pytest.mark.parametrize("dies_at", range(10))
def test_a_killed_run_continues_as_if_nothing_happened(tmp_path: Path, dies_at: int):
    with pytest.raises(Killed):
        run(Toy(dies_at=dies_at), tmp_path, CONFIG)
    saved = newest_checkpoint(tmp_path / "checkpoints")
    assert (saved.step if saved else 0) == 3 * (dies_at // 3)
    assert run(trainer := Toy(), tmp_path, CONFIG)
    assert read_log(tmp_path) == expected_log()
    assert trainer.x == float((tmp_path / "model/x").read_text()) == uninterrupted().x


def uninterrupted() -> Toy:
    trainer = Toy()
    for step in range(10):
        trainer.train_step(step)
    return trainer


def test_a_line_torn_by_a_kill_is_written_anew(tmp_path: Path):
    with pytest.raises(Killed):
        run(Toy(dies_at=5), tmp_path, CONFIG)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "time": 1795')
    run(Toy(), tmp_path, CONFIG)
    assert read_log(tmp_path) == expected_log()


def test_a_torn_checkpoint_costs_the_steps_since_the_one_before(tmp_path: Path):
    with pytest.raises(Killed):
        run(Toy(dies_at=8), tmp_path, CONFIG)
    newest = tmp_path / "checkpoints/step-00000006/state.json"
    newest.write_bytes(newest.read_bytes()[:10])
    run(trainer := Toy(), tmp_path, CONFIG)
    assert read_log(tmp_path) == expected_log()
    assert trainer.x == uninterrupted().x


def test_stops_in_time_at_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(1000))  # a second each time it is looked at
    # Of this module alone: other threads, such as that of a progress bar, look at the clock too.
    own = SimpleNamespace(monotonic=lambda: float(next(clock)), perf_counter=time.perf_counter)
    monkeypatch.setattr(loop, "time", own)
    stage = LoopConfig(log_every=2, evaluate_every=4, checkpoint_every=3, log_writers=[])
    assert not run(trainer := Toy(), tmp_path, stage, max_seconds=5)
    saved = newest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None
    assert saved.step == 4
    assert float((tmp_path / "model/x").read_text()) == trainer.x
    assert json.loads((tmp_path / "model/unfinished.json").read_text()) == {"step": 4, "total_steps": 10}
    with pytest.raises(ValueError, match="stopped at step 4 of 10"):
        check_finished(tmp_path / "model")
    assert [run(Toy(), tmp_path, stage, max_seconds=5) for _ in range(2)] == [False, True]
    check_finished(tmp_path / "model")
    assert read_log(tmp_path) == expected_log()


def test_a_finished_run_does_nothing_again(tmp_path: Path):
    run(Toy(), tmp_path, CONFIG)
    assert run(trainer := Toy(dies_at=0), tmp_path, CONFIG)
    assert read_log(tmp_path) == expected_log()
    assert trainer.x == uninterrupted().x


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"loss": math.nan}, "loss is nan at step 4"),
        ({"loss": math.inf}, "loss is inf at step 4"),
        ({"gradient_norm": math.nan}, "gradient_norm is nan at step 4"),
    ],
)
def test_a_step_that_is_not_finite_is_not_kept(tmp_path: Path, bad: dict[str, float], message: str):
    every = LoopConfig(log_every=1, evaluate_every=100, checkpoint_every=1, log_writers=[])
    with pytest.raises(FloatingPointError, match=message):
        run(Toy(bad_at=4, bad=bad), tmp_path, every)
    saved = newest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None
    assert saved.step == 4  # steps 0 … 3
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4]
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_of_another_configuration_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(Toy(), tmp_path, CONFIG)
    monkeypatch.setattr(Toy, "load_state_dict", lambda self, state: torch.nn.Linear(1, 1).load_state_dict(state))
    with pytest.raises(ValueError, match=r"step-00000010 is of another configuration than the one given.*Missing key"):
        run(Toy(), tmp_path, CONFIG)


def test_pictures_are_logged_in_their_interval(tmp_path: Path):
    run(Toy(), tmp_path, LoopConfig(preview_every=4, log_writers=[]))
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["x-step-00000004.png", "x-step-00000008.png", "x-step-00000010.png"]


def test_intervals_may_change_and_settings_may_not(tmp_path: Path):
    with pytest.raises(Killed):
        run(Toy(dies_at=7), tmp_path, CONFIG)
    other = Toy()
    other.config = ToyConfig(total_steps=9, loop=LoopConfig(log_every=1))
    with pytest.raises(ValueError, match=r"step-00000006 is of another .* given: total_steps: 10 → 9\. Continue"):
        run(other, tmp_path, CONFIG)
    assert read_log(tmp_path)[-1]["step"] == 6  # nothing was touched
    assert run(other, tmp_path, CONFIG, allow_changes=True)
    assert list_checkpoints(tmp_path / "checkpoints")[-1].name == "step-00000009"
    other.config = ToyConfig(total_steps=9, loop=LoopConfig(log_every=1, keep_every=2))
    assert run(other, tmp_path, CONFIG)


def test_every_kth_checkpoint_stays(tmp_path: Path):
    run(Toy(), tmp_path, LoopConfig(checkpoint_every=2, keep_checkpoints=1, keep_every=4, log_writers=[]))
    assert [path.name[-2:] for path in list_checkpoints(tmp_path / "checkpoints")] == ["04", "08", "10"]


def test_each_checkpoint_holds_its_settings_and_the_model(tmp_path: Path):
    run(Toy(), tmp_path, CONFIG)
    for path in list_checkpoints(tmp_path / "checkpoints"):
        assert (path / "x").exists()
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.settings == asdict(ToyConfig())


@pytest.mark.parametrize("name", ["log_every", "preview_every", "keep_checkpoints", "checkpoint_file_mb"])
def test_intervals_are_at_least_one(name: str):
    with pytest.raises(ValueError, match=f"loop.{name} = 0, expected int, at least 1"):
        LoopConfig(**{name: 0})


def test_a_second_training_of_a_run_is_refused(tmp_path: Path):
    with locked(tmp_path), pytest.raises(FolderLockedError, match=str(tmp_path)):
        run(Toy(), tmp_path, CONFIG)
    assert run(Toy(), tmp_path, CONFIG)


def test_an_untrained_model_is_not_written(tmp_path: Path):
    assert not run(Toy(), tmp_path, CONFIG, max_seconds=0)
    assert not (tmp_path / "model").exists()


def test_steps_loss_speed_and_end_are_told_where_there_is_no_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("randar_features.training.log.FIRST_SECONDS", 0.0)
    with caplog.at_level("INFO", logger="randar_features"):
        run(Toy(), tmp_path / "tokens", CONFIG)
    first, begun, *_, last = caplog.messages
    assert "tokens: 0 of 10 steps" in first
    assert re.search(r"tokens: step 1 of 10, loss [\d.]+, [\d.e+]+ steps a second, done in \d+ s, at \d\d:\d\d", begun)
    assert "step 10 of 10" in last


def test_a_time_limit_that_comes_first_is_told_with_what_is_then_left():
    progress = Progress("randar", 0, 100, seconds=600, active=True)
    progress.step = 10
    assert "done in 9 min" in progress.line(progress.begin + 60)  # 90 steps at 6 s each
    assert "time limit comes in 5 min, 40 min before the end" in progress.line(progress.begin + 300)
    assert [spoken(seconds) for seconds in (40, 700, 8400)] == ["40 s", "12 min", "2 h 20 min"]
