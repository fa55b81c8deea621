from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from randar_features.training.checkpoint import load_state, save_state
from tests.training.small import same


def state() -> dict[str, Any]:
    return {
        "weights": {"a.b": torch.arange(6.0).view(2, 3), "half": torch.ones(3, dtype=torch.bfloat16)},
        "optimizer": [{"state": {0: {"step": torch.tensor(3.0)}}, "betas": (0.9, 1e-300), "fused": None}],
        "count": 3,
        "empty": {},
    }


def test_what_is_saved_comes_back(tmp_path: Path):
    save_state(tmp_path, state(), file_bytes=1000)
    loaded = load_state(tmp_path)
    assert same(loaded, state())
    assert type(loaded["optimizer"][0]["betas"]) is tuple
    assert list(loaded["optimizer"][0]["state"]) == [0]  # an integer, as it was
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "optimizer-00001.safetensors",
        "state.json",
        "weights-00001.safetensors",
    ]


def test_files_are_bounded_unless_one_tensor_is_larger(tmp_path: Path):
    weights = {str(index): torch.full((size,), float(index)) for index, size in enumerate((10, 10, 10, 40, 1))}
    save_state(tmp_path, {"weights": weights}, file_bytes=80)
    held = [sorted(load_file(path)) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert held == [["weights/0", "weights/1"], ["weights/2"], ["weights/3"], ["weights/4"]]
    assert same(load_state(tmp_path)["weights"], weights)


def test_memory_lies_as_it_did(tmp_path: Path):
    """A fused optimizer goes through weight and moments in the order of memory, whatever the strides say."""
    convolution = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    save_state(tmp_path, {"weights": convolution.state_dict()}, file_bytes=1000)
    loaded = load_state(tmp_path)["weights"]
    assert loaded["weight"].stride() == convolution.weight.stride() != torch.empty(4, 3, 3, 3).stride()
    assert same(loaded, dict(convolution.state_dict()))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"a": {"b": {1, 2}}}, "a/b is a set, which a checkpoint cannot hold"),
        ({"a": {(1, 2): 3}}, r"a has the key \(1, 2\), expected a string or an integer"),
    ],
)
def test_what_cannot_be_held_is_named(tmp_path: Path, bad: dict[str, Any], message: str):
    with pytest.raises(TypeError, match=message):
        save_state(tmp_path, bad, file_bytes=1000)
