"""Models filled with the deterministic weights of the golden files, and those files' contents."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from randar_features.models import RandAR, RandARConfig
from tests.golden.deterministic_weights import fill_

FOLDER = Path(__file__).parent


@cache
def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of `name.safetensors` and the published configuration in its metadata."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        metadata = file.metadata() or {}
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(metadata.get("config", "{}"))  # noqa: SIM118


def golden_randar(name: str = "randar_small") -> RandAR:
    """The RandAR of a golden file, in evaluation mode."""
    published = golden(name)[1]
    model = RandAR(
        RandARConfig(
            num_layers=published["n_layer"],
            num_heads=published["n_head"],
            dim=published["dim"],
            vocab_size=published["vocab_size"],
            num_tokens=published["block_size"],
            num_classes=published["num_classes"],
        )
    ).eval()
    fill_(model.state_dict())
    return model.requires_grad_(False)
