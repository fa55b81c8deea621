from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from randar_features import load_tokenizer
from randar_features.training.loop import LoopConfig, run
from randar_features.training.tokenizer_trainer import (
    TokenizerTrainer,
    random_mirror,
    reconstruction_quality,
    weigh_chroma,
)
from tests.training.small import (
    NETWORK,
    VOCAB_SIZE,
    Killed,
    kill_at,
    random_images,
    read_log,
    same,
    small_tokenizer_trainer,
)

CONFIG = LoopConfig(log_every=1, evaluate_every=4, checkpoint_every=4, log_writers=[])


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
    killed = small_tokenizer_trainer(tmp_path / "pixels")
    kill_at(killed, step, monkeypatch)
    with pytest.raises(Killed):
        run(killed, tmp_path / "run", CONFIG)
    monkeypatch.undo()
    resumed = small_tokenizer_trainer(tmp_path / "pixels")
    torch.manual_seed(step)
    assert run(resumed, tmp_path / "run", CONFIG)
    whole, folder = uninterrupted
    assert same(resumed.state_dict(), whole.state_dict())
    assert read_log(tmp_path / "run") == read_log(folder)
    for name in ("model/tokenizer.safetensors", "model/config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()


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
        tmp_path, images, total_steps=80, continuous_steps=20, learning_rate=0.01, ema_decay=0.5, warmup_steps=5
    )
    before = trainer.evaluate()
    losses = [trainer.train_step(step)["loss"] for step in range(80)]
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


def latents_of(vectors: Tensor) -> Tensor:
    """Vectors (n, C) as latents (1, C, 1, n)."""
    return vectors.T[None, :, None]


def test_codes_follow_the_mean_of_what_they_win(tmp_path: Path):
    trainer = small_tokenizer_trainer(tmp_path, codebook_decay=0.75, revive_below=0.0)
    trainer.codebook_counts.fill_(2.0)
    weight = trainer.model.quantize.embedding.weight
    old = weight.clone()
    vectors = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    trainer._move_codebook(latents_of(vectors), torch.tensor([[4, 1, 4]]), torch.Generator())
    expected = old.clone()
    expected[4] = F.normalize(0.75 * 2 * old[4] + 0.25 * (vectors[0] + vectors[2]), dim=0)
    expected[1] = F.normalize(0.75 * 2 * old[1] + 0.25 * vectors[1], dim=0)
    torch.testing.assert_close(weight, expected)
    counts = torch.full((VOCAB_SIZE,), 1.5)
    counts[[1, 4]] = torch.tensor([1.75, 2.0])
    torch.testing.assert_close(trainer.codebook_counts, counts)


def test_unused_codes_move_onto_latents_and_the_rest_stay_of_unit_length(tmp_path: Path):
    trainer = small_tokenizer_trainer(tmp_path)
    weight = trainer.model.quantize.embedding.weight
    old = weight.clone()
    vectors = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    generator = torch.Generator().manual_seed(0)
    trainer._move_codebook(latents_of(vectors), torch.zeros(1, 3, dtype=torch.long), generator)
    # Of the 11 codes that won nothing there are latents for 3; the others wait where they are.
    torch.testing.assert_close(weight[1:4].sort(dim=0).values, vectors.sort(dim=0).values)
    assert torch.equal(weight[4:], old[4:])
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(VOCAB_SIZE))
    torch.testing.assert_close(weight[0], F.normalize(vectors.sum(0), dim=0))


def test_chroma_is_weighed_and_grey_is_not():
    difference = torch.tensor([0.5, 0.25, 0.0]).view(1, 3, 1, 1)
    assert weigh_chroma(difference, 3.0).flatten().tolist() == [1.0, 0.25, -0.5]  # 0.25 ± 3 · 0.25
    assert torch.equal(weigh_chroma(difference, 1.0), difference)
    grey = torch.full((1, 3, 1, 1), 0.5)
    assert torch.equal(weigh_chroma(grey, 3.0), grey)


def test_mirrors_about_half_of_the_images():
    images = random_images(count=200, side=4)
    mirrored = random_mirror(images, torch.Generator().manual_seed(0))
    flipped = (mirrored == images.flip(3)).flatten(1).all(dim=1)
    assert ((mirrored == images).flatten(1).all(dim=1) ^ flipped).all()
    assert 80 < flipped.sum() < 120


def test_quality_by_hand(tmp_path: Path):
    model = small_tokenizer_trainer(tmp_path).averaged()
    images = random_images(count=5)
    tokens = model.encode(images)
    decoded = [model.decode(row[None])[0] for row in tokens]
    errors = [(new - image).square().mean().item() for new, image in zip(decoded, images, strict=True)]
    shares = [count / tokens.numel() for count in tokens.flatten().bincount().tolist() if count]
    quality = reconstruction_quality(model, images, batch_size=2)
    assert quality == pytest.approx(
        {
            "psnr": sum(-10 * math.log10(error) for error in errors) / 5,
            "mse": sum(errors) / 5,
            "usage": len(shares) / VOCAB_SIZE,
            "entropy": -sum(share * math.log(share) for share in shares),
        },
        rel=1e-5,
    )


def test_a_misspelt_size_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"network has no option 'chanels'; did you mean channels\?"):
        small_tokenizer_trainer(tmp_path, network={**NETWORK, "chanels": 3})
