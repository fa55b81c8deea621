"""Codes of a tokenizer on a frozen network: the projection, and a tokenizer that loads and whose decoder trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from randar_features import load_tokenizer
from randar_features.store.files import read_json
from randar_features.tokenizers import NetworkTokenizer
from randar_features.tokenizers.folder import tokenizer_hash
from randar_features.training.loop import run
from randar_features.training.tokenizer.network_codes import clusters, fit_network_tokenizer, projection, take_decoder
from tests.training.small import CONFIG, random_images, small_tokenizer_trainer

SIZES: dict[str, Any] = {
    "stages": [1], "colors": 2, "channels": 32, "channel_multipliers": [1, 1], "latent_channels": 16, "stem_patch": 2,
    "vocab_size": 20, "code_dim": 8,
}  # fmt: skip


def test_each_part_gets_its_share_of_the_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(500, 3, generator=generator) * 7 + 2, torch.randn(500, 2, generator=generator) / 9 - 1]
    weight, bias = projection(parts, [3.0, 1.0], 5)
    reduced = F.linear(torch.cat(parts, dim=1), weight, bias)
    torch.testing.assert_close(reduced.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    variance = reduced.var(0, unbiased=False)
    torch.testing.assert_close(variance[:3].sum(), torch.tensor(0.75), atol=1e-4, rtol=0)
    torch.testing.assert_close(variance[3:].sum(), torch.tensor(0.25), atol=1e-4, rtol=0)
    covariance = torch.cov(reduced.T)
    assert (covariance[:3, :3] - covariance[:3, :3].diag().diag()).abs().max() < 1e-4


def test_the_components_with_the_most_variance_are_kept() -> None:
    part = torch.randn(400, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 0.1, 5.0])
    colors = torch.randn(400, 1, generator=torch.Generator().manual_seed(1))
    weight, _ = projection([part, colors], [1.0, 0.1], 3)
    assert set(weight.abs().argmax(dim=1).tolist()) == {1, 3, 4}


def test_codebooks_share_the_components_and_all_have_the_colours() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(500, 4, generator=generator) * 3, torch.randn(500, 3, generator=generator) + 1]
    weight, bias = projection(parts, [3.0, 1.0], 10, codebooks=2)
    variance = F.linear(torch.cat(parts, dim=1), weight, bias).var(0, unbiased=False).view(2, 5)
    torch.testing.assert_close(variance[:, :2].sum(), torch.tensor(0.75), atol=1e-4, rtol=0)
    torch.testing.assert_close(variance[:, 2:].sum(1), torch.full((2,), 0.125), atol=1e-4, rtol=0)
    torch.testing.assert_close(weight[2:5], weight[7:])
    assert torch.linalg.matrix_rank(weight[[0, 1, 5, 6]]) == 4


def test_clusters_are_directions() -> None:
    centres = F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    noise = 0.01 * torch.randn(4, 50, 6, generator=torch.Generator().manual_seed(2))
    found = clusters(F.normalize(centres[:, None] + noise, dim=-1).flatten(0, 1), 12, seed=0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(12))
    assert ((found @ centres.T) > 0.999).any(0).all()


def test_each_codebook_is_clustered(tmp_path: Path) -> None:
    sizes = SIZES | {"tile": 2, "code_dim": 20}
    images, state = list(random_images(count=30)), torch.get_rng_state()
    tokenizer = fit_network_tokenizer(
        "timm:test_resnet?random", images, tmp_path / "codes", sizes=sizes, shares=[2.0, 1.0], image_size=8
    )
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are none of its own
    loaded, _ = load_tokenizer(tmp_path / "codes", device="cpu")
    tokens = loaded.encode(random_images(count=40))
    assert torch.equal(tokens, tokenizer.encode(random_images(count=40)))
    assert tokens.unique().numel() == 20
    torch.testing.assert_close(loaded.quantize.weight().norm(dim=1), torch.ones(20), atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[NetworkTokenizer, Path]:
    folder = tmp_path_factory.mktemp("codes")
    images = [Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()) for image in random_images(count=30)]
    tokenizer = fit_network_tokenizer(
        "timm:test_resnet?random", images, folder / "codes", sizes=SIZES, shares=[2.0, 1.0], image_size=8
    )
    return tokenizer, folder / "codes"


def test_the_file_gives_the_tokens_that_were_clustered(fitted: tuple[NetworkTokenizer, Path]) -> None:
    tokenizer, folder = fitted
    loaded, image_size = load_tokenizer(folder, device="cpu")
    images = random_images(count=40)
    assert image_size == 8 and tokenizer_hash(loaded) == tokenizer_hash(tokenizer)
    assert torch.equal(loaded.encode(images), tokenizer.encode(images))
    assert loaded.encode(images).unique().numel() == 20
    about = read_json(folder / "config.json")
    assert about["tokenizer"] == {"type": "network", "network": "test_resnet", **SIZES}
    assert about["tokenizer_training"]["shares"] == [2.0, 1.0]


def test_its_decoder_trains_and_its_tokens_stay(fitted: tuple[NetworkTokenizer, Path], tmp_path: Path) -> None:
    tokenizer, folder = fitted
    options = {"train": "decoder", "initial": str(folder), "network": {}, "total_steps": 30, "learning_rate": 0.01}
    trainer = small_tokenizer_trainer(tmp_path / "pixels", **options)
    before = trainer.evaluate()["validation_psnr"]
    assert run(trainer, tmp_path / "run", replace(CONFIG, evaluate_every=30, checkpoint_every=30))
    assert trainer.evaluate()["validation_psnr"] > before + 0.5
    polished, _ = load_tokenizer(tmp_path / "run/model", device="cpu")
    images = random_images(count=40)
    tokens = tokenizer.encode(images)
    assert torch.equal(polished.encode(images), tokens)
    assert not torch.equal(polished.decode(tokens), tokenizer.decode(tokens))


def test_a_trained_decoder_draws_other_codes_of_the_same_cells(fitted: tuple[NetworkTokenizer, Path]) -> None:
    trained, folder = fitted
    images = random_images(count=40)
    arguments: dict[str, Any] = {"sizes": SIZES, "shares": [2.0, 1.0], "image_size": 8, "seed": 0}
    tokenizer, _ = load_tokenizer(folder, "cpu")
    frame, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():  # the same codes in another frame and order
        tokenizer.quant_conv.weight.copy_((frame @ tokenizer.quant_conv.weight[:, :, 0, 0])[..., None, None])
        tokenizer.quant_conv.bias.copy_(frame @ tokenizer.quant_conv.bias)
        tokenizer.quantize.embedding.weight.copy_((tokenizer.quantize.embedding.weight @ frame.T).flip(0))
        for parameter in [*tokenizer.decoder.parameters(), *tokenizer.post_quant_conv.parameters()]:
            parameter.zero_()
    take_decoder(tokenizer, trained, [images])
    drawn, expected = tokenizer.decode(tokenizer.encode(images)), trained.decode(trained.encode(images))
    torch.testing.assert_close(drawn, expected, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="other sizes"):
        wider = SIZES | {"latent_channels": 24}
        fit_network_tokenizer(
            "timm:test_resnet?random", list(images), folder / "wide", **arguments | {"sizes": wider}, decoder=trained
        )


def test_training_its_encoder_is_refused(fitted: tuple[NetworkTokenizer, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train=decoder"):
        small_tokenizer_trainer(tmp_path, train="all", initial=str(fitted[1]), network={})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"network": "timm:test_efficientnet?random"}, "test_efficientnet"),  # ImageNet's mean and deviation
        ({"shares": [1.0]}, "shares"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    arguments = {"network": "timm:test_resnet?random", "sizes": SIZES, "shares": [1.0, 1.0], "image_size": 8} | changes
    with pytest.raises(ValueError, match=named):
        fit_network_tokenizer(arguments.pop("network"), ["absent.png"], tmp_path / "codes", **arguments)
