"""Networks of others: names, weights of files and packages, and an answer at once where there are none."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from randar_features.baselines import IMAGENET_LABELS, PACKAGES, NetworkName, is_network, load_network, parse_network
from tests.small_models import put_in_cache


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, nn.Module]:
    torch.manual_seed(1)
    model = timm.create_model("test_resnet", pretrained=False).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors", model


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm:resnet18", NetworkName("resnet18")),
        ("timm:resnet18.a1_in1k@96", NetworkName("resnet18.a1_in1k", 96)),
        ("timm:resnet18?random@96", NetworkName("resnet18", 96, random=True)),
        ("timm:resnet18@96?random", NetworkName("resnet18", 96, random=True)),
        ("timm:resnet18@96=a@b=c.pth", NetworkName("resnet18", 96, Path("a@b=c.pth"))),
        ("timm:hf-hub:timm/resnet18.a1_in1k", NetworkName("hf-hub:timm/resnet18.a1_in1k")),
        ("timm:hf-hub:me/net@main@96", NetworkName("hf-hub:me/net@main", 96)),
        ("timm:hf-hub:me/net@v1?random", NetworkName("hf-hub:me/net@v1", random=True)),
        ("efficientnet-lite0@128", NetworkName("tf_efficientnet_lite0", 128, package="efficientnet-lite0")),
        ("efficientnet-lite1=x.pth", NetworkName("tf_efficientnet_lite1", None, Path("x.pth"))),
    ],
)
def test_names(name: str, expected: NetworkName):
    assert is_network(name) and parse_network(name) == expected


@pytest.mark.parametrize("name", ["timm:resnet18@x", "timm:resnet18?random=x.pth", "timm:resnet18=", "efficientnet"])
def test_names_that_are_none(name: str):
    with pytest.raises(ValueError, match="expected"):
        parse_network(name)


def test_weights_of_a_file(weights: tuple[Path, nn.Module]):
    path, model = weights
    network: Any = load_network(f"timm:test_resnet@64={path}")
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(network.module.forward_features(images), model.forward_features(images))  # type: ignore[operator]
    assert network.image_size == 64 and len(network.weights) == 16 and network.supervision is None
    assert not network.module.training and not any(p.requires_grad for p in network.module.parameters())


def test_the_classifier_where_it_is_wanted(weights: tuple[Path, nn.Module], tmp_path: Path):
    path, model = weights
    network: Any = load_network(f"timm:test_resnet@64={path}", classifier=True)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(network.module(images), model(images)) and network.module(images).shape == (2, 1000)
    headless = {name: value for name, value in model.state_dict().items() if not name.startswith("fc.")}
    torch.save(headless, tmp_path / "headless.pth")
    load_network(f"timm:test_resnet={tmp_path / 'headless.pth'}")
    with pytest.raises(ValueError, match=r"fc\.weight"):
        load_network(f"timm:test_resnet={tmp_path / 'headless.pth'}", classifier=True)


def test_other_names_in_the_same_order(weights: tuple[Path, nn.Module], tmp_path: Path):
    _, model = weights
    renamed = {f"_{name.replace('conv', 'convolution')}": value for name, value in model.state_dict().items()}
    torch.save(renamed, tmp_path / "renamed.pth")
    network: Any = load_network(f"timm:test_resnet={tmp_path / 'renamed.pth'}")
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(network.module.forward_features(images), model.forward_features(images))  # type: ignore[operator]


def test_weights_of_another_network_are_refused(weights: tuple[Path, nn.Module], tmp_path: Path):
    with pytest.raises(ValueError, match="does not fit"):
        load_network(f"timm:test_vit={weights[0]}")
    lacking = dict(list(weights[1].state_dict().items())[:-4])
    torch.save(lacking, tmp_path / "lacking.pth")
    with pytest.raises(ValueError, match="missing"):
        load_network(f"timm:test_resnet={tmp_path / 'lacking.pth'}")


def test_code_in_a_file_is_not_run(tmp_path: Path):
    torch.save({"a": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match=r"bomb\.pth"):
        load_network(f"timm:test_resnet={tmp_path / 'bomb.pth'}")
    assert not (tmp_path / "ran").exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_random_weights_are_those_of_a_seed():
    one, two = load_network("timm:test_resnet?random"), load_network("timm:test_resnet?random")
    assert one.weights == "random (seed 0)"
    assert all(torch.equal(a, b) for a, b in zip(one.module.parameters(), two.module.parameters(), strict=True))


def test_random_weights_leave_the_random_numbers_of_all_devices_alone(monkeypatch: pytest.MonkeyPatch):
    seeded: list[int] = []
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    load_network("timm:test_resnet?random")
    assert torch.equal(torch.get_rng_state(), before) and not seeded


def test_offline_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError, match=r"timm:test_vit\?random"):
        load_network("timm:test_vit")
    assert time.perf_counter() - start < 5


HUB_NAME = "timm:hf-hub:me/tiny.a1_in1k"


def test_a_repository_of_the_hub_in_the_cache(
    weights: tuple[Path, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, model = weights
    about = {"input_size": [3, 64, 64], "num_classes": 1000, "classifier": "fc"}
    config = {"architecture": "test_resnet", "num_classes": 1000, "pretrained_cfg": about}
    (tmp_path / "config.json").write_text(json.dumps(config))
    path.rename(tmp_path / "model.safetensors")
    for file in ("config.json", "model.safetensors"):
        put_in_cache(tmp_path / "hub", "me/tiny.a1_in1k", "a" * 40, tmp_path / file)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    network: Any = load_network(HUB_NAME)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(network.module.forward_features(images), model.forward_features(images))  # type: ignore[operator]
    assert network.image_size == 64 and network.supervision == IMAGENET_LABELS


def test_a_repository_that_is_not_here_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"me/tiny.*timm:NAME=FILE") as caught:
        load_network(HUB_NAME)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="OWNER/NAME"):
        load_network("timm:hf-hub:tiny")


@pytest.mark.parametrize("name", PACKAGES)
def test_weights_of_a_package(name: str):
    pytest.importorskip(PACKAGES[name].module)
    network: Any = load_network(f"{name}@32")
    assert network.supervision == IMAGENET_LABELS and network.image_size == 32
    assert network.scale(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)).unique().tolist() == [-1, 1]
    assert network.module.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 1280, 1, 1)
