"""Stages of a network that labels train: pixels as they are shown, a run that goes on, and a tokenizer on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from randar_features import load_tokenizer
from randar_features.baselines import OWN_LABELS
from randar_features.data.pixels import PixelCache, cache_pixels
from randar_features.store.files import read_json
from randar_features.training.loop import LoopConfig, run
from randar_features.training.tokenizer.network_codes import fit_network_tokenizer
from randar_features.training.tokenizer.network_trainer import NetworkTrainer, NetworkTrainingConfig, augmented

CONFIG = NetworkTrainingConfig(
    architecture="regnetx_002", stage=1, image_size=16, small_size=12, total_steps=30, batch_size=16, warmup_steps=2,
    loop=LoopConfig(evaluate_every=30, checkpoint_every=5, log_writers=[]),
)  # fmt: skip


@pytest.fixture(scope="module")
def red_and_blue(tmp_path_factory: pytest.TempPathFactory) -> PixelCache:
    folder = tmp_path_factory.mktemp("colours")
    for name, color in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (folder / name).mkdir()
        for number in range(8):
            Image.new("RGB", (16, 16), tuple(value + number for value in color)).save(folder / name / f"{number}.png")
    cache = cache_pixels(folder, folder / "pixels", image_size=16)
    assert cache is not None
    return cache


def test_labels_are_learned(red_and_blue: PixelCache, tmp_path: Path) -> None:
    trainer = NetworkTrainer(CONFIG, red_and_blue, red_and_blue)
    assert run(trainer, tmp_path, CONFIG.loop)
    assert trainer.evaluate() == {"validation_accuracy": 1.0}


def test_a_run_that_was_stopped_gives_the_same_weights(red_and_blue: PixelCache, tmp_path: Path) -> None:
    whole = NetworkTrainer(CONFIG, red_and_blue, red_and_blue)
    for step in range(6):
        whole.train_step(step)
    first, second = (NetworkTrainer(CONFIG, red_and_blue, red_and_blue) for _ in range(2))
    for step in range(3):
        first.train_step(step)
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        second.train_step(step)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=0, atol=0)


def test_a_continued_run_takes_the_options_that_were_changed(red_and_blue: PixelCache) -> None:
    first, second = (
        NetworkTrainer(replace(CONFIG, momentum=momentum, weight_decay=decay), red_and_blue, red_and_blue)
        for momentum, decay in ((0.9, 0.1), (0.5, 0.2))
    )
    first.train_step(0)
    second.load_state_dict(first.state_dict())
    groups = second.optimizer.param_groups
    assert [group["momentum"] for group in groups] == [0.5, 0.5]
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0]
    assert len(second.optimizer.state) == len(first.optimizer.state) > 0


def test_other_images_of_the_same_number_are_refused(red_and_blue: PixelCache, tmp_path: Path) -> None:
    config = replace(CONFIG, total_steps=1)
    assert run(NetworkTrainer(config, red_and_blue, red_and_blue), tmp_path / "run", CONFIG.loop)
    for name, color in (("red", (180, 40, 40)), ("blue", (40, 40, 180))):
        (tmp_path / "others" / name).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (16, 16), color).save(tmp_path / "others" / name / f"{number}.png")
    others = cache_pixels(tmp_path / "others", tmp_path / "pixels", image_size=16)
    assert others is not None
    with pytest.raises(ValueError, match=r"data\.content: '\w+' → '\w+'"):
        run(NetworkTrainer(config, others, others), tmp_path / "run", CONFIG.loop)


def test_a_crop_of_one_colour_stays_one_colour() -> None:
    pixels = torch.tensor([0.5, -0.25, 0.0]).view(1, 3, 1, 1).expand(5, 3, 16, 16)
    shown = augmented(pixels, 12, torch.Generator().manual_seed(0))
    assert shown.shape == (5, 3, 12, 12)
    torch.testing.assert_close(shown, shown[:, :, :1, :1].expand(-1, -1, 12, 12), rtol=0, atol=1e-5)
    assert (shown[:, 0, 0, 0] > shown[:, 2, 0, 0]).all() and (shown[:, 2, 0, 0] > shown[:, 1, 0, 0]).all()
    assert shown[:, 0, 0, 0].unique().numel() == 5


def test_half_of_the_crops_are_mirrored() -> None:
    ramp = torch.linspace(-1, 1, 16).expand(64, 3, 16, 16)
    shown = augmented(ramp, 16, torch.Generator().manual_seed(0))
    mirrored = (shown[:, 0, 8, 0] > shown[:, 0, 8, -1]).float().mean()
    assert 0.3 < mirrored < 0.7


def test_a_tokenizer_looks_through_the_trained_stages(red_and_blue: PixelCache, tmp_path: Path) -> None:
    trainer = NetworkTrainer(CONFIG, red_and_blue, red_and_blue)
    trainer.train_step(0)
    trainer.export(tmp_path / "network")
    sizes = {
        "stages": [1], "enlarge": 1, "channels": 32, "channel_multipliers": [1, 1], "latent_channels": 16,
        "stem_patch": 2, "vocab_size": 8, "code_dim": 8,
    }  # fmt: skip
    images = red_and_blue.store.folder.parent
    fit_network_tokenizer(
        str(tmp_path / "network"), images, tmp_path / "out", sizes=sizes, shares=[1, 1], image_size=16
    )
    tokenizer, _ = load_tokenizer(tmp_path / "out", "cpu")
    stem = tokenizer.state_dict()["encoder.network.stem.conv.weight"]
    torch.testing.assert_close(stem, trainer.model.network.stem.conv.weight.half().float(), rtol=0, atol=0)
    assert read_json(tmp_path / "out" / "config.json")["tokenizer_training"]["supervision"] == OWN_LABELS


def test_what_cannot_be_trained_is_named(red_and_blue: PixelCache) -> None:
    with pytest.raises(ValueError, match="resnet19"):
        NetworkTrainingConfig(architecture="resnet19")
    with pytest.raises(ValueError, match="stage = 9"):
        NetworkTrainer(NetworkTrainingConfig(architecture="regnetx_002", stage=9), red_and_blue, red_and_blue)
