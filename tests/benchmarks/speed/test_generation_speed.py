from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.reference.published_loop import published_generate
from benchmarks.run import main
from benchmarks.speed import generation_speed
from benchmarks.speed.generation_speed import cache_bytes, fed, seen_lengths, work
from randar_features import generate
from randar_features.models import RandAR
from tests.golden.models import golden, golden_randar

MODEL = golden_randar()
RECORDED = golden("randar_small")[0]


@pytest.mark.parametrize("name", [name for name in RECORDED if name.startswith("generate.")])
def test_the_restated_loop_gives_the_published_tokens(name: str):
    steps, scales = name.removeprefix("generate.steps").split(".cfg")
    start, end = map(float, scales.split("-"))
    classes, order = RECORDED["cond"], RECORDED["order"]
    tokens = published_generate(MODEL, classes, order, steps=int(steps), guidance=(start, end), top_k=1)
    assert torch.equal(tokens, RECORDED[name])


def test_tokens_fed_and_seen():
    # [class P1] [x1 P2 P3] [x2 P3 x3 P4] of N = 4 in the steps 1, 2, 1
    assert fed([1, 2, 1]) == [2, 3, 4]
    assert seen_lengths([1, 2, 1]) == [2, 5, 8]


def test_work_is_that_of_the_layers():
    counted: list[int] = []
    hooks = [
        module.register_forward_hook(
            lambda layer, inputs, _: counted.append(2 * inputs[0].numel() * layer.out_features)
        )
        for module in MODEL.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    generate(MODEL, [1], steps=5, generator=0)
    for hook in hooks:
        hook.remove()
    from randar_features.generation.schedule import decoding_schedule

    schedule = decoding_schedule(16, 5)
    weights, operations = work(MODEL, 1, schedule)
    assert weights == sum(layer.weight.numel() for layer in MODEL.modules() if isinstance(layer, torch.nn.Linear))
    attention = (
        4 * 64 * 3 * 2 * sum(n * s for n, s in zip(fed(schedule), seen_lengths(schedule), strict=True)) / len(schedule)
    )
    # The last block's output and feed-forward layers run at the step's instructions only.
    last = MODEL.layers[-1]
    behind = last.attention.wo.weight.numel() + sum(p.numel() for p in last.feed_forward.parameters())
    saved = 2 * 2 * behind * (sum(fed(schedule)) - 16)
    assert (operations - attention) * len(schedule) == pytest.approx(sum(counted) + saved)
    assert cache_bytes(MODEL, 1, [1, 2, 1]) == 2 * 3 * 2 * 64 * 4 * 5
    assert cache_bytes(MODEL, 1, [1, 2, 1], torch.bfloat16.itemsize) == 2 * 3 * 2 * 64 * 2 * 5


def test_a_small_run_writes_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(generation_speed, "memory_bandwidth", lambda device: 1e10)
    monkeypatch.setattr(generation_speed, "matrix_peak", lambda dtype, device: 1e11)
    monkeypatch.setattr(generation_speed, "fastest_dtype", lambda device: torch.bfloat16)
    sizes = [
        "--layers",
        "2",
        "--heads",
        "2",
        "--dim",
        "32",
        "--vocab-size",
        "50",
        "--tokens",
        "16",
        "--steps",
        "6",
        "--repeats",
        "1",
    ]
    assert main("generation_speed", [*sizes, "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "result.json").read_text())
    assert [(row["way"], row["steps"]) for row in content["results"]] == [
        (way, steps)
        for steps in (6, 16)
        for way in ("published loop", "float32", "packed float32", "packed float16 weights", "packed bfloat16")
    ]
    assert all(row["seconds"] > 0 and row["floor_per_step"] > 0 for row in content["results"])
    seconds = [row["seconds"] for row in content["results"]]
    assert content["card"]["details"]["gain_over_single_steps"]["float32"] == pytest.approx(seconds[6] / seconds[1])
    assert content["card"]["details"]["peak_flops"] == {"torch.float32": 1e11, "torch.bfloat16": 1e11}
    assert "published loop, " in capsys.readouterr().out


def test_on_a_gpu_the_fastest_format_is_recorded_and_compiled(monkeypatch: pytest.MonkeyPatch):
    compiled: list[RandAR] = []
    monkeypatch.setattr(generation_speed, "compile_steps", compiled.append)
    monkeypatch.setattr(generation_speed, "fastest_dtype", lambda device: torch.bfloat16)
    every = generation_speed.ways(MODEL, 2, "cpu:0")  # a processor that goes by another name than "cpu"
    names = ["published loop", "float32", "packed bfloat16"]
    assert [way.name for way in every] == [
        *names,
        "packed bfloat16, recorded",
        "packed bfloat16, compiled, recorded",
    ]
    *_, first, second, third = (way.run(4) for way in every)
    assert torch.equal(first, second) and torch.equal(first, third) and first.shape == (2, 16)
    assert len(compiled) == 1 and compiled[0] is not MODEL
