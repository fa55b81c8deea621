from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from randar_features import load_tokenizer
from randar_features.hub.weights import file_hash
from randar_features.options.parse import read_options
from randar_features.store.files import read_json
from randar_features.tokenizers.folder import tokenizer_hash
from randar_features.training.loop import LoopConfig, run
from randar_features.training.tokenizer.discriminator import PatchDiscriminator
from randar_features.training.tokenizer.recipe import TokenizerTrainingConfig
from randar_features.training.tokenizer.trainer import TokenizerTrainer, mirror, weigh_chroma
from tests.training.small import (
    CONFIG,
    NETWORK,
    Killed,
    equal_after_a_kill,
    kill_at,
    random_images,
    read_log,
    same,
    small_tokenizer_trainer,
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenizerTrainer, Path]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = small_tokenizer_trainer(folder / "pixels")
    assert run(trainer, folder / "run", CONFIG)
    return trainer, folder / "run"


@pytest.mark.parametrize("step", [2, 4, 7])  # while it is continuous, at a checkpoint, quantised
def test_resumed_equals_uninterrupted_to_the_bit(
    tmp_path: Path, uninterrupted: tuple[TokenizerTrainer, Path], monkeypatch: pytest.MonkeyPatch, step: int
):
    equal_after_a_kill(
        lambda: small_tokenizer_trainer(tmp_path / "pixels"), uninterrupted, tmp_path / "run", step, monkeypatch
    )


def test_the_exported_folder_is_a_tokenizer(uninterrupted: tuple[TokenizerTrainer, Path]):
    trainer, folder = uninterrupted
    tokenizer, image_size = load_tokenizer(folder / "model", device="cpu")
    assert image_size == 8
    for name, value in trainer.average.values.items():
        assert torch.equal(tokenizer.state_dict()[name], value.half().float()), name
    images = random_images()
    agreement = tokenizer.encode(images) == trainer.averaged().encode(images)
    assert agreement.float().mean() > 0.9  # but for ties that half precision decides
    assert json.loads((folder / "model/config.json").read_text())["tokenizer_training"]["batch_size"] == 4


def test_learns_flat_colours(tmp_path: Path):
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.8, 0.8, 0.8]])
    images = colours[:, :, None, None].expand(-1, -1, 8, 8).contiguous()
    trainer = small_tokenizer_trainer(
        tmp_path, images, total_steps=40, continuous_steps=10, learning_rate=0.02, ema_decay=0.5, warmup_steps=5
    )
    before = trainer.evaluate()
    losses = [trainer.train_step(step)["loss"] for step in range(40)]
    after = trainer.evaluate()
    assert losses[-1] < 0.2 * losses[0]
    assert after["validation_psnr"] > before["validation_psnr"] + 8
    assert after["validation_mse"] < 0.2 * before["validation_mse"]
    tokens = trainer.averaged().encode(images)
    assert len({tuple(row) for row in tokens.tolist()}) == 4  # tells all colours apart


def test_the_codebook_waits_and_takes_no_gradient(tmp_path: Path):
    trainer = small_tokenizer_trainer(tmp_path, continuous_steps=3)
    codebook = trainer.model.quantize.embedding.weight
    before = codebook.clone()
    figures = [trainer.train_step(step) for step in range(2)]
    assert [entry["commitment"] for entry in figures] == [0, 0]
    assert torch.equal(codebook, before)
    assert codebook.grad is None
    trainer.train_step(2)  # the last continuous step moves the codes to where the latents are
    assert not torch.equal(codebook, before)
    assert trainer.train_step(3)["commitment"] > 0


def test_chroma_is_weighed_and_grey_is_not():
    difference = torch.tensor([0.5, 0.25, 0.0]).view(1, 3, 1, 1)
    assert weigh_chroma(difference, 3.0).flatten().tolist() == [1.0, 0.25, -0.5]  # 0.25 ± 3 · 0.25
    assert torch.equal(weigh_chroma(difference, 1.0), difference)
    grey = torch.full((1, 3, 1, 1), 0.5)
    assert torch.equal(weigh_chroma(grey, 3.0), grey)


def test_mirrors_those_that_it_is_told_to():
    images = random_images(count=3)
    mirrored = mirror(images, torch.tensor([True, False, True]))
    assert torch.equal(mirrored[::2], images[::2].flip(3))
    assert torch.equal(mirrored[1], images[1])


def test_a_misspelt_size_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"network has no option 'chanels'; did you mean channels\?"):
        small_tokenizer_trainer(tmp_path, network={**NETWORK, "chanels": 3})
    with pytest.raises(ValueError, match="network: channels is 'abc', expected int"):
        small_tokenizer_trainer(tmp_path, network={**NETWORK, "channels": "abc"})


def test_the_default_recipe_gives_the_losses_that_it_always_gave(tmp_path: Path):
    """Recorded before the other terms were there, of one thread on a CPU."""
    trainer = small_tokenizer_trainer(tmp_path)
    losses = [trainer.train_step(step)["loss"] for step in range(6)]
    recorded = [0.92665017, 0.92557633, 0.89770019, 0.88555980, 0.90810466, 0.87141818]
    assert losses == pytest.approx(recorded, rel=1e-4)


def test_weights_of_the_two_differences(tmp_path: Path):
    figures = {}
    for name, weights in {"l1": (1.0, 0.0), "l2": (0.0, 1.0), "both": (0.5, 3.0)}.items():
        trainer = small_tokenizer_trainer(tmp_path / name, l1_weight=weights[0], l2_weight=weights[1])
        figures[name] = trainer.train_step(0)["reconstruction"]
    assert figures["both"] == pytest.approx(0.5 * figures["l1"] + 3 * figures["l2"], rel=1e-5)


def polished(folder: Path, initial: Path, **options: object) -> TokenizerTrainer:
    options = {"train": "decoder", "initial": str(initial), "network": {}, "total_steps": 5, **options}
    trainer = small_tokenizer_trainer(folder / "pixels", **options)
    assert run(trainer, folder / "run", CONFIG)
    return trainer


@pytest.mark.parametrize("half", [True, False])  # as training writes weights, and as others publish them
def test_polishing_the_decoder_keeps_every_token(
    tmp_path: Path, uninterrupted: tuple[TokenizerTrainer, Path], half: bool
):
    initial = tmp_path / "initial"
    initial.mkdir()
    (initial / "config.json").write_bytes((uninterrupted[1] / "model/config.json").read_bytes())
    weights = load_file(uninterrupted[1] / "model/tokenizer.safetensors")
    save_file({n: v if half else v.float() * 1.0001 for n, v in weights.items()}, initial / "tokenizer.safetensors")
    trainer = polished(tmp_path, initial)
    before, _ = load_tokenizer(initial, device="cpu")
    after, _ = load_tokenizer(tmp_path / "run/model", device="cpu")
    assert tokenizer_hash(after) == tokenizer_hash(before) == tokenizer_hash(trainer.model)
    images = random_images(count=40)
    tokens = before.encode(images)
    assert torch.equal(after.encode(images), tokens)
    assert not torch.equal(after.decode(tokens), before.decode(tokens))
    kept = read_json(tmp_path / "run/model/config.json")["initial_training"]
    assert kept == read_json(initial / "config.json")["tokenizer_training"]
    about = json.loads((tmp_path / "run/model/config.json").read_text())
    assert about["tokenizer_training"]["initial"] == file_hash(initial / "tokenizer.safetensors")[:16]  # no path
    log = read_log(tmp_path / "run")
    assert log[0]["loss"] == log[0]["reconstruction"]
    assert (load_file(tmp_path / "run/model/tokenizer.safetensors")["decoder.conv_in.weight"].dtype) == torch.float16


def test_polishing_improves_reconstructions(tmp_path: Path, uninterrupted: tuple[TokenizerTrainer, Path]):
    trainer = polished(
        tmp_path, uninterrupted[1] / "model", total_steps=25, learning_rate=0.02, batch_size=10, ema_decay=0.9
    )
    before = uninterrupted[0].evaluate()
    after = trainer.evaluate()
    assert after["validation_psnr"] > before["validation_psnr"] + 0.3
    assert after["validation_ssim"] > before["validation_ssim"]
    assert after["validation_entropy"] == pytest.approx(before["validation_entropy"], abs=0.2)


def test_training_starts_from_given_weights(tmp_path: Path, uninterrupted: tuple[TokenizerTrainer, Path]):
    initial = uninterrupted[1] / "model"
    trainer = small_tokenizer_trainer(tmp_path, initial=str(initial))
    for name, value in load_file(initial / "tokenizer.safetensors").items():
        assert torch.equal(trainer.model.state_dict()[name], value.float()), name
    assert trainer.model.encoder.conv_in.weight.requires_grad
    assert not trainer.model.quantize.embedding.weight.requires_grad


def test_what_cannot_be_started_from(tmp_path: Path, uninterrupted: tuple[TokenizerTrainer, Path]):
    with pytest.raises(ValueError, match="train=decoder keeps encoder and codebook as they are: name a trained one"):
        small_tokenizer_trainer(tmp_path, train="decoder")
    with pytest.raises(FileNotFoundError, match=r"nowhere/config\.json is missing, expected a tokenizer's folder"):
        small_tokenizer_trainer(tmp_path, initial="nowhere", network={})
    other = NETWORK | {"latent_channels": 16}
    with pytest.raises(ValueError, match=r"tokenizer\.safetensors"):
        small_tokenizer_trainer(tmp_path, initial=str(uninterrupted[1] / "model"), network=other)


ADVERSARY = {
    "adversarial_weight": 0.5,
    "adversarial_start": 4,
    "discriminator": {"channels": 4, "layers": 1},
    "discriminator_learning_rate": 0.01,
}


def test_the_adversary_comes_late_and_learns(tmp_path: Path):
    plain = small_tokenizer_trainer(tmp_path / "plain")
    trainer = small_tokenizer_trainer(tmp_path / "adversarial", **ADVERSARY)
    figures = [trainer.train_step(step) for step in range(10)]
    assert [plain.train_step(step)["loss"] for step in range(4)] == [entry["loss"] for entry in figures[:4]]
    assert ["discriminator_loss" in entry for entry in figures] == [False] * 4 + [True] * 6
    for entry in figures[4:]:
        term = entry["adversarial_weight"] * entry["adversarial"] + 0.25 * entry["commitment"]
        assert entry["loss"] == pytest.approx(entry["reconstruction"] + term, rel=1e-5)
    assert figures[-1]["discriminator_loss"] < figures[4]["discriminator_loss"]
    assert figures[-1]["logits_real"] > figures[-1]["logits_fake"]


def test_resumed_with_an_adversary_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = small_tokenizer_trainer(tmp_path / "pixels", **ADVERSARY)
    run(whole, tmp_path / "whole", CONFIG)
    killed = small_tokenizer_trainer(tmp_path / "pixels", **ADVERSARY)
    kill_at(killed, 7, monkeypatch)
    config = LoopConfig(log_every=1, evaluate_every=4, checkpoint_every=6, log_writers=[])
    with pytest.raises(Killed):
        run(killed, tmp_path / "run", config)
    monkeypatch.undo()
    resumed = small_tokenizer_trainer(tmp_path / "pixels", **ADVERSARY)
    run(resumed, tmp_path / "run", config)
    assert same(resumed.state_dict(), whole.state_dict())
    assert read_log(tmp_path / "run") == read_log(tmp_path / "whole")


def test_a_fixed_weight_of_the_adversary(tmp_path: Path):
    trainer = small_tokenizer_trainer(tmp_path, **ADVERSARY | {"adversarial_adaptive": False, "adversarial_start": 0})
    assert trainer.train_step(0)["adversarial_weight"] == 0.5


def test_a_perceptual_loss_without_its_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"needs the weights of torchvision's VGG-16, .* perceptual_vgg=FILE"):
        small_tokenizer_trainer(tmp_path / "pixels", perceptual_weight=1.0)


def test_rows_of_images_and_reconstructions_are_logged(tmp_path: Path):
    trainer = small_tokenizer_trainer(tmp_path / "pixels", random_images(count=12))
    [(name, images)] = trainer.pictures().items()
    assert (name, images.shape) == ("reconstructions", (24, 3, 8, 8))
    originals = torch.cat([images[:8], images[16:20]])
    expected = trainer.validation.images(torch.linspace(0, 11, 12).long())
    assert torch.equal(originals, expected)
    model = trainer.averaged()
    torch.testing.assert_close(torch.cat([images[8:16], images[20:]]), model.decode(model.encode(expected)))
    run(trainer, tmp_path / "run", LoopConfig(preview_every=5, log_writers=[]))
    drawn = sorted(path.name for path in (tmp_path / "run/samples").iterdir())
    assert drawn == [f"reconstructions-step-{step:08d}.png" for step in (5, 10)]


def test_figures_of_the_codebook_are_logged(tmp_path: Path):
    trainer = small_tokenizer_trainer(tmp_path, continuous_steps=0)
    figures = trainer.train_step(0)
    assert 0 < figures["codebook_usage"] <= 1
    assert 1 <= figures["codebook_perplexity"] <= 12


def test_a_misspelt_option_of_the_discriminator_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="discriminator has no option 'chanels'; did you mean channels"):
        small_tokenizer_trainer(tmp_path, adversarial_weight=1.0, discriminator={"chanels": 3})
    with pytest.raises(ValueError, match=r"discriminator: layers is \[3\], expected int"):
        small_tokenizer_trainer(tmp_path, adversarial_weight=1.0, discriminator={"layers": [3]})


def test_shipped_discriminators():
    for path in (Path(__file__).parents[3] / "randar_features/training/recipes").glob("*tokenizer*.yaml"):
        config = read_options(TokenizerTrainingConfig, path)
        assert PatchDiscriminator(**config.discriminator)(torch.zeros(2, 3, 64, 64)).shape[:2] == (2, 1)


def test_the_shipped_polish_builds(tmp_path: Path, uninterrupted: tuple[TokenizerTrainer, Path]):
    recipe = Path(__file__).parents[3] / "randar_features/training/recipes/tiny_decoder.yaml"
    config = read_options(TokenizerTrainingConfig, recipe, [f"initial={uninterrupted[1] / 'model'}"])
    trainer = TokenizerTrainer(config, uninterrupted[0].train, uninterrupted[0].validation)
    assert {name for name, p in trainer.model.named_parameters() if p.requires_grad} == {
        name for name in trainer.model.state_dict() if name.startswith(("decoder.", "post_quant_conv."))
    }


TEACHER = {"teacher": "timm:test_byobnet?random@32", "perceptual_weight": 0.5, "alignment_weight": 0.5}


def test_a_teacher_trains_image_and_codes(tmp_path: Path):
    trainer = small_tokenizer_trainer(tmp_path / "pixels", **TEACHER)
    before = trainer.alignment.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    figures = trainer.train_step(0)
    assert figures["alignment"] > 0 and figures["perceptual"] > 0
    expected = figures["reconstruction"] + 0.25 * figures["commitment"]
    expected += 0.5 * figures["perceptual"] + 0.5 * figures["alignment"]
    assert figures["loss"] == pytest.approx(expected, rel=1e-5)
    assert any(not torch.equal(value, before[name]) for name, value in trainer.alignment.state_dict().items())
    assert all(parameter.grad is None for parameter in trainer.teacher.parameters())


def test_alignment_alone_reaches_the_encoder_and_not_the_decoder(tmp_path: Path):
    off = {"l1_weight": 0.0, "l2_weight": 0.0, "commitment": 0.0, "perceptual_weight": 0.0, "weight_decay": 0.0}
    trainer = small_tokenizer_trainer(tmp_path / "pixels", **TEACHER | off, continuous_steps=0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train_step(0)
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert "encoder.conv_in.weight" in moved
    assert not any(name.startswith("decoder") for name in moved)


def test_a_run_with_a_teacher_resumes_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = small_tokenizer_trainer(tmp_path / "pixels", **TEACHER)
    assert run(whole, tmp_path / "whole", CONFIG)
    make = lambda: small_tokenizer_trainer(tmp_path / "pixels", **TEACHER)  # noqa: E731
    equal_after_a_kill(make, (whole, tmp_path / "whole"), tmp_path / "run", 7, monkeypatch)


def test_alignment_without_a_teacher_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"alignment_weight = 0\.5 needs a teacher"):
        small_tokenizer_trainer(tmp_path / "pixels", alignment_weight=0.5)


def test_a_changed_recipe_is_that_of_the_optimizers_too(tmp_path: Path):
    adversary: dict[str, Any] = {"adversarial_weight": 0.1, "discriminator": {"channels": 8, "layers": 1}}
    first = small_tokenizer_trainer(tmp_path, **adversary)
    first.train_step(0)
    second = small_tokenizer_trainer(tmp_path, weight_decay=0.3, adam_betas=[0.5, 0.6], **adversary)
    second.load_state_dict(first.state_dict())
    assert second.adversary is not None
    for learner in (second.learner, second.adversary.learner):
        (group,) = learner.optimizer.param_groups
        assert (group["weight_decay"], tuple(group["betas"])) == (0.3, (0.5, 0.6))
    assert same(first.learner.state_dict()["optimizer"]["state"], second.learner.state_dict()["optimizer"]["state"])


def test_other_images_of_the_same_number_are_refused(tmp_path: Path):
    assert run(small_tokenizer_trainer(tmp_path / "one", total_steps=1), tmp_path / "run", CONFIG)
    other = small_tokenizer_trainer(tmp_path / "other", random_images(seed=1), total_steps=1)
    with pytest.raises(ValueError, match=r"data\.content: '\w+' → '\w+'"):
        run(other, tmp_path / "run", CONFIG)


def test_a_run_whose_checkpoint_did_not_tell_its_images_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TokenizerTrainer, "settings", lambda self: {"data": {"images": len(self.train)}})
    assert run(small_tokenizer_trainer(tmp_path / "pixels", total_steps=1), tmp_path / "run", CONFIG)
    monkeypatch.setattr(
        TokenizerTrainer, "settings", lambda self: {"data": {"images": len(self.train), "content": self.train.content}}
    )
    assert run(small_tokenizer_trainer(tmp_path / "pixels", total_steps=1), tmp_path / "run", CONFIG)


def test_validation_images_are_spread_over_sorted_data(tmp_path: Path):
    sorted_images = torch.cat([torch.full((5, 3, 8, 8), 1.0), random_images(count=5)])
    every = small_tokenizer_trainer(tmp_path, sorted_images, evaluation_images=10).evaluate()["validation_mse"]
    some = small_tokenizer_trainer(tmp_path, sorted_images, evaluation_images=4).evaluate()["validation_mse"]
    assert some == pytest.approx(every, rel=0.2)
