"""What a generator's training may be told, and what stops it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from randar_features import load_model, sequence
from randar_features.models import ARCHITECTURES
from randar_features.precision import fastest_dtype
from randar_features.training.checkpoint import newest_checkpoint
from randar_features.training.distributed import HardwareConfig
from randar_features.training.generator.objective import next_token_loss
from randar_features.training.generator.trainer import RandARTrainer
from randar_features.training.loop import LoopConfig, run
from tests.training.small import (
    CONFIG,
    MODEL,
    VOCAB_SIZE,
    Killed,
    hardware,
    kill_at,
    random_tokens,
    read_log,
    same,
    small_config,
    small_trainer,
    write_store,
)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_trains_resumes_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    tokens = random_tokens(count=8, num_tokens=16)
    recipe = {"model": MODEL | {"type": kind}, "total_steps": 6, "learning_rate": 0.02}
    whole = small_trainer(tmp_path / "tokens", tokens, **recipe)
    run(whole, tmp_path / "whole", CONFIG)
    killed = small_trainer(tmp_path / "tokens", tokens, **recipe)
    kill_at(killed, 5, monkeypatch)
    with pytest.raises(Killed):
        run(killed, tmp_path / "killed", CONFIG)
    monkeypatch.undo()
    run(resumed := small_trainer(tmp_path / "tokens", tokens, **recipe), tmp_path / "killed", CONFIG)
    assert same(resumed.state_dict(), whole.state_dict())
    losses = [line["loss"] for line in read_log(tmp_path / "whole") if "loss" in line]
    assert losses[0] == pytest.approx(np.log(VOCAB_SIZE), rel=1e-3) and len(set(losses)) == 6
    assert isinstance(load_model(tmp_path / "whole/model", device="cpu").transformer, ARCHITECTURES[kind][0])


def test_raster_order_is_trained_and_validated_alone(tmp_path: Path):
    trainer = small_trainer(tmp_path, order="raster")
    raster = sequence.raster_order(9)
    _, order = trainer._draw(3)
    assert torch.equal(order, raster) and torch.equal(trainer.orders, raster)
    assert trainer.averaged().trained_order == "raster"  # which previews follow
    trainer.export(tmp_path / "model")
    assert load_model(tmp_path / "model", device="cpu").transformer.trained_order == "raster"
    _, drawn = small_trainer(tmp_path)._draw(3)
    assert len(drawn.unique(dim=0)) == 4  # one for each image


def test_an_order_that_a_model_does_not_know_is_refused_at_once(tmp_path: Path):
    tokens = random_tokens(num_tokens=16)
    with pytest.raises(ValueError, match="PAR was trained in one order and knows no other"):
        small_trainer(tmp_path, tokens, model=MODEL | {"type": "par"}, order="raster")
    assert len(small_trainer(tmp_path, tokens, model=MODEL | {"type": "par"}).orders) == 1


def test_an_exploded_gradient_moves_nothing(tmp_path: Path):
    trainer = small_trainer(tmp_path, skip_gradient_norm=1e-6, skip_after=2)
    figures = [trainer.train_step(step) for step in range(2)]
    assert all("skipped_steps" not in entry for entry in figures)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert [trainer.train_step(step)["skipped_steps"] for step in (2, 3)] == [1, 2]
    assert same(dict(trainer.model.state_dict()), before)
    assert trainer.average.updates == 2
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    resumed = small_trainer(tmp_path, skip_gradient_norm=1e-6, skip_after=2)
    resumed.load_state_dict(trainer.state_dict())
    assert resumed.skipped_steps == 2
    assert "skipped_steps" not in small_trainer(tmp_path, skip_gradient_norm=None, skip_after=0).train_step(0)


@pytest.mark.parametrize(
    ("where", "message"), [("loss", "loss is nan at step 5"), ("gradient", "gradient_norm is nan")]
)
def test_what_is_not_finite_never_reaches_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, message: str
):
    trainer = small_trainer(tmp_path / "tokens")
    seen: dict[str, torch.Tensor] = {}

    def spoil(step: int) -> dict[str, float]:
        if step == 5:
            seen.update({name: value.clone() for name, value in trainer.model.state_dict().items()})
            if where == "loss":
                spoilt = lambda *arguments: torch.nan * next_token_loss(*arguments)  # noqa: E731
                monkeypatch.setattr("randar_features.training.generator.trainer.next_token_loss", spoilt)
            else:
                trainer.model.norm.weight.register_hook(lambda gradient: torch.nan * gradient)
        return RandARTrainer.train_step(trainer, step)

    monkeypatch.setattr(trainer, "train_step", spoil)
    with pytest.raises(FloatingPointError, match=message):
        run(trainer, tmp_path / "run", CONFIG)
    assert same(dict(trainer.model.state_dict()), seen)
    monkeypatch.undo()
    saved = newest_checkpoint(tmp_path / "run/checkpoints")
    assert saved is not None and saved.step == 4
    assert run(small_trainer(tmp_path / "tokens"), tmp_path / "run", CONFIG)


def test_tokens_of_another_tokenizer_do_not_continue_a_run(tmp_path: Path):
    run(small_trainer(tmp_path / "tokens"), tmp_path / "run", CONFIG)
    other = write_store(tmp_path / "other", random_tokens(), tokenizer="fedcba9876543210")
    with pytest.raises(ValueError, match=r"data\.tokenizer: '0123456789abcdef' → 'fedcba9876543210'"):
        run(RandARTrainer(small_config(), other, other), tmp_path / "run", CONFIG)


def test_other_tokens_of_the_same_tokenizer_do_not_continue_a_run(tmp_path: Path):
    run(small_trainer(tmp_path / "tokens"), tmp_path / "run", CONFIG)
    other = write_store(tmp_path / "other", VOCAB_SIZE - 1 - random_tokens())
    with pytest.raises(ValueError, match=r"data\.content: '\w+' → '\w+'"):
        run(RandARTrainer(small_config(), other, other), tmp_path / "run", CONFIG)


def test_a_tokenizer_that_did_not_make_the_tokens_beside_it_is_refused_at_once(tmp_path: Path):
    store = write_store(tmp_path / "train", random_tokens())
    (tmp_path / "tokenizer").mkdir()
    save_file({"encoder.weight": torch.ones(2)}, tmp_path / "tokenizer" / "tokenizer.safetensors")
    with pytest.raises(ValueError, match=r"made by tokenizer 0123456789abcdef, but .*tokenizer is tokenizer \w{16}:"):
        RandARTrainer(small_config(), store, store)


def test_a_changed_recipe_continues_if_it_is_allowed(tmp_path: Path):
    run(small_trainer(tmp_path / "tokens"), tmp_path / "run", CONFIG)
    longer = {"total_steps": 12, "loop": LoopConfig(log_every=7), "hardware": hardware(micro_batch_size=2)}
    with pytest.raises(ValueError, match=r"than the one given: total_steps: 10 → 12\. Continue"):
        run(small_trainer(tmp_path / "tokens", **longer), tmp_path / "run", CONFIG)
    assert run(small_trainer(tmp_path / "tokens", **longer), tmp_path / "run", CONFIG, allow_changes=True)
    assert read_log(tmp_path / "run")[-1]["step"] == 12


def test_half_precision_is_chosen_by_the_hardware_or_by_name(tmp_path: Path):
    exact, half = (small_trainer(tmp_path, hardware=HardwareConfig(mixed_precision=kind)) for kind in ("no", "bf16"))
    assert (exact.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert small_trainer(tmp_path, hardware=HardwareConfig()).dtype == fastest_dtype(torch.device("cpu"))
    losses = [[trainer.train_step(step)["loss"] for step in range(4)] for trainer in (exact, half)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert {value.dtype for value in half.model.state_dict().values()} == {torch.float32}


def test_a_run_does_not_go_on_from_other_first_weights(tmp_path: Path):
    first, run_folder = tmp_path / "first", tmp_path / "run"
    first.mkdir()

    def begin(seed: int) -> RandARTrainer:
        save_file(small_trainer(tmp_path / "tokens", seed=seed).model.state_dict(), first / "model.safetensors")
        return small_trainer(tmp_path / "tokens", initial=str(first), total_steps=4)

    run(begin(seed=5), run_folder, CONFIG)
    assert run(begin(seed=5), run_folder, CONFIG)
    with pytest.raises(ValueError, match=r"data\.initial: "):
        run(begin(seed=6), run_folder, CONFIG)


def test_previews_see_the_averaged_model(tmp_path: Path):
    shown: list[Any] = []

    def preview(model: Any) -> torch.Tensor:
        shown.append({name: value.clone() for name, value in model.state_dict().items()})
        assert not model.training
        return torch.zeros(2, 3, 4, 4)

    store = write_store(tmp_path / "tokens", random_tokens())
    trainer = RandARTrainer(small_config(total_steps=4), store, store, preview)
    run(trainer, tmp_path / "run", LoopConfig(preview_every=3, log_writers=[]))
    files = sorted(path.name for path in (tmp_path / "run/samples").iterdir())
    assert files == ["samples-step-00000003.png", "samples-step-00000004.png"]
    assert same(shown[1], trainer.average.values)


def test_speed_is_told_with_its_share_of_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = small_trainer(tmp_path)
    monkeypatch.setattr("randar_features.training.generator.trainer.peak_flops", lambda *_: 1e12)
    monkeypatch.setattr("randar_features.training.generator.trainer.training_flops", lambda *_: 5e9)
    rates = trainer.rates(steps=5, seconds=2.0)
    assert rates == {"images_per_second": 10.0, "tokens_per_second": 90.0, "mfu": 0.05}


def test_the_number_format_is_told_and_does_not_change_unsaid(tmp_path: Path):
    half, unsaid = {"hardware": HardwareConfig(mixed_precision="bf16")}, {"hardware": HardwareConfig()}
    run(small_trainer(tmp_path / "tokens", total_steps=4, **unsaid), tmp_path / "run", CONFIG)
    used = small_trainer(tmp_path / "tokens", **unsaid).settings()["hardware"]["mixed_precision"]
    assert used == ("bf16" if fastest_dtype(torch.device("cpu")) == torch.bfloat16 else "no")
    exported = json.loads((tmp_path / "run/model/config.json").read_text())["training"]
    assert exported["hardware"]["mixed_precision"] == used
    other = half if used == "no" else {"hardware": HardwareConfig(mixed_precision="no")}
    with pytest.raises(ValueError, match="mixed_precision: "):
        run(small_trainer(tmp_path / "tokens", total_steps=4, **other), tmp_path / "run", CONFIG)
    assert run(small_trainer(tmp_path / "tokens", total_steps=4, **other), tmp_path / "run", CONFIG, allow_changes=True)
