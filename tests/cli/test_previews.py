"""The samples that a training shows of its model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from randar_features import generate, load_tokenizer
from randar_features.cli.train_transformer import GUIDANCE, SAMPLES, previews
from tests.small_models import NUM_CLASSES, small_transformer, write_folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What previews look at of a store of tokens."""
    return SimpleNamespace(tokenizer=write_folder(tmp_path_factory.mktemp("model")), num_classes=NUM_CLASSES)


@pytest.mark.parametrize("order", ["random", "raster"])
def test_are_samples_of_the_model_as_it_is_trained(store: Any, order: str):
    model = small_transformer()
    model.trained_order = order
    images = previews(store)(model)
    spread = [index * NUM_CLASSES // (SAMPLES - 1) for index in range(SAMPLES - 1)]
    assert spread[0] == 0 and set(spread) == set(range(NUM_CLASSES))
    drawn = generate(model, [*spread, NUM_CLASSES], guidance=GUIDANCE, order=order, generator=torch.arange(SAMPLES))
    tokenizer, size = load_tokenizer(store.tokenizer)
    torch.testing.assert_close(images, tokenizer.decode(drawn), atol=1e-5, rtol=0)
    assert images.shape == (SAMPLES, 3, size, size) and not torch.equal(images[0], images[1])


def test_leave_the_random_state_and_the_model_as_they_were(store: Any):
    model = small_transformer().train()
    state = torch.random.get_rng_state()
    preview = previews(store)
    assert torch.equal(preview(model), preview(model))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training and all(block.training for block in model.layers)


def test_there_are_none_without_a_tokenizer():
    assert previews(SimpleNamespace(tokenizer=None)) is None
