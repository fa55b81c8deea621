from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.reference.published_training import PublishedTraining, training_logits
from benchmarks.run import main
from benchmarks.speed import training_speed
from benchmarks.speed.training_speed import RECIPE, Config, make_trainer
from randar_features.training.distributed import HardwareConfig
from randar_features.training.generator import trainer as trainer_module
from randar_features.training.generator.trainer import RandARTrainer
from tests.golden.models import golden, golden_randar

SMALL = {"num_layers": 2, "num_heads": 2, "dim": 16, "vocab_size": 12, "num_tokens": 9}
DROPOUT_OFF = {"token_dropout": 0.0, "residual_dropout": 0.0}


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(training_speed.SIZES, "small", SMALL)


def small_pair(**options: Any) -> tuple[RandARTrainer, PublishedTraining]:
    """Our trainer and the published loop in float32: the same weights, none of them zero, and no dropout."""
    config = Config(model="small", batch_size=6).resolved()
    hardware = HardwareConfig(mixed_precision="no", micro_batch_size=options.pop("micro_batch_size", 6))
    ours = make_trainer(config, model_options=DROPOUT_OFF, ema_decay=0.5, hardware=hardware, **options)
    torch.nn.init.normal_(ours.model.output.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    recipe = RECIPE | {"ema_decay": 0.5, "gradient_clip": ours.config.gradient_clip}
    other = make_trainer(config, model_options=DROPOUT_OFF).model
    other.load_state_dict(ours.model.state_dict())
    return ours, PublishedTraining(other, micro_batch_size=3, **recipe)


def test_logits_equal_the_published_models():
    tensors = golden("randar_small")[0]
    model = golden_randar()
    tokens, classes = tensors["idx"], torch.zeros(len(tensors["idx"]), dtype=torch.long)
    order = torch.stack(
        [torch.randperm(16, generator=torch.Generator().manual_seed(row)) for row in range(len(tokens))]
    )
    torch.testing.assert_close(
        training_logits(model, tokens, classes, order), model(tokens, classes, order), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 2}, {"gradient_clip": 0.01}])
def test_both_loops_give_the_same_losses_norms_and_weights(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]):
    ours, published = small_pair(**options)
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    original = trainer_module.next_token_loss

    def record(model: torch.nn.Module, *batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch)  # type: ignore[arg-type]
        return original(model, *batch)

    monkeypatch.setattr(trainer_module, "next_token_loss", record)
    for step in range(4):
        seen.clear()
        figures = ours.train_step(step)
        loss, norm = published.train_step(*(torch.cat(parts) for parts in zip(*seen, strict=True)))
        assert figures["loss"] == pytest.approx(loss, rel=1e-5)
        assert figures["gradient_norm"] == pytest.approx(norm, rel=1e-4)
        assert 2 < loss < 3 and norm > 0.01
    for name, weight in published.model.named_parameters():
        torch.testing.assert_close(ours.model.get_parameter(name), weight, atol=2e-5, rtol=1e-4)


def test_the_published_loop_draws_permutations_and_moves_the_average():
    _, published = small_pair()
    torch.manual_seed(0)
    orders = published.draw_orders(torch.zeros(5, 9, dtype=torch.long))
    assert torch.equal(orders.sort(dim=1).values, torch.arange(9).expand(5, -1))
    assert len(orders.unique(dim=0)) == 5
    before = published.average.output.weight.clone()
    published.train_step(torch.zeros(6, 9, dtype=torch.long), torch.zeros(6, dtype=torch.long))
    moved = published.average.output.weight
    torch.testing.assert_close(moved, (before + published.model.output.weight) / 2)
    assert not torch.equal(moved, before)


def test_the_published_loop_skips_a_step_that_explodes():
    _, published = small_pair()
    published.skip_norm, published.skip_after = 0.0, 1
    weights = []
    for _ in range(2):
        published.train_step(torch.zeros(6, 9, dtype=torch.long), torch.zeros(6, dtype=torch.long))
        weights.append(published.model.output.weight.clone())
    assert torch.equal(*weights)


@pytest.mark.parametrize("way", training_speed.WAYS)
def test_each_way_is_measured(way: str):
    config = Config(model="small", batch_size=4, repeats=2).resolved()
    measured = training_speed.measure_way(way, config)
    assert len(measured["losses"]) == 3 and measured["losses"][0] == pytest.approx(2.4849, abs=1e-3)  # ln 12
    assert measured["seconds"] > 0 and measured["processor_seconds"] > 0 and measured["memory_bytes"] > 2**26


def test_the_report_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    measured = {
        "published": {"seconds": 4.0, "processor_seconds": 6.0, "memory_bytes": 400, "losses": [1.0]},
        "this package": {"seconds": 2.0, "processor_seconds": 4.0, "memory_bytes": 300, "losses": [1.0]},
    }
    monkeypatch.setattr(training_speed, "measure_way", lambda way, config: dict(measured[way]))
    monkeypatch.setattr(training_speed, "apart", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(training_speed, "matrix_peak", lambda dtype, device: 1e9)
    monkeypatch.setattr(training_speed, "training_flops", lambda sizes: 2e8)
    arguments = ["--model", "small", "--batch-size", "5", "--out", str(tmp_path)]
    assert main("training_speed", [*arguments]) == 0
    content = json.loads((tmp_path / "result.json").read_text())
    (result,), resolved = content["results"], content["card"]["details"]["resolved"]
    assert resolved["batch_size"] == 5 and resolved["layers"] == 2
    assert (result["speedup"], result["speedup_of_processor_time"], result["memory_share"]) == (2.0, 1.5, 0.75)
    assert result["speedup_at_peak"] == 4.0  # 5 images of 0.2 GFLOP take a second at the peak
    assert (result["published_mfu"], result["this package_mfu"]) == (0.25, 0.5)
    assert result["this package_images_per_second"] == 2.5


@pytest.mark.parametrize(
    ("options", "message"),
    [({"model": "randar-xxl"}, "expected one of randar-l"), ({"published_dtype": "int8"}, "float32, bfloat16")],
)
def test_options_that_cannot_be_are_refused(options: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message):
        Config(**options).resolved()
