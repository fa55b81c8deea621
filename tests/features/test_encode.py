from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from randar_features import FeatureSpec, ImageEncoder, Model, encode_tokens
from randar_features.features import encode, encode_specs, model_specs
from tests.small_models import IMAGE_SIZE


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("layers", [[0], [2, 0], [0, 1, 2]])
@pytest.mark.parametrize("contexts", [["reverse"], ["repeat", "reverse"], ["reverse", "single", "repeat"]])
def test_a_shared_first_copy_changes_nothing(small_model: Model, contexts: list[str], layers: list[int], norm: bool):
    transformer, generator = small_model.transformer, torch.Generator().manual_seed(0)
    tokens = torch.randint(transformer.config.vocab_size, (3, 16), generator=generator)
    order = torch.rand(3, 16, generator=generator).argsort(dim=1)
    specs = model_specs(transformer, layers=layers, context=contexts, read=transformer.reads, norm=norm)
    assert len(specs) == len(contexts) * 2 * len(layers)
    for one in (None, order[0], order):
        maps = encode_specs(transformer, tokens, specs, torch.tensor([0, 1, 3]), one)
        assert list(maps) == specs
        for spec, values in maps.items():
            options = {"layers": spec.layer, "context": spec.context, "read": spec.read, "norm": norm}
            expected = encode_tokens(transformer, tokens, torch.tensor([0, 1, 3]), one, **options)[:, 0]
            torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)


def test_layers_and_models_in_any_form(small_model: Model):
    tokens = torch.arange(16)[None]
    expected = encode_tokens(small_model.transformer, tokens, layers=[2, 0])
    for layers in (torch.tensor([2, 0]), np.array([-1, 0]), iter([2, 0])):
        assert torch.equal(encode_tokens(small_model, tokens, layers=layers), expected)
    assert torch.equal(encode_tokens(small_model, tokens, layers=torch.tensor(2)), expected[:, :1])
    for wrong in ({"order": "raster"}, {"classes": "lion"}):
        with pytest.raises(TypeError, match="integers"):
            encode_tokens(small_model, tokens, **wrong)


def test_specs_of_other_orders_norms_and_depths_go_together(small_model: Model):
    transformer = small_model.transformer
    tokens = torch.randint(transformer.config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(1))
    texts = ["reverse/image/0", "single/instruction/2/norm", "reverse/image/1/orders=2/seed=3", "repeat/image/1/norm"]
    specs = [FeatureSpec.parse(text) for text in texts]
    together = encode_specs(transformer, tokens, specs)
    for spec in specs:
        alone = encode_specs(transformer, tokens, [spec])[spec]
        torch.testing.assert_close(together[spec], alone, rtol=1e-5, atol=1e-5)


def test_a_gradient_passes_through_a_shared_first_copy(small_model: Model):
    """Keys and values of the first copy are not written over, so that fine-tuning may use several contexts."""
    transformer = small_model.to(dtype=torch.float64).to(dtype=torch.float32).transformer.requires_grad_(True)
    specs = model_specs(transformer, layers=[1], context=["single", "reverse"])
    tokens = torch.arange(16)[None]
    gradients = []
    for parts in (specs, specs[:1], specs[1:]):
        maps = encode_specs(transformer, tokens, parts)
        weight = transformer.blocks[0].attention.wqkv.weight
        gradients.append(torch.autograd.grad(sum(values.sum() for values in maps.values()), weight)[0])
    torch.testing.assert_close(gradients[0], gradients[1] + gradients[2], rtol=1e-3, atol=1e-4)


def test_images_are_tokenized_once(small_model: Model, monkeypatch: pytest.MonkeyPatch):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    calls, tokenize = [], small_model.tokenizer.encode
    monkeypatch.setattr(small_model.tokenizer, "encode", lambda pixels: calls.append(len(pixels)) or tokenize(pixels))
    maps = encode(small_model, images, ["single/image/0", "reverse/instruction/2"], classes=[0, 2])
    assert calls == [2] and [str(spec) for spec in maps] == ["single/image/0", "reverse/instruction/2"]
    tokens, last = tokenize(images), FeatureSpec("reverse", "instruction", 2)
    expected = encode_tokens(small_model.transformer, tokens, [0, 2], layers=2, read="instruction")[:, 0]
    torch.testing.assert_close(maps[last], expected, rtol=1e-5, atol=1e-5)


def test_a_model_in_training_encodes_without_dropout(small_model: Model) -> None:
    model, images = copy.deepcopy(small_model), torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    model.transformer.train()
    model.tokenizer.train()
    assert model.transformer.token_dropout.p > 0
    spec = FeatureSpec("reverse", "image", 1)
    torch.testing.assert_close(encode(model, images, [spec])[spec], encode(small_model, images, [spec])[spec])
    assert model.transformer.training and model.tokenizer.training
    assert not ImageEncoder(model).transformer.training


@pytest.mark.parametrize("several", [{"context": ["single", "reverse"]}, {"read": ["image", "instruction"]}])
def test_tokens_are_encoded_in_one_context_and_read(small_model: Model, several: dict[str, Any]) -> None:
    tokens = torch.zeros(1, small_model.transformer.config.num_tokens, dtype=torch.long)
    with pytest.raises(TypeError, match=f"{next(iter(several))} must be one name, got"):
        encode_tokens(small_model.transformer, tokens, layers=[1], **several)


@pytest.mark.parametrize(
    ("spec", "error", "named"),
    [
        ("reverse/image/3", IndexError, "layer 3.* 3 layers"),
        ("single/query/1", ValueError, "read.*'query'"),
    ],
)
def test_a_feature_that_the_model_lacks_is_refused_before_work(
    small_model: Model, monkeypatch: pytest.MonkeyPatch, spec: str, error: type[Exception], named: str
):
    monkeypatch.setattr(small_model.tokenizer, "encode", lambda pixels: pytest.fail("images were tokenized"))
    with pytest.raises(error, match=named):
        encode(small_model, torch.rand(1, 3, 16, 16), ["single/image/0", spec])


def test_what_is_no_model_is_refused_by_type(small_model: Model):
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    for wrong in (None, "randar-tiny", small_model.tokenizer):
        with pytest.raises(TypeError, match="a model"):
            encode_tokens(wrong, tokens)  # type: ignore[arg-type]


def test_complex_numbers_are_no_indices(small_model: Model):
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    for given, classes in ((tokens, 1j), (tokens, torch.tensor([1j])), (tokens + 0j, None)):
        with pytest.raises(ValueError, match=r"integers.*complex"):
            encode_tokens(small_model, given, classes)
