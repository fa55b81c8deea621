"""The encoder as timm's networks are used: data configuration, head, compilation and export."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from randar_features import ImageEncoder, Model


@pytest.fixture
def encoder(small_model: Model) -> ImageEncoder:
    return ImageEncoder(small_model)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_timms_transform_makes_images_that_the_encoder_takes(encoder: ImageEncoder):
    config = resolve_model_data_config(encoder)
    assert config["input_size"] == (3, 16, 16) and config["crop_pct"] == 1.0
    assert config["mean"] == (0.0, 0.0, 0.0) and config["std"] == (1.0, 1.0, 1.0)
    picture = create_transform(**config)(Image.effect_noise((40, 30), 90).convert("RGB"))
    assert picture.shape == (3, 16, 16) and 0 <= picture.min() < picture.max() <= 1
    assert encoder(picture[None]).shape == (1, 32)


def test_the_head_is_none_or_linear_on_the_mean(encoder: ImageEncoder, images: torch.Tensor):
    features = encoder.forward_features(images)
    assert encoder.num_classes == 0
    torch.testing.assert_close(encoder.forward_head(features), features.mean(dim=1))
    encoder.reset_classifier(5)
    assert encoder.num_classes == 5 and encoder(images).shape == (2, 5)
    torch.testing.assert_close(encoder.forward_head(features, pre_logits=True), features.mean(dim=1))
    torch.testing.assert_close(encoder(images), encoder.get_classifier()(features.mean(dim=1)))
    trained = [name for name, weight in encoder.named_parameters() if weight.requires_grad]
    assert trained == ["head.weight", "head.bias"]
    encoder.reset_classifier(0)
    assert encoder(images).shape == (2, 32)
    for wrong, error in ((-1, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="num_classes"):
            encoder.reset_classifier(wrong)
    with pytest.raises(ValueError, match="global_pool"):
        encoder.reset_classifier(3, "max")


def test_the_classifier_follows_the_weights_into_another_format(encoder: ImageEncoder, images: torch.Tensor):
    encoder = copy.deepcopy(encoder)  # its weights are those of a model that other tests read
    encoder.reset_classifier(3)
    assert encoder(images).dtype == torch.float32
    assert encoder.to(torch.bfloat16)(images).dtype == torch.bfloat16


def test_it_compiles_to_one_graph(encoder: ImageEncoder, images: torch.Tensor):
    torch.compiler.reset()
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")  # what "eager" does, and more
    torch.testing.assert_close(compiled(images), encoder(images))


def test_it_exports_for_any_number_of_images(encoder: ImageEncoder, images: torch.Tensor):
    program = torch.export.export(encoder, (images,), dynamic_shapes=({0: torch.export.Dim("batch", max=8)},)).module()
    more = torch.cat([images.flip(0), images[:1]])
    torch.testing.assert_close(program(more), encoder(more))


def test_gradient_checkpointing_computes_blocks_again_and_changes_no_gradient(
    encoder: ImageEncoder, images: torch.Tensor
):
    encoder = copy.deepcopy(encoder).requires_grad_(True)
    times: list[int] = []
    encoder.transformer.blocks[0].parts()[0].register_forward_hook(lambda *_: times.append(1))
    gradients = []
    for enable, expected in ((False, 1), (True, 2), (True, 2), (False, 1)):
        encoder.set_grad_checkpointing(enable)
        trained = copy.deepcopy(encoder)
        times.clear()
        trained.forward_features(images).square().mean().backward()
        assert len(times) == expected
        gradients.append([weight.grad for weight in trained.transformer.parameters() if weight.grad is not None])
        torch.testing.assert_close(gradients[-1], gradients[0], rtol=0, atol=0)
    assert gradients[0]
