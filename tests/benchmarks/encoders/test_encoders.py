"""The contract that every encoder of the benchmarks keeps, and what each of them adds to it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.datasets import open_data
from benchmarks.encoders import Encoder, extract, generators, load_encoder, load_encoders
from benchmarks.encoders.extract import file_name
from probes.pooling import POOLINGS, pool
from randar_features import Model, encode_tokens
from randar_features.data import PhotoDigits
from randar_features.hub.weights import weights_hash
from randar_features.models import ARCHITECTURES
from tests.small_models import IMAGE_SIZE, NUM_CLASSES, TRANSFORMER, VOCAB_SIZE, write_folder

SISTERS = [kind for kind in ARCHITECTURES if kind != "randar"]
NAMES = [
    "pixels",
    "histogram",
    "codes",
    "latents",
    "small",
    "small, 2 orders",
    *SISTERS,
    "timm:test_vit?random@32",
    "timm:resnet10t?random",
]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def encoders(small_model: Model) -> Mapping[str, Encoder]:
    plain = ("pixels", "histogram", "timm:test_vit?random@32", "timm:resnet10t?random")
    loaded = {name: load_encoder(name, device="cpu") for name in plain}
    for kind in ("codes", "latents"):
        loaded[kind] = load_encoder(f"{kind}:{small_model.name}", device="cpu")
    loaded |= {kind: load_encoder(small_sister(kind, small_model)) for kind in SISTERS}
    loaded["small"] = load_encoder(small_model)
    loaded["small, 2 orders"] = load_encoder(small_model, contexts=["reverse"], orders=2)
    return loaded


def small_sister(kind: str, model: Model) -> Model:
    """A generator of four blocks over the tokens of another."""
    architecture, configuration = ARCHITECTURES[kind]
    transformer = architecture(configuration(**TRANSFORMER | {"num_layers": 4})).eval().requires_grad_(False)
    transformer.initialize(torch.Generator().manual_seed(0))
    return replace(model, name=kind, transformer=transformer, weights_hash="of-the-sister")


@pytest.fixture(params=NAMES)
def encoder(request: pytest.FixtureRequest, encoders: Mapping[str, Encoder]) -> Encoder:
    return encoders[request.param]


def images_for(encoder: Encoder, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, encoder.image_size, encoder.image_size, generator=generator)


def modules_of(encoder: Encoder) -> list[nn.Module]:
    found = [value for value in vars(encoder).values() if isinstance(value, nn.Module)]
    models = [value for value in vars(encoder).values() if isinstance(value, Model)]
    return found + [module for model in models for module in (model.transformer, model.tokenizer)]


class TestContract:
    def test_shapes(self, encoder: Encoder):
        maps = encoder.encode(images_for(encoder))
        assert list(maps) == list(encoder.outputs) and maps
        for values in maps.values():
            assert values.dtype == torch.float32 and values.ndim == 4
            assert values.shape[0] == 3 and values.shape[1] == values.shape[2]
            assert torch.isfinite(values).all() and not values.requires_grad

    def test_details(self, encoder: Encoder):
        for details in encoder.outputs.values():
            assert {"layer", "context", "read", "norm", "orders"} <= details.keys()

    def test_images_of_a_batch_do_not_touch_each_other(self, encoder: Encoder):
        images = images_for(encoder)
        together = encoder.encode(images)
        for name, values in encoder.encode(images[1:2]).items():
            torch.testing.assert_close(values, together[name][1:2], **TOLERANCE)

    def test_the_same_twice(self, encoder: Encoder):
        images = images_for(encoder)
        first, second = encoder.encode(images), encoder.encode(images)
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_images_differ(self, encoder: Encoder):
        for name, values in encoder.encode(images_for(encoder)).items():
            assert not torch.equal(values[0], values[1]), name

    def test_one_output_is_the_same_as_among_all(self, encoder: Encoder):
        images = images_for(encoder)
        everything, last = encoder.encode(images), list(encoder.outputs)[-1]
        alone = encoder.encode(images, [last])
        assert list(alone) == [last]
        torch.testing.assert_close(alone[last], everything[last], **TOLERANCE)

    def test_weights_are_untouched(self, encoder: Encoder):
        modules = modules_of(encoder)
        before = [weights_hash(module) for module in modules]
        encoder.encode(images_for(encoder).requires_grad_())
        assert [weights_hash(module) for module in modules] == before
        assert not any(module.training for module in modules)
        assert not any(parameter.requires_grad for module in modules for parameter in module.parameters())
        assert bool(modules) == (encoder.weights != "none")

    def test_wrong_images(self, encoder: Encoder):
        side = encoder.image_size
        with pytest.raises(ValueError, match=rf"images \(b, 3, {side}, {side}\), got \(1, 3, {side}, {side + 1}\)"):
            encoder.encode(torch.zeros(1, 3, side, side + 1))
        with pytest.raises(ValueError, match=r"got \(1, 1,"):
            encoder.encode(torch.zeros(1, 1, side, side))
        with pytest.raises(ValueError, match=r"got \(3,"):
            encoder.encode(torch.zeros(3, side, side))
        with pytest.raises(TypeError, match=r"got torch.uint8"):
            encoder.encode(torch.zeros(1, 3, side, side, dtype=torch.uint8))
        with pytest.raises(TypeError, match="got ndarray"):
            encoder.encode(np.zeros((1, 3, side, side), dtype=np.float32))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"expected pixels in \[0, 1\], got values from 0 to 255"):
            encoder.encode(255 * torch.eye(side).expand(1, 3, side, side))

    def test_wrong_outputs(self, encoder: Encoder):
        with pytest.raises(ValueError, match="has no output 'depth': its outputs are"):
            encoder.encode(images_for(encoder), ["depth"])
        with pytest.raises(ValueError, match="empty list of outputs"):
            encoder.encode(images_for(encoder), [])

    def test_features_are_kept(self, encoder: Encoder, tmp_path: Path):
        images = images_for(encoder)
        options: dict[str, Any] = {"folder": tmp_path, "dtype": "float32", "progress": False, "pooling": "max"}
        store = extract(encoder, images, **options)
        maps = encoder.encode(images)
        for name in encoder.outputs:
            torch.testing.assert_close(torch.from_numpy(store.array(name)), pool(maps[name], "max"), **TOLERANCE)
        assert (store.manifest["encoder"], store.manifest["weights"]) == (encoder.name, encoder.weights)


def test_pixels():
    image = images_for(load_encoder("pixels"), 1)
    maps = load_encoder("pixels").encode(image)
    assert maps["32x32"].shape == (1, 1, 1, 3072) and maps["patches"].shape == (1, 8, 8, 192)
    assert maps["32x32"].view(3, 32, 32)[1, 4, 5].item() == pytest.approx(image[0, 1, 8:10, 10:12].mean().item())
    assert torch.equal(maps["patches"][0, 2, 3].view(3, 8, 8), image[0, :, 16:24, 24:32])


def test_histogram():
    image = torch.zeros(1, 3, 64, 64)
    image[0, 0, :16] = 1.0  # a quarter is red
    counts = load_encoder("histogram").encode(image)["8x8x8"].view(8, 8, 8)
    assert counts[7, 0, 0].item() == 0.25 and counts[0, 0, 0].item() == 0.75 and counts.sum().item() == 1


def test_codes_and_latents(encoders: Mapping[str, Encoder], small_model: Model):
    images, tokenizer = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE), small_model.tokenizer
    tokens, maps = tokenizer.encode(images), encoders["codes"].encode(images)
    assert torch.equal(maps["vectors"].flatten(1, 2), tokenizer.codes(tokens))
    counts = torch.stack([row.bincount(minlength=VOCAB_SIZE) for row in tokens]) / tokens.shape[1]
    assert torch.equal(maps["histogram"][:, 0, 0], counts)
    latents = encoders["latents"].encode(images)["latents"]
    assert torch.equal(tokenizer.quantize_latents(latents.permute(0, 3, 1, 2)), tokens)
    assert encoders["codes"].weights == encoders["latents"].weights == weights_hash(tokenizer)


def test_a_generator_has_every_layer_context_and_read(encoders: Mapping[str, Encoder], small_model: Model):
    encoder = encoders["small"]
    assert len(encoder.outputs) == 3 * 3 * 2 and encoder.weights == small_model.weights_hash
    images = images_for(encoder)
    tokens, maps = small_model.tokenizer.encode(images), encoder.encode(images)
    for name, details in encoder.outputs.items():
        assert name == f"{details['context']}/{details['read']}/{details['layer']}"
        options = {"layers": details["layer"], "context": details["context"], "read": details["read"]}
        torch.testing.assert_close(maps[name], encode_tokens(small_model.transformer, tokens, **options)[:, 0])
    null = torch.full((3,), NUM_CLASSES)
    expected = encode_tokens(small_model.transformer, tokens, null, layers=1)[:, 0]
    torch.testing.assert_close(maps["reverse/image/1"], expected)


@pytest.mark.parametrize("kind", SISTERS)
def test_a_sister_has_the_views_that_go_together(encoders: Mapping[str, Encoder], kind: str):
    encoder: Any = encoders[kind]
    images, transformer = images_for(encoder), encoder.model.transformer
    tokens, maps = encoder.model.tokenizer.encode(images), encoder.encode(images)
    assert {details["read"] for details in encoder.outputs.values()} == set(transformer.reads)
    for name, details in encoder.outputs.items():
        options = {axis: details[axis] for axis in ("context", "read")}
        expected = encode_tokens(transformer, tokens, layers=details["layer"], **options)[:, 0]
        torch.testing.assert_close(maps[name], expected, **TOLERANCE)


def test_timm_maps_and_pooled_vector(encoders: Mapping[str, Encoder]):
    encoder: Any = encoders["timm:test_vit?random@32"]
    assert encoder.weights == "random (seed 0)" and encoder.image_size == 32
    images = images_for(encoder)
    maps = encoder.encode(images)
    normed = (images - encoder.network.mean) / encoder.network.std
    features = encoder.model.forward_features(normed)
    torch.testing.assert_close(maps["pooled"][:, 0, 0], encoder.model.forward_head(features))
    last = encoder.model.norm(maps["layer 5"].flatten(1, 2))
    torch.testing.assert_close(last, features[:, encoder.model.num_prefix_tokens :])
    again: Any = load_encoder("timm:test_vit?random@32")
    assert weights_hash(again.model) == weights_hash(encoder.model)


@pytest.mark.parametrize(
    ("name", "grid"), [("test_resnet?random@96", 3), ("test_resnet?random@100", 4), ("test_vit?random@48", 3)]
)
def test_timm_takes_the_size_that_is_asked_for(name: str, grid: int):
    encoder = load_encoder(f"timm:{name}")
    maps = encoder.encode(torch.rand(1, 3, encoder.image_size, encoder.image_size))
    last = f"layer {len(encoder.outputs) - 2}"
    assert encoder.image_size == int(name.partition("@")[2]) and maps[last].shape[1:3] == (grid, grid)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:test_vit@abc", "timm:test_vit@abc: expected a number of pixels after @, .* got 'abc'"),
        ("timm:test_vit@", "expected a number of pixels after @, .* got ''"),
        ("timm:test_resnet@0", "expected a number of pixels after @, .* got '0'"),
        (
            "timm:test_vit?random@100",
            r"timm:test_vit\?random@100: patches of 16 pixels do not fill 100: give a multiple",
        ),
        ("timm:test_convnext?random@8", "the model takes no 8 pixels; its own size is 160"),
    ],
)
def test_timm_sizes_that_cannot_be(name: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_encoder(name)


def test_all_encoders_are_loaded_before_the_first_is_given():
    assert [encoder.name for encoder in load_encoders(["pixels", "histogram"])] == ["pixels", "histogram"]
    with pytest.raises(ValueError, match="histograms"):
        next(load_encoders(["pixels", "histograms"]))


def test_names_that_are_none(small_model: Model):
    with pytest.raises(ValueError, match=r"timm has no model 'test_vitt'; near it: "):
        load_encoder("timm:test_vitt")
    with pytest.raises(ValueError, match="there is no model 'randar-tin'"):
        load_encoder("randar-tin")
    with pytest.raises(ValueError, match="sideways"):
        load_encoder(small_model, contexts=["sideways"])


class TestExtract:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        for number in range(6):
            (tmp_path / f"data/train/class{number % 2}").mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 256, (20, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / f"data/train/class{number % 2}/{number}.png")
        return tmp_path / "data"

    def extract(self, encoder: Encoder, data: Any, tmp_path: Path, **options: Any):
        return extract(encoder, data, folder=tmp_path / "cache", progress=False, **{"split": "train", **options})

    def test_one_more_image_costs_one_image(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        folder = tmp_path / "images"
        folder.mkdir()
        for number in (1, 2):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
        encoder = load_encoder("pixels")
        first = self.extract(encoder, folder, tmp_path, split=None)
        Image.new("RGB", (8, 8), (99, 0, 0)).save(folder / "0.png")
        read: list[int] = []
        original = encoder.encode

        def counted(images: Any, *rest: Any) -> Any:
            read.append(int(images.any(dim=(1, 2, 3)).sum()))  # the size of a shard is found with a black image
            return original(images, *rest)

        monkeypatch.setattr(encoder, "encode", counted)
        store = self.extract(encoder, folder, tmp_path, split=None)
        assert sum(read) == 1 and [Path(str(path)).name for path in store.paths] == ["0.png", "1.png", "2.png"]
        for name in store.names:
            np.testing.assert_array_equal(store.array(name)[1:], first.array(name))
        self.extract(encoder, folder, tmp_path, split=None)
        assert sum(read) == 1

    def test_labels_and_places(self, data: Path, tmp_path: Path):
        store = self.extract(load_encoder("pixels"), data, tmp_path)
        assert store.labels.tolist() == [0, 0, 0, 1, 1, 1] and store.label_names == ["class0", "class1"]
        named = "data-train"
        assert store.folder.parent == tmp_path / "cache/pixels-none" / named
        assert store.manifest["parts"][0]["data"] == named

    @pytest.mark.parametrize("pooling", [*POOLINGS, None])
    def test_poolings(self, data: Path, tmp_path: Path, pooling: str | None):
        store = self.extract(load_encoder("pixels"), data, tmp_path, pooling=pooling, outputs=["patches"])
        shapes = {
            "mean": (192,),
            "mean+deviation": (384,),
            "max": (192,),
            "flat": (12288,),
            "1x1+2x2": (960,),
            None: (8, 8, 192),
        }
        assert store.shape("patches") == shapes[pooling] and store.manifest["pooling"] == pooling

    def test_computed_once(self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        encoder = load_encoder("pixels")
        everything = self.extract(encoder, data, tmp_path)
        monkeypatch.setattr(encoder, "encode", None)
        again = self.extract(encoder, data, tmp_path)
        some = self.extract(encoder, data, tmp_path, outputs=["patches"])
        assert again.folder == some.folder == everything.folder and some.names == ["patches"]
        assert np.array_equal(some.array("patches"), everything.array("patches"))
        with pytest.raises(TypeError):
            self.extract(encoder, data, tmp_path, pooling="max")

    def test_orders_do_not_mix(self, encoders: Mapping[str, Encoder], data: Path, tmp_path: Path):
        name = "reverse/image/1"
        one = self.extract(encoders["small"], data, tmp_path, outputs=[name])
        two = self.extract(encoders["small, 2 orders"], data, tmp_path, outputs=[f"{name}/orders=2"])
        assert one.folder != two.folder and not np.allclose(one.array(name), two.array(f"{name}/orders=2"))

    def test_other_data_of_the_same_name(self, data: Path, tmp_path: Path):
        self.extract(load_encoder("pixels"), data, tmp_path)
        (data / "train/class0/0.png").unlink()
        store = self.extract(load_encoder("pixels"), data, tmp_path)
        assert len(store) == 5 and all(Path(str(path)).exists() for path in store.paths)

    def test_the_first_rows(self, data: Path, tmp_path: Path):
        encoder = load_encoder("pixels")
        everything = self.extract(encoder, data, tmp_path)
        some = self.extract(encoder, data, tmp_path, max_images=4)
        assert len(some) == 4 and some.folder.parent.name.endswith("-train-first-4")
        assert np.array_equal(some.array("patches"), everything.array("patches", range(4)))

    def test_unknown_pooling(self, data: Path, tmp_path: Path):
        with pytest.raises(ValueError, match="or None for maps; got 'median'"):
            self.extract(load_encoder("pixels"), data, tmp_path, pooling="median")


def test_photo_digits_by_name():
    source, digits = open_data("photo-digits", "validation", 32), PhotoDigits("validation", size=32)
    assert source.length == len(digits) == 359 and source.label_names == list("0123456789")
    batch = next(source.batches(32, 2))
    assert batch.labels == [digits[0].label, digits[1].label]
    assert torch.equal(batch.pixels[1], torch.from_numpy(digits[1].image).permute(2, 0, 1) / 255)
    assert open_data("photo-digits", None, 32).length == 1074
    with pytest.raises(ValueError, match="unknown split 'everything'"):
        open_data("photo-digits", "everything", 32)


class Means(nn.Module):
    """The mean colour of each quadrant."""

    image_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * nn.functional.adaptive_avg_pool2d(images, 2)


def make_means() -> nn.Module:
    return Means()


def make_names() -> list[str]:
    return ["means"]


def test_a_module_of_the_users():
    encoder = load_encoder("tests.benchmarks.encoders.test_encoders:make_means")
    images = images_for(encoder, 2)
    maps = encoder.encode(images)["features"]
    assert maps.shape == (2, 2, 2, 3) and encoder.weights == weights_hash(Means())
    torch.testing.assert_close(maps[1, 0, 1], 2 * images[1, :, :4, 4:].mean((1, 2)))
    with pytest.raises(ValueError, match="make_names must return a torch"):
        load_encoder("tests.benchmarks.encoders.test_encoders:make_names")
    with pytest.raises(ValueError, match="no function 'make_nothing'"):
        load_encoder("tests.benchmarks.encoders.test_encoders:make_nothing")


def test_a_function_of_a_file_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "encoder_of_mine.py").write_text(
        "import torch\n\ndef build():\n    return torch.nn.AdaptiveAvgPool2d(2), 8\n"
    )
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.chdir(tmp_path)
    assert load_encoder("encoder_of_mine:build").image_size == 8
    with pytest.raises(ModuleNotFoundError, match=f"no_such_file:build.*{tmp_path}"):
        load_encoder("no_such_file:build")


def test_another_number_format_is_computed_in_and_kept_apart(small_model: Model, tmp_path: Path):
    plain, half = load_encoder("timm:test_vit?random@32"), load_encoder("timm:test_vit?random@32", dtype="bfloat16")
    images = images_for(plain)
    first, second = plain.encode(images)["layer 5"], half.encode(images)["layer 5"]
    assert second.dtype == torch.float32 and not torch.equal(first, second)
    torch.testing.assert_close(first, second, rtol=0.1, atol=0.1)
    stores = [extract(each, images, folder=tmp_path, outputs=["pooled"], progress=False) for each in (plain, half)]
    assert stores[0].folder != stores[1].folder


def test_an_untrained_transformer_over_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_folder(tmp_path / "model")
    monkeypatch.setattr(generators, "UNTRAINED_SEED", 1)  # the folder's own values are of seed 0
    trained, untrained = load_encoder(str(folder)), load_encoder(f"{folder}?random")
    assert untrained.weights.startswith("random (seed 1)") and trained.name != untrained.name
    images = images_for(trained)
    name = next(iter(trained.outputs))
    assert not torch.equal(trained.encode(images)[name], untrained.encode(images)[name])


def test_a_file_takes_the_name_of_any_encoder():
    assert file_name("timm:resnet18?random@64") == "timm-resnet18-random@64"
    long = [file_name(f"/scratch/{'名' * 100}/{end}") for end in ("a", "b")]
    assert len({*long}) == 2 and all(len(name.encode()) <= 150 and "/" not in name for name in long)
