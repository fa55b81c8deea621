from __future__ import annotations

import pytest
import torch

import randar_features as rf
from randar_features.generation import preview
from randar_features.generation.preview import sample_preview, spread_classes


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_equals_generating_and_decoding_whatever_the_batch(
    small_model: rf.Model, monkeypatch: pytest.MonkeyPatch, batch_size: int
):
    monkeypatch.setattr(preview, "AT_ONCE", batch_size)
    images = sample_preview(small_model.tokenizer, [2, 0, 2])(small_model.transformer)
    tokens = rf.generate(
        small_model.transformer, [2, 0, 2], guidance=preview.GUIDANCE, generator=torch.tensor([0, 1, 2])
    )
    torch.testing.assert_close(images, small_model.tokenizer.decode(tokens), atol=1e-5, rtol=0)
    assert images.shape == (3, 3, small_model.image_size, small_model.image_size)
    assert images.min() >= 0 and images.max() <= 1
    assert not torch.equal(images[0], images[2])


def test_leaves_the_random_state_and_the_model_as_they_were(small_model: rf.Model):
    model = small_model.transformer.train()
    try:
        state = torch.random.get_rng_state()
        drawn = sample_preview(small_model.tokenizer, [0, 1])
        assert torch.equal(drawn(model), drawn(model))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert model.training and all(block.training for block in model.layers)
    finally:
        model.eval()


def test_classes_are_spread_evenly():
    assert spread_classes(200, 4) == [0, 50, 100, 150]
    assert spread_classes(3, 6) == [0, 0, 1, 1, 2, 2]
