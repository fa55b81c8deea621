"""The tokenizer on a frozen network: what its encoder sees, and that it never changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from randar_features.hub.weights import build_empty, check_state_dict
from randar_features.tokenizers import NetworkTokenizer
from randar_features.tokenizers.base import Codebook
from randar_features.tokenizers.network import TiledCodebook
from tests.tokenizers.small import random_images, small_network


def test_the_encoder_sees_the_networks_maps_and_mean_colours() -> None:
    tokenizer = small_network()
    pixels = random_images(2, 3, 16, 24) * 2 - 1
    seen = tokenizer.encoder(pixels)
    assert tokenizer.encoder.widths == [32, 48, 12] and seen.shape == (2, 92, 4, 6)
    network = tokenizer.encoder.network
    large = F.interpolate(pixels, scale_factor=2.0, mode="bicubic")
    maps = network.forward_intermediates(large, indices=[1, 2], intermediates_only=True)
    for part, expected in zip(seen[:, :80].split([32, 48], dim=1), maps, strict=True):
        torch.testing.assert_close(part, F.interpolate(expected, size=(4, 6), mode="bilinear"), atol=1e-5, rtol=1e-5)
    # red of the upper right 2x2 pixels of the cell in row 1, column 2
    torch.testing.assert_close(seen[0, 80 + 1, 1, 2], pixels[0, 0, 4:6, 10:12].mean(), atol=1e-6, rtol=0)


def test_dilated_convolutions_give_more_places_of_the_same_maps() -> None:
    sizes = {"network": "tf_efficientnet_lite0", "stages": (4,), "channels": 32, "code_dim": 8, "vocab_size": 16}
    usual, dilated = NetworkTokenizer(**sizes), NetworkTokenizer(**sizes, output_stride=16)
    dilated.load_state_dict(usual.state_dict())
    large = random_images(1, 3, 320, 320)
    with torch.inference_mode():
        coarse, fine = (
            each.encoder.network.forward_intermediates(large, indices=[4], intermediates_only=True)[0]
            for each in (usual, dilated)
        )
    assert coarse.shape[-2:] == (10, 10) and fine.shape[-2:] == (20, 20)
    size = coarse.abs().mean()
    same, other = ((fine[:, :, place, place] - coarse[:, :, 4, 4]).abs().mean() / size for place in (9, 8))
    assert same < 1e-3 and other > 1e-2


def test_the_network_stays_as_it_is_in_training() -> None:
    tokenizer = small_network()
    images = random_images(4, 3, 16, 16)
    before = tokenizer.encode(images)
    statistics = {name: value.clone() for name, value in tokenizer.encoder.state_dict().items()}
    tokenizer.requires_grad_(True).train()
    tokenizer.encoder.requires_grad_(False)
    tokenizer(images).reconstruction.mean().backward()
    assert not any(module.training for module in tokenizer.encoder.modules()) and tokenizer.decoder.training
    assert all(torch.equal(value, statistics[name]) for name, value in tokenizer.encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in tokenizer.encoder.parameters())
    assert torch.equal(tokenizer.encode(images), before)


def test_later_stages_are_left_out_and_no_counter_is_saved() -> None:
    tokenizer, deeper = small_network(), small_network(stages=(1, 3))
    names = set(tokenizer.state_dict())
    assert not any("num_batches_tracked" in name for name in names)
    assert sum(name.startswith("encoder") for name in deeper.state_dict()) > sum(
        name.startswith("encoder") for name in names
    )


def test_a_file_of_weights_is_loaded_strictly() -> None:
    first, second = small_network(), build_empty(small_network)
    state = first.state_dict()
    second.load_state_dict(dict(state))  # without torch's own versions, as a safetensors file has none
    images = random_images(1, 3, 16, 16)
    assert torch.equal(second.encode(images), first.encode(images))
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    check_state_dict(state, shapes, "weights")
    del state["encoder.network.conv1.0.weight" if "encoder.network.conv1.0.weight" in state else next(iter(state))]
    with pytest.raises(ValueError, match="weights"):
        check_state_dict(state, shapes, "weights")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"network": "resnet_of_nobody"}, "resnet_of_nobody"),
        ({"network": "hf-hub:timm/resnet18.a1_in1k"}, "hf-hub"),
        ({"stages": ()}, "stages"),
        ({"stages": (2, 1)}, "stages"),
        ({"stages": (9,)}, "9"),
        ({"colors": 3}, "colors = 3"),
        ({"enlarge": 0}, "enlarge"),
        ({"output_stride": 4}, "output_stride = 4"),
        ({"tile": 3}, "tile = 3"),
        ({"network": "vgg11", "output_stride": 16}, "vgg11"),
    ],
)
def test_arguments_that_cannot_be_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        small_network(**changes)


def test_an_image_and_its_mirror_image_are_not_the_same() -> None:
    tokenizer: NetworkTokenizer = small_network()
    images = random_images(1, 3, 16, 16)
    assert not torch.equal(tokenizer.encode(images), tokenizer.encode(images.flip(3)))


def test_each_place_of_a_tile_has_its_own_codes_and_channels() -> None:
    codebook = TiledCodebook(vocab_size=8, code_dim=8, tile=2)
    east, west = [1.0, 0.0], [-1.0, 0.0]
    with torch.no_grad():
        codebook.embedding.weight.copy_(torch.tensor([east, west] * 4))
    latents = torch.full((1, 8, 3, 2), 0.1)
    latents[0, 0, 0, 0] = 5.0  # codebook 0, channels 0 and 1: east
    latents[0, 2, 0, 1] = -5.0  # codebook 1, channels 2 and 3: west
    latents[0, 4, 1, 0] = -5.0
    latents[0, 6, 1, 1] = 5.0
    latents[0, 0, 2, 0] = -5.0  # the next tile
    latents[0, 0, 2, 1] = -5.0  # a channel of codebook 0 at a place of codebook 1: not looked at
    tokens = codebook.nearest(latents)
    assert tokens.tolist() == [[0, 3, 5, 6, 1, 2]]
    expected = torch.zeros(6, 8)
    expected[[0, 3, 5], [0, 6, 2]] = torch.tensor([1.0, 1.0, 1.0])
    expected[[1, 2, 4], [2, 4, 0]] = -1.0
    assert torch.equal(codebook.lookup(tokens)[0], expected)
    assert torch.equal(codebook.weight()[tokens[0]], expected)
    compared, codes, found = codebook(latents)
    assert torch.equal(found, tokens) and torch.equal(codes.flatten(2)[0].T, expected)
    assert torch.equal(
        compared != 0,
        (codebook.weight()[tokens[0]].unflatten(1, (4, 2)) != 0)
        .any(2)
        .repeat_interleave(2, 1)
        .T.unflatten(1, (3, 2))[None],
    )


def test_a_graph_can_hold_a_tiled_codebook() -> None:
    with FakeTensorMode():  # raises where a shape depends on numbers, as torch.export does
        codebook = TiledCodebook(vocab_size=8, code_dim=8, tile=2)
        assert codebook.nearest(torch.zeros(2, 8, 3, 5)).shape == (2, 15)


def test_one_codebook_is_a_tile_of_one() -> None:
    tiled = TiledCodebook(vocab_size=12, code_dim=6, tile=1)
    plain = Codebook(vocab_size=12, code_dim=6, unit_length=True)
    plain.load_state_dict(tiled.state_dict())
    latents = random_images(2, 6, 4, 4) - 0.5
    for own, expected in zip(tiled(latents), plain(latents), strict=True):
        torch.testing.assert_close(own, expected)
    torch.testing.assert_close(tiled.weight(), plain.weight())


def test_tokens_of_tiles_go_to_images_and_back() -> None:
    tokenizer = small_network(tile=2, vocab_size=16, code_dim=8)
    images = random_images(2, 3, 16, 16)
    tokens = tokenizer.encode(images)
    side = int(tokens.shape[1] ** 0.5)
    place = torch.arange(side)
    codebooks = (place[:, None] % 2 * 2 + place % 2).flatten()
    assert torch.equal(tokens // 4, codebooks.expand(2, -1))
    assert tokenizer.decode(tokens).shape == images.shape
