from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from randar_features.training.generator.online_probe import OnlineProbe, rankme
from randar_features.training.generator.trainer import RandARTrainer
from tests.small_models import IMAGE_SIZE, small_tokenizer, small_transformer
from tests.training.small import random_tokens, small_config, write_store


def coloured(count: int = 60) -> list[tuple[torch.Tensor, int]]:
    """Images of one colour a class, with noise."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.eye(3).view(3, 3, 1, 1)
    noise = torch.rand(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    return [(0.7 * colours[index % 3] + 0.3 * noise[index], index % 3) for index in range(count)]


def encode(model, tokens, *, layer, context, read):
    """Features that tell the class where the context is "reverse", and nothing where it is "single"."""
    labels = torch.nn.functional.one_hot(tokens[:, 0] % 3, 4).float()
    told = labels[:, None, None].expand(-1, 2, 2, -1)
    return {(shown, at): told * (shown == "reverse") for shown in context for at in read}


def test_it_finds_the_class_where_it_is():
    probe = OnlineProbe(encode, small_tokenizer(), coloured(), image_size=IMAGE_SIZE)
    probe.tokens, probe.labels = torch.arange(60)[:, None].expand(60, 16), np.arange(60) % 3
    figures = probe(small_transformer())
    assert set(figures) == {
        f"{kind}_{context}_{read}"
        for kind in ("knn", "ridge", "rankme")
        for context in ("single", "reverse")
        for read in ("image", "instruction")
    }
    assert figures["knn_reverse_image"] == figures["ridge_reverse_instruction"] == 100
    assert figures["ridge_single_image"] < 60
    assert probe.held_back.sum() == 15


def test_rank_of_features_by_hand():
    orthogonal = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 5)))[0]
    orthogonal -= orthogonal.mean(0)
    orthogonal = np.linalg.qr(orthogonal)[0]
    assert rankme(orthogonal) == pytest.approx(5, rel=1e-3)
    assert rankme(np.outer(np.arange(9.0), np.ones(4))) == pytest.approx(1, rel=1e-3)


def test_its_figures_stand_beside_the_validation_loss(tmp_path: Path):
    store = write_store(tmp_path, random_tokens())
    trainer = RandARTrainer(small_config(), store, store, probe=lambda model: {"knn": float(model.training)})
    assert trainer.evaluate()["knn"] == 0.0


def test_images_without_labels_and_too_few_are_refused():
    tokenizer = small_tokenizer()
    with pytest.raises(ValueError, match="label"):
        OnlineProbe(encode, tokenizer, torch.rand(30, 3, 16, 16), image_size=IMAGE_SIZE)
    with pytest.raises(ValueError, match="9 images"):
        OnlineProbe(encode, tokenizer, coloured(9), image_size=IMAGE_SIZE)
