from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from randar_features import load_model, sequence
from randar_features.training.generator.objective import next_token_loss
from randar_features.training.generator.recipe import TrainingConfig
from randar_features.training.generator.trainer import RandARTrainer, check_same_classes
from randar_features.training.loop import run
from tests.small_models import NUM_CLASSES as SMALL_CLASSES
from tests.small_models import VOCAB_SIZE as SMALL_VOCAB
from tests.small_models import small_transformer
from tests.training.small import (
    CONFIG,
    MODEL,
    NUM_CLASSES,
    VOCAB_SIZE,
    equal_after_a_kill,
    hardware,
    random_tokens,
    small_trainer,
    write_store,
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[RandARTrainer, Path]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = small_trainer(folder / "tokens")
    assert run(trainer, folder / "run", CONFIG)
    return trainer, folder / "run"


@pytest.mark.parametrize("step", [1, 4, 7, 9])
def test_resumed_equals_uninterrupted_to_the_bit(
    tmp_path: Path, uninterrupted: tuple[RandARTrainer, Path], monkeypatch: pytest.MonkeyPatch, step: int
):
    equal_after_a_kill(lambda: small_trainer(tmp_path / "tokens"), uninterrupted, tmp_path / "run", step, monkeypatch)


def test_the_state_moves(uninterrupted: tuple[RandARTrainer, Path], tmp_path: Path):
    fresh = small_trainer(tmp_path / "tokens").state_dict()
    for name, value in uninterrupted[0].model.state_dict().items():
        assert not torch.equal(value, fresh["weights"][name]), name
        assert not torch.equal(value, uninterrupted[0].average.values[name]), name


def test_the_draws_of_a_step_follow_from_the_step_alone(tmp_path: Path):
    first, second = small_trainer(tmp_path / "a"), small_trainer(tmp_path / "b")
    torch.rand(7)
    assert first.train_step(5) == second.train_step(5)
    assert first.train_step(6) != second.train_step(7)


def test_another_seed_draws_otherwise(tmp_path: Path):
    states = [small_trainer(tmp_path, seed=seed) for seed in (0, 1)]
    states[1].model.load_state_dict(states[0].model.state_dict())
    losses = [[trainer.train_step(step)["loss"] for step in range(3)] for trainer in states]
    assert losses[0][0] == pytest.approx(losses[1][0])  # log V, whatever the images: the output layer is zero
    assert losses[0][2] != losses[1][2]


def test_next_token_loss_by_hand():
    model = small_transformer()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(SMALL_VOCAB, (2, 16), generator=generator)
    order = sequence.random_orders(2, 16, generator)
    logits = model(tokens, torch.tensor([1, SMALL_CLASSES]), order)
    total = 0.0
    for image in range(2):
        for position in range(16):
            target = tokens[image, order[image, position]]
            total -= logits[image, position].double().log_softmax(0)[target].item()
    loss = next_token_loss(model, tokens, torch.tensor([1, SMALL_CLASSES]), order)
    assert loss.item() == pytest.approx(total / 32, rel=1e-5)


def test_validation_loss_is_the_mean_over_orders_and_images(tmp_path: Path):
    tokens = random_tokens(count=7)
    store = write_store(tmp_path, tokens, np.array([0, 1, 2, -1, 0, 1, 2]))
    config = TrainingConfig(
        model=MODEL, batch_size=4, evaluation_images=3, evaluation_orders=4, hardware=hardware(micro_batch_size=2)
    )
    trainer = RandARTrainer(config, store, store)
    for value in trainer.average.values.values():
        value.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    figures = trainer.evaluate()
    picked = torch.from_numpy(tokens[[0, 3, 6], 0])  # evenly spread, centre crops
    known = torch.tensor([0, NUM_CLASSES, 2])  # −1, no label, is the null class
    orders = sequence.antithetic_orders(4, 9)
    for name, classes in (("validation_loss", known), ("validation_loss_null", None)):
        losses = [next_token_loss(trainer.averaged(), picked, classes, order).item() for order in orders]
        assert figures[name] == pytest.approx(np.mean(losses), rel=1e-5)
    assert figures["validation_loss"] != figures["validation_loss_null"]
    torch.manual_seed(3)
    assert trainer.evaluate() == figures


def test_a_fresh_model_knows_nothing(tmp_path: Path):
    figures = small_trainer(tmp_path).evaluate()
    assert figures == pytest.approx({"validation_loss": np.log(VOCAB_SIZE), "validation_loss_null": np.log(VOCAB_SIZE)})


def test_learns_constant_tokens(tmp_path: Path):
    trainer = small_trainer(tmp_path, np.full((8, 2, 4), 5), total_steps=30, learning_rate=0.05, ema_decay=0.5)
    losses = [trainer.train_step(step)["loss"] for step in range(30)]
    assert losses[0] == pytest.approx(np.log(VOCAB_SIZE), rel=1e-4)
    assert losses[-1] < 0.02
    assert trainer.evaluate()["validation_loss"] < 0.02


def test_learns_what_the_class_says(tmp_path: Path):
    tokens = np.broadcast_to((np.arange(9) % NUM_CLASSES)[:, None, None], (9, 2, 4))
    recipe = {"total_steps": 30, "learning_rate": 0.05, "batch_size": 9, "ema_decay": 0.5, "class_dropout": 0.5}
    trainer = small_trainer(tmp_path, tokens, **recipe)
    for step in range(30):
        trainer.train_step(step)
    figures = trainer.evaluate()
    assert figures["validation_loss"] < 0.1
    # Without the class, the first of 4 tokens is one of 3, and the others follow from it.
    assert np.log(3) / 4 - 0.05 < figures["validation_loss_null"] < 0.6


@pytest.mark.parametrize("labels", [None, np.full(20, -1)])
def test_dropped_and_missing_classes_are_the_null_class(tmp_path: Path, labels: np.ndarray | None):
    store = write_store(tmp_path, random_tokens(), labels)
    dropout = 1.0 if labels is None else 0.0
    config = TrainingConfig(
        model=MODEL, hardware=hardware(), batch_size=4, warmup_steps=0, weight_decay=0.0, class_dropout=dropout
    )
    trainer = RandARTrainer(config, store, store)
    before = trainer.model.cls_embedding.embedding_table.weight.detach().clone()
    for step in range(3):
        trainer.train_step(step)
    moved = (trainer.model.cls_embedding.embedding_table.weight != before).any(dim=1)
    assert moved.tolist() == [False] * NUM_CLASSES + [True]


def test_both_views_are_seen(tmp_path: Path):
    tokens = np.zeros((8, 2, 4), int)
    tokens[:, 1] = 7
    trainer = small_trainer(tmp_path, tokens, total_steps=80, learning_rate=0.03, ema_decay=0.5)
    for step in range(80):
        trainer.train_step(step)
    logits = trainer.averaged()(torch.zeros(1, 4, dtype=torch.long))[0, 0]  # the first, before any token
    assert set(logits.topk(2).indices.tolist()) == {0, 7}
    assert logits.softmax(0)[[0, 7]].min() > 0.3


def test_sizes_come_from_the_tokens(tmp_path: Path):
    sizes = small_trainer(tmp_path / "named").model_config
    assert (sizes.vocab_size, sizes.num_tokens, sizes.num_classes) == (VOCAB_SIZE, 9, NUM_CLASSES)
    unnamed = write_store(tmp_path / "unnamed", random_tokens(), np.arange(20), label_names=None)
    assert RandARTrainer(TrainingConfig(model=MODEL), unnamed, unnamed).model_config.num_classes == 20
    rare = write_store(tmp_path / "rare", random_tokens(), np.zeros(20))  # the last classes have no image
    assert RandARTrainer(TrainingConfig(model=MODEL), rare, rare).model_config.num_classes == NUM_CLASSES


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({**MODEL, "num_layer": 3}, r"model has no option 'num_layer'; did you mean num_layers\?"),
        ({**MODEL, "vocab_size": 3}, "model: vocab_size come from the tokens"),
        ({**MODEL, "dim": "wide"}, "model: dim is 'wide', expected int"),
        ({"num_layers": 2, "num_heads": 2}, "model lacks dim"),
    ],
)
def test_bad_sizes_are_named(tmp_path: Path, model: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        small_trainer(tmp_path, model=model)


def test_tokens_of_two_tokenizers_are_refused(tmp_path: Path):
    train = write_store(tmp_path / "train", random_tokens())
    validation = write_store(tmp_path / "validation", random_tokens(), tokenizer="fedcba9876543210")
    with pytest.raises(ValueError, match="tokenizer 0123456789abcdef, validation tokens by fedcba9876543210"):
        RandARTrainer(TrainingConfig(model=MODEL), train, validation)


@pytest.mark.parametrize(
    ("num_tokens", "labels", "label_names", "message"),
    [
        (16, None, ["class 0", "class 1", "class 2"], "have 9 tokens, validation images 16"),
        (9, np.zeros(20), ["class 1", "class 2"], r"validation images of 2 classes \(\['class 1', 'class 2'\]\)"),
        (9, np.arange(20) % 4, None, "of 3 classes, validation images of 4 classes"),
    ],
)
def test_validation_images_of_other_classes_are_refused(
    tmp_path: Path, num_tokens: int, labels: np.ndarray | None, label_names: list[str] | None, message: str
):
    train = write_store(tmp_path / "train", random_tokens())
    tokens = random_tokens(num_tokens=num_tokens)
    validation = write_store(tmp_path / "validation", tokens, labels, label_names=label_names)
    with pytest.raises(ValueError, match=message):
        RandARTrainer(TrainingConfig(model=MODEL), train, validation)
    codes = write_store(tmp_path / "codes", random_tokens(), label_names=None)  # published ones have no names
    RandARTrainer(TrainingConfig(model=MODEL), codes, train)


def test_a_thousand_classes_are_refused_in_a_line():
    names = [f"class {number}" for number in range(1000)]
    with pytest.raises(ValueError, match=r"of 1000 classes \(\['class 0', .* of 999 classes") as error:
        check_same_classes(names, names[1:])
    assert len(str(error.value)) < 500


def test_a_run_of_other_sizes_is_not_continued(tmp_path: Path):
    run(small_trainer(tmp_path / "tokens"), tmp_path / "run", CONFIG)
    wider = small_trainer(tmp_path / "tokens", model={**MODEL, "dim": 32})
    with pytest.raises(ValueError, match=r"than the one given: model\.dim: 16 → 32\. Continue with the old one"):
        run(wider, tmp_path / "run", CONFIG)
    with pytest.raises(ValueError, match=r"of another configuration than the one given.*size mismatch"):
        run(wider, tmp_path / "run", CONFIG, allow_changes=True)


def test_the_exported_folder_is_a_model(uninterrupted: tuple[RandARTrainer, Path]):
    trainer, folder = uninterrupted
    model = load_model(folder / "model", device="cpu")
    assert model.transformer.config == trainer.model_config
    for name, value in trainer.average.values.items():
        assert torch.equal(model.transformer.state_dict()[name], value.half().float()), name
    about = json.loads((folder / "model/config.json").read_text())
    assert about["training"]["batch_size"] == 4
    assert about["tokenizer_hash"] == "0123456789abcdef"
