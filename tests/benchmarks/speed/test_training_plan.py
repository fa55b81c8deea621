from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.result import read_result
from benchmarks.run import main
from benchmarks.speed import training_plan
from benchmarks.speed.training_plan import Config, activation_bytes, kept_bytes, plan
from randar_features.models import ARCHITECTURES
from randar_features.training.distributed import HardwareConfig
from randar_features.training.generator.recipe import TrainingConfig

MODEL = {"num_layers": 6, "num_heads": 2, "dim": 32, "ffn_multiple_of": 32}
DATA: dict[str, Any] = {"recipe": "", "vocab_size": 100, "num_tokens": 64, "num_classes": 10}


def recipe(*, model: dict[str, Any] | None = None, **options: Any) -> TrainingConfig:
    hardware = HardwareConfig(**{name: options.pop(name) for name in list(options) if hasattr(HardwareConfig, name)})
    return TrainingConfig(model=MODEL | (model or {}), batch_size=64, hardware=hardware, **options)


def sizes(kind: str) -> Any:
    return ARCHITECTURES[kind][1](**MODEL, vocab_size=100, num_tokens=64, num_classes=10)


def test_parameters_states_and_days_of_the_published_recipe_by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(training_plan, "activation_bytes", lambda *_: 2.0**30)
    arguments = ["--recipe", "randar_l.yaml", "--gpus", "4", "--gpu", "A100", "--mfu", "0.5", "--out", str(tmp_path)]
    assert main("training_plan", ["hardware.micro_batch_size=64", *arguments]) == 0
    content = read_result(tmp_path)
    assert "4 × A100, 50 % of 312 TFLOP/s each" in content["card"]["protocol"]
    (printed,) = content["results"]
    assert printed["parameters"] == 342_912_000
    weights = 4 * 342_912_000 / 2**30
    assert float(printed["weights_gib"]) == pytest.approx(weights, abs=0.005)
    assert float(printed["total_gib"]) == pytest.approx(5 * weights + 1, abs=0.05)
    days = 360_000 * 1024 * 996.5e9 / (4 * 312e12 * 0.5) / 86400
    assert float(printed["days"]) == pytest.approx(days, rel=2e-3)
    assert float(printed["epochs"]) == pytest.approx(360_000 * 1024 / 1_281_167, rel=2e-3)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_what_is_measured_on_a_few_tokens_scales_to_all(kind: str, mixed_precision: str):
    options = recipe(mixed_precision=mixed_precision)
    dtype = torch.float32 if mixed_precision == "no" else torch.bfloat16
    scaled = activation_bytes(sizes(kind), kind, options, 1) - 2 * 4 * 64 * 100
    # PAR's mask grows with the square of the tokens, and is left out: at a real width it is next to nothing.
    tolerance = 0.06 if kind == "par" else 0.03
    assert scaled == pytest.approx(kept_bytes(sizes(kind), kind, dtype), rel=tolerance)


def test_bytes_of_one_tensor_by_hand():
    """Of x² and x·w with a parameter w: x once, which both keep."""
    model, x = torch.nn.Linear(3, 3, bias=False), torch.ones(5, 3, requires_grad=True)
    with training_plan.keeping(model) as kept:
        _ = model(x * 2).sum() + (x * x).sum()
    assert sorted(kept.values()) == [5 * 3 * 4, 5 * 3 * 4]  # x, and 2·x


def test_checkpointing_keeps_the_inputs_of_the_blocks():
    plain, recomputed = (
        activation_bytes(sizes("randar"), "randar", recipe(mixed_precision="no", gradient_checkpointing=on), 2)
        for on in (False, True)
    )
    one, two = (
        activation_bytes(replace(sizes("randar"), num_layers=n), "randar", recipe(mixed_precision="no"), 2)
        for n in (1, 2)
    )
    assert plain == pytest.approx(one + 5 * (two - one))
    assert recomputed == pytest.approx(two + 5 * 2 * 2 * 64 * 4 * 32)  # 5 blocks' inputs of 2 images' 128 rows


def test_sharded_and_muon_states_by_hand():
    whole = plan(Config(**DATA, gpus=4), recipe())
    sharded = plan(Config(**DATA, gpus=4), recipe(shard_weights=True))
    assert sharded["parameters"] == whole["parameters"]
    for name in ("weights_gib", "gradients_gib", "optimizer_gib", "average_gib"):
        assert sharded[name] == whole[name] / 4
    matrices = 6 * (4 * 32 * 32 + 3 * 32 * 96)
    muon = plan(Config(**DATA, gpus=4), recipe(muon_learning_rate=0.01))
    assert (whole["optimizer_gib"] - muon["optimizer_gib"]) * 2**30 == pytest.approx(4 * matrices)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": "Voodoo"}, "peak of a 'Voodoo' is not known"),
        ({"gpus": 3}, "a batch of 64 in parts of 21 does not"),
        ({"gpus": 0}, "gpus = 0"),
        ({"mfu": 40.0}, "share of the peak.*40"),
    ],
)
def test_plans_that_cannot_be_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        plan(Config(**DATA | options), recipe())
