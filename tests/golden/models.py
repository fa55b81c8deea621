"""Models filled with the deterministic weights of the golden files, and those files' contents."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from randar_features import sequence
from randar_features.hub.weights import build_empty
from randar_features.models import ARCHITECTURES, ImageTransformer, RandAR
from tests.golden.deterministic_weights import fill_

FOLDER = Path(__file__).parent


@cache
def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of `name.safetensors` and the published configuration in its metadata."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        metadata = file.metadata() or {}
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(metadata.get("config", "{}"))  # noqa: SIM118


def golden_model(name: str) -> ImageTransformer:
    """The model of a golden file, whose name begins with its architecture, in evaluation mode."""
    published = golden(name)[1]
    build, sizes = ARCHITECTURES[name.partition("_")[0]]
    config = sizes(
        num_layers=published["n_layer"],
        num_heads=published["n_head"],
        dim=published["dim"],
        vocab_size=published["vocab_size"],
        num_tokens=published["block_size"],
        num_classes=published["num_classes"],
    )
    model = build_empty(lambda: build(config)).eval()  # fresh weights would not be used
    fill_(model.state_dict())
    return model.requires_grad_(False)


def golden_randar(name: str = "randar_small") -> RandAR:
    """`golden_model` of a RandAR."""
    model = golden_model(name)
    assert isinstance(model, RandAR)
    return model


def raster_tokens(name: str) -> Tensor:
    """The golden file's tokens in raster order; PAR's are recorded in its own."""
    tokens = golden(name)[0]["idx"]
    return sequence.to_raster(tokens, sequence.group_order(tokens.shape[1])) if name == "par_small" else tokens
