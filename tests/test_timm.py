"""The models in timm's registry: made by its factory, and found by what builds on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config

import randar_features as rf
import randar_features.timm
from randar_features.hub.published import PUBLISHED
from tests.small_models import small_published, write_folder, write_published

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def encoder() -> rf.ImageEncoder:
    return rf.ImageEncoder("randar-tiny")


def test_the_names_are_registered() -> None:
    assert {"randar_tiny", "randar_l_llamagen", "llamagen_b", "par_3b_4x", "arpg_xxl"} <= set(timm.list_models())
    assert {"randar_tiny", "randar_xl"} <= set(timm.list_pretrained("randar*"))
    config = timm.get_pretrained_cfg("par_xl_4x")
    assert config.input_size == (3, 384, 384) and config.hf_hub_id == "Epiphqny/PAR"


def test_pretrained_is_the_encoder_with_a_head_and_its_own_scaling(encoder: rf.ImageEncoder) -> None:
    model = timm.create_model("randar_tiny", pretrained=True, num_classes=5)
    torch.testing.assert_close(model.forward_features(IMAGES), encoder.forward_features(IMAGES))
    assert model(IMAGES).shape == (2, 5)
    model.reset_classifier(0)
    torch.testing.assert_close(model(IMAGES), encoder(IMAGES))
    config = resolve_model_data_config(model)
    assert config["input_size"] == (3, 64, 64) == model.default_cfg["input_size"]
    assert config["mean"] == (0.0, 0.0, 0.0) and config["std"] == (1.0, 1.0, 1.0) and config["crop_pct"] == 1.0


def test_features_only_gives_maps(encoder: rf.ImageEncoder) -> None:
    model = timm.create_model("randar_tiny", pretrained=True, features_only=True, out_indices=(1, -1))
    expected = encoder.forward_intermediates(IMAGES, indices=[1, -1], intermediates_only=True)
    for found, one in zip(model(IMAGES), expected, strict=True):
        torch.testing.assert_close(found, one)
    assert model.feature_info.channels() == [192, 192] and model.feature_info.reduction() == [8, 8]
    blocks = [encoder.get_submodule(name) for name in model.feature_info.module_name()]
    assert blocks == [encoder.transformer.blocks[1], encoder.transformer.blocks[-1]]
    assert resolve_model_data_config(model)["input_size"] == (3, 64, 64)


def test_options_of_the_encoder_pass_through(encoder: rf.ImageEncoder) -> None:
    model = timm.create_model("randar_tiny", pretrained=True, layer=0, context="single", read="instruction")
    assert (model.layer, model.context, model.read) == (0, "single", "instruction")


def test_without_pretrained_the_weights_are_initial_values_of_the_seed() -> None:
    def made() -> torch.Tensor:
        torch.manual_seed(3)
        return timm.create_model("randar_tiny")(IMAGES)

    first, second = made(), made()
    assert torch.equal(first, second) and torch.isfinite(first).all() and first.std() > 0


def test_published_files_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = small_published(PUBLISHED["randar-l-llamagen"])
    write_published(tmp_path / "files", source)
    monkeypatch.setitem(PUBLISHED, source.name, source)
    place = {"file": str(tmp_path / "files"), "input_size": (3, 16, 16)}
    model = timm.create_model("randar_l_llamagen", pretrained=True, pretrained_cfg_overlay=place)
    assert model(IMAGES[..., :16, :16]).shape == (2, 32)
    folder = {"file": str(write_folder(tmp_path / "own")), "input_size": (3, 16, 16)}
    assert timm.create_model("randar_tiny", pretrained=True, pretrained_cfg_overlay=folder).num_features == 32


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"in_chans": 1}, ValueError, "in_chans=1"),
        ({"img_size": 32}, ValueError, "img_size=32"),
        ({"global_pool": "max"}, ValueError, "global_pool"),
        ({"global_pool": ""}, ValueError, "global_pool"),
        ({"layer": 9}, IndexError, "layer 9"),
        ({"drop_path_rate": 0.1}, TypeError, "drop_path_rate"),
        ({"cache_dir": "here"}, ValueError, "cache_dir"),
        ({"pretrained_cfg_overlay": {"url": "https://example.org/weights"}}, ValueError, "FOLDER"),
    ],
)
def test_what_the_model_does_not_have_is_refused(options: dict[str, Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        timm.create_model("randar_tiny", **options)


def test_backbones_of_transformers_find_it(encoder: rf.ImageEncoder) -> None:
    transformers = pytest.importorskip("transformers")
    backbone = transformers.TimmBackbone.from_pretrained("randar_tiny", out_indices=(1, 3))
    expected = encoder.forward_intermediates(IMAGES, indices=[1, 3], intermediates_only=True)
    for found, one in zip(backbone(IMAGES).feature_maps, expected, strict=True):
        torch.testing.assert_close(found, one)
    assert backbone.channels == [192, 192]
