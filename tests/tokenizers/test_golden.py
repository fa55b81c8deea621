"""The full-size tokenizers against numbers recorded from the published implementations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from randar_features.hub.weights import build_empty
from randar_features.tokenizers import ImageTokenizer, LlamaGenTokenizer, MaskGITTokenizer
from tests.golden.deterministic_weights import fill_

GOLDEN = Path(__file__).parents[1] / "golden"
TOKENIZERS = {"llamagen": LlamaGenTokenizer, "maskgit": MaskGITTokenizer}
TOLERANCE = 2e-4


class Recorded(NamedTuple):
    name: str
    tokenizer: ImageTokenizer
    golden: dict[str, Tensor]
    images: Tensor


@pytest.fixture(scope="module", params=list(TOKENIZERS))
def recorded(request: pytest.FixtureRequest) -> Iterator[Recorded]:
    tokenizer = build_empty(TOKENIZERS[request.param]).eval()  # first values would not be used
    fill_(tokenizer.state_dict())
    golden = load_file(GOLDEN / f"tokenizer_{request.param}.safetensors")
    images = golden["pixels"].permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        yield Recorded(request.param, tokenizer, golden, images)


def test_state_dict_has_the_published_names_shapes_and_order(recorded: Recorded) -> None:
    published = json.loads((GOLDEN / f"tokenizer_{recorded.name}_state_dict.json").read_text())
    state = recorded.tokenizer.state_dict()
    assert [(name, [list(t.shape), str(t.dtype)]) for name, t in state.items()] == list(published.items())


def test_latents_and_tokens(recorded: Recorded) -> None:
    latents = recorded.tokenizer.latents(recorded.images)
    torch.testing.assert_close(latents, recorded.golden["latents"], atol=TOLERANCE, rtol=0)
    tokens = recorded.tokenizer.quantize_latents(latents)
    same = tokens == recorded.golden["tokens"]
    assert tokens.dtype == torch.int64
    assert same[recorded.golden["code_margin"] > 1e-3].all()
    assert same.float().mean() >= 0.995


def test_recorded_latents_give_the_recorded_tokens(recorded: Recorded) -> None:
    tokens = recorded.tokenizer.quantize_latents(recorded.golden["latents"])
    clear = recorded.golden["code_margin"] > 1e-5
    assert torch.equal(tokens[clear], recorded.golden["tokens"][clear])


def test_reconstruction(recorded: Recorded) -> None:
    raw = recorded.tokenizer.decode_raw(recorded.golden["tokens"])
    assert raw.shape == (1, 3, 256, 256)
    every_fourth = raw[..., ::4, ::4]
    torch.testing.assert_close(every_fourth, recorded.golden["reconstruction"], atol=TOLERANCE, rtol=0)
    low, high = recorded.tokenizer.raw_range
    images = ((every_fourth - low) / (high - low)).clamp(0, 1)
    pixels = recorded.tokenizer.to_uint8(images).int()
    difference = (pixels - recorded.golden["reconstruction_uint8"].int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() <= 1e-3
