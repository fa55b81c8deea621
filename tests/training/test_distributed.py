"""However a step is spread, it is the same step: processes, shards, micro batches, recomputed blocks."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from randar_features import load_model
from randar_features.data.token_store import TokenStore
from randar_features.training.checkpoint import newest_checkpoint
from randar_features.training.distributed import micro_batches
from randar_features.training.generator.trainer import RandARTrainer
from randar_features.training.loop import run
from tests.training.small import (
    CONFIG,
    FRESH,
    MODEL,
    hardware,
    random_tokens,
    read_log,
    same,
    small_config,
    small_tokenizer_trainer,
    small_trainer,
    write_store,
)

# With dropout of activations and classes, an uneven number of images to validate, and both optimisers.
RECIPE: dict[str, Any] = {
    "total_steps": 8,
    "batch_size": 8,
    "learning_rate": 0.03,
    "class_dropout": 0.3,
    "evaluation_images": 5,
    "hardware": hardware(micro_batch_size=2),
}
SPREAD = {
    "replicas": RECIPE,
    "shards": RECIPE | {"hardware": hardware(micro_batch_size=2, shard_weights=True)},
}
# With dead codes, and an uneven number of images to validate. Slow and short, for which code is the nearest, and so
# which are revived, hangs on the last bit sooner or later.
TOKENIZER: dict[str, Any] = {
    "batch_size": 6,
    "revive_below": 0.5,
    "evaluation_images": 5,
    "learning_rate": 1e-4,
    "total_steps": 6,
}


def close(found: Path, expected: Path) -> None:
    """Logs and final states are equal but for rounding."""
    for line, other in zip(read_log(found), read_log(expected), strict=True):
        assert line == pytest.approx(other, rel=1e-4)
    states = [newest_checkpoint(folder / "checkpoints") for folder in (found, expected)]
    assert states[0] and states[1] and states[0].step == states[1].step
    torch.testing.assert_close(states[0].state(), states[1].state(), rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, which is to be equalled."""
    folder = tmp_path_factory.mktemp("alone")
    run(small_trainer(folder / "tokens", **RECIPE), folder / "run", CONFIG)
    return folder / "run"


def train_together(folder: Path, environment: dict[str, str]) -> None:
    """The work of one of two processes: trainings one after the other, and one that is refused."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    store = TokenStore(folder / "tokens")
    for name, options in SPREAD.items():
        trainer = RandARTrainer(small_config(**options), store, store)
        assert trainer.accelerator.num_processes == 2
        run(trainer, folder / name, CONFIG, max_seconds=1e6)  # on which all must agree
    own = folder / ("replicas" if trainer.accelerator.is_main_process else "empty")
    with pytest.raises(ValueError, match=r"steps \[8, 0\]"):
        run(RandARTrainer(small_config(**RECIPE), store, store), own, CONFIG)
    tokenizer = small_tokenizer_trainer(folder / "pixels", **TOKENIZER)
    assert tokenizer.accelerator.num_processes == 2
    run(tokenizer, folder / "tokenizer", CONFIG)


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes under gloo, with the variables that torchrun sets, which would take seconds to start."""
    folder = tmp_path_factory.mktemp("spread")
    write_store(folder / "tokens", random_tokens())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    group |= {"ACCELERATE_USE_CPU": "true"}
    ranks = [group | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    processes = [FRESH.Process(target=train_together, args=(folder, rank), daemon=True) for rank in ranks]
    for process in processes:
        process.start()
    for process in processes:
        process.join(500)
    assert [process.exitcode for process in processes] == [0, 0]
    return folder


@pytest.mark.parametrize("name", SPREAD)
def test_two_processes_equal_one(spread: Path, alone: Path, name: str):
    close(spread / name, alone)


def test_two_processes_train_a_tokenizer_as_one(spread: Path, tmp_path: Path):
    run(small_tokenizer_trainer(tmp_path / "pixels", **TOKENIZER), tmp_path / "run", CONFIG)
    for line, other in zip(read_log(spread / "tokenizer"), read_log(tmp_path / "run"), strict=True):
        assert line == pytest.approx(other, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("name", SPREAD)
def test_one_process_continues_what_two_began(spread: Path, alone: Path, tmp_path: Path, name: str):
    shutil.copytree(spread / name, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/step-00000008")
    run(small_trainer(tmp_path / "tokens", **RECIPE), tmp_path / "run", CONFIG)
    close(tmp_path / "run", alone)


def test_a_sharded_run_exports_a_whole_model(spread: Path):
    weights = load_model(spread / "shards/model", device="cpu").transformer.state_dict()
    for name, value in load_model(spread / "replicas/model", device="cpu").transformer.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=1e-4)


def test_accumulated_gradients_equal_one_pass(tmp_path: Path):
    recipe = RECIPE | {"model": MODEL | {"residual_dropout": 0.0, "token_dropout": 0.0}}
    for size in (8, 2):
        options = recipe | {"hardware": hardware(micro_batch_size=size)}
        run(small_trainer(tmp_path / "tokens", **options), tmp_path / str(size), CONFIG)
    close(tmp_path / "2", tmp_path / "8")


def test_recomputed_blocks_change_nothing(tmp_path: Path, alone: Path):
    checkpointed = hardware(micro_batch_size=2, gradient_checkpointing=True)
    run(small_trainer(tmp_path / "tokens", **RECIPE | {"hardware": checkpointed}), tmp_path / "run", CONFIG)
    states = [newest_checkpoint(folder / "checkpoints") for folder in (tmp_path / "run", alone)]
    assert states[0] and states[1] and same(states[0].state(), states[1].state())


def test_blocks_are_compiled_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    trainer = small_trainer(tmp_path, hardware=hardware(compile=True))
    assert compiled == list(trainer.model.layers)


def test_micro_batches_are_dealt_out_in_turn():
    assert micro_batches(8, 2, processes=2, process=1) == [(1, slice(2, 4)), (3, slice(6, 8))]
    assert micro_batches(8, None, processes=2, process=1) == [(1, slice(4, 8))]
    assert micro_batches(6, 6, processes=1, process=0) == [(0, slice(0, 6))]
    rows = [row for process in range(3) for _, part in micro_batches(24, 4, 3, process) for row in range(24)[part]]
    assert sorted(rows) == list(range(24))


@pytest.mark.parametrize(
    ("batch_size", "micro", "processes", "message"),
    [
        (8, 3, 1, "a global batch of 8 images does not divide into micro batches of 3 on 1 processes"),
        (8, 4, 3, "micro batches of 4 on 3 processes: set hardware.micro_batch_size to a divisor of 8/3"),
        (9, None, 2, "a global batch of 9 images does not divide"),
        (2, None, 4, "a global batch of 2 images does not divide"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(batch_size: int, micro: int | None, processes: int, message: str):
    with pytest.raises(ValueError, match=message):
        micro_batches(batch_size, micro, processes, 0)


def test_one_process_shards_nothing(tmp_path: Path):
    with pytest.raises(ValueError, match="shard_weights needs several processes"):
        small_trainer(tmp_path, hardware=hardware(shard_weights=True))
