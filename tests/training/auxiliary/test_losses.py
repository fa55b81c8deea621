from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from randar_features import load_model
from randar_features.training.auxiliary.config import AuxiliaryConfig, ClassHeadConfig, SelfDistillationConfig
from randar_features.training.auxiliary.losses import make_plan
from randar_features.training.generator.trainer import RandARTrainer
from randar_features.training.loop import run
from tests.small_models import small_transformer
from tests.training.auxiliary.small import LOSSES, MODEL, auxiliary_trainer
from tests.training.small import CONFIG, equal_after_a_kill, hardware, same, small_trainer

ALL = AuxiliaryConfig(second_showing=0.5, **{name: one for loss in LOSSES.values() for name, one in loss.items()})


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_loss_moves_its_head_and_the_blocks_up_to_its_own(tmp_path: Path, name: str, share: float):
    auxiliary = AuxiliaryConfig(second_showing=share, **LOSSES[name])
    trainer = auxiliary_trainer(tmp_path, auxiliary, class_dropout=1.0)
    draws, order = trainer._draw(0)
    losses = trainer._losses(0, draws, order, slice(0, 4))
    assert list(losses) == ["loss", name]
    losses[name].backward()
    moved = {n for n, p in trainer.complete.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {n for n, _ in trainer.complete.named_parameters() if n.startswith("heads.")} <= moved
    deepest = set(trainer.complete.plan.layers.values())
    blocks = {int(n.split(".")[2]) for n in moved if n.startswith("transformer.layers.")}
    assert blocks == set(range(max(deepest) + 1))
    assert not any(n.startswith(("transformer.output", "transformer.norm")) for n in moved)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_next_token_prediction_is_what_it_is_without(tmp_path: Path, share: float):
    model = {**MODEL, "residual_dropout": 0.0, "token_dropout": 0.0}
    auxiliary = AuxiliaryConfig(second_showing=share, **LOSSES["alignment_loss"])
    trainers = [auxiliary_trainer(tmp_path, chosen, model=model) for chosen in (auxiliary, AuxiliaryConfig())]
    for trainer in trainers:
        torch.nn.init.normal_(trainer.model.output.weight, generator=torch.Generator().manual_seed(0))
    losses = [trainer.train_step(0)["loss"] for trainer in trainers]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_off_changes_nothing(tmp_path: Path):
    plain, off = (
        small_trainer(tmp_path / "a"),
        small_trainer(tmp_path / "b", auxiliary=AuxiliaryConfig(reads=["image"])),
    )
    assert off.complete is None
    assert [plain.train_step(step) for step in range(3)] == [off.train_step(step) for step in range(3)]
    assert same(plain.state_dict(), off.state_dict())
    assert "auxiliary" not in plain.settings()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[RandARTrainer, Path]:
    """A trainer of all losses, and its run."""
    folder = tmp_path_factory.mktemp("all")
    trainer = auxiliary_trainer(folder, ALL)
    run(trainer, folder / "whole", CONFIG)
    return trainer, folder / "whole"


@pytest.mark.parametrize("step", [3, 6])
def test_resumed_equals_uninterrupted_to_the_bit(
    whole: tuple[RandARTrainer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    make = lambda: auxiliary_trainer(whole[1].parent, ALL)  # noqa: E731
    equal_after_a_kill(make, whole, tmp_path / "run", step, monkeypatch)


def test_all_losses_are_logged_and_fall(tmp_path: Path):
    trainer = auxiliary_trainer(tmp_path, ALL, total_steps=80, learning_rate=0.02, batch_size=20, ema_decay=0.5)
    figures = [trainer.train_step(step) for step in range(80)]
    for name in LOSSES:
        assert figures[-1][name] < 0.95 * figures[0][name], name


def test_the_teacher_is_the_average_of_the_moment(tmp_path: Path):
    trainer = auxiliary_trainer(tmp_path, AuxiliaryConfig(**LOSSES["self_distillation_loss"]))
    teacher = trainer.targets.teacher
    assert teacher is not None
    trainer.train_step(0)
    assert same(dict(teacher.state_dict()), trainer.average.values)
    saved = trainer.state_dict()
    trainer.train_step(1)
    trainer.load_state_dict(saved)
    assert same(dict(teacher.state_dict()), saved["average"]["values"])
    assert not teacher.training


def test_what_is_exported_is_the_model_alone(tmp_path: Path):
    trainer = auxiliary_trainer(tmp_path, ALL)
    trainer.train_step(0)
    trainer.export(tmp_path / "model")
    loaded = load_model(tmp_path / "model", device="cpu")
    assert loaded.transformer.state_dict().keys() == trainer.model.state_dict().keys()


@pytest.mark.parametrize("loss", ["alignment_loss", "class_loss"])
def test_micro_batches_give_the_batch(tmp_path: Path, loss: str):
    auxiliary, model = (
        AuxiliaryConfig(**LOSSES[loss]),
        {**MODEL, "residual_dropout": 0.0, "token_dropout": 0.0},
    )
    options: dict[str, Any] = {"model": model, "auxiliary": auxiliary, "batch_size": 8}
    one = auxiliary_trainer(tmp_path, **options)
    two = auxiliary_trainer(tmp_path, **options, hardware=hardware(micro_batch_size=2))
    for step in range(2):
        assert one.train_step(step) == pytest.approx(two.train_step(step), rel=1e-4)


def test_batches_with_two_showings_are_spread_evenly():
    config = AuxiliaryConfig(second_showing=0.25, **LOSSES["class_loss"])
    assert [step for step in range(12) if config.shows_twice(step)] == [3, 7, 11]
    assert not any(AuxiliaryConfig().shows_twice(step) for step in range(9))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"second_showing": 0.5}, "second_showing = 0.5"),
        ({"second_showing": 2.0, **LOSSES["class_loss"]}, "second_showing = 2.0"),
        ({"reads": []}, "reads"),
        ({"reads": ["image", "image"]}, "reads"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named):
        AuxiliaryConfig(**options)


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("arpg", LOSSES["class_loss"], "ARPG"),
        ("par", LOSSES["class_loss"], "PAR"),
        ("llamagen", {"second_showing": 0.5, **LOSSES["class_loss"]}, "reverse"),
        ("randar", {"reads": ["query"], **LOSSES["class_loss"]}, "query"),
        ("randar", {"class_head": ClassHeadConfig(weight=1, layer=3)}, r"class_head\.layer = 3"),
        ("randar", {"self_distillation": SelfDistillationConfig(weight=1, teacher_layer=9)}, "teacher_layer = 9"),
    ],
)
def test_what_a_model_does_not_have_is_refused(kind: str, options: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named):
        make_plan(AuxiliaryConfig(**options), small_transformer(architecture=kind))


def test_alignment_without_maps_and_with_shards_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"scripts/teacher_maps\.py"):
        small_trainer(tmp_path, auxiliary=AuxiliaryConfig(**LOSSES["alignment_loss"]))
    with pytest.raises(ValueError, match="shard_weights"):
        small_trainer(
            tmp_path, auxiliary=AuxiliaryConfig(**LOSSES["class_loss"]), hardware=hardware(shard_weights=True)
        )
