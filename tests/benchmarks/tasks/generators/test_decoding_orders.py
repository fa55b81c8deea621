from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.run import main
from benchmarks.tasks.generators.decoding_orders import parallel_log_likelihood, tokens_of
from randar_features import Model, log_likelihood, sequence
from tests.generation.full_pass import step_logits
from tests.small_models import write_folder


def test_one_token_a_step_is_the_log_likelihood(small_model: Model):
    tokens = torch.randint(40, (3, 16), generator=torch.Generator().manual_seed(0))
    found = parallel_log_likelihood(small_model, tokens, order="spiral", steps=-1)
    expected = log_likelihood(small_model.transformer, tokens, None, sequence.spiral_order(16))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_tokens_of_a_step_are_scored_given_those_of_the_steps_before(small_model: Model):
    tokens = torch.randint(40, (2, 16), generator=torch.Generator().manual_seed(1))
    found = parallel_log_likelihood(small_model, tokens, order="raster", steps=1)  # 1, then 15
    logits = step_logits(small_model.transformer, 3, list(range(16)), [int(tokens[0, 0])], 15)
    expected = logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
    torch.testing.assert_close(found[0, 1:], expected, atol=1e-5, rtol=0)


def test_a_small_run_writes_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    folder = str(write_folder(tmp_path / "model"))
    arguments = [
        "--model",
        folder,
        "--images",
        "5",
        "--orders",
        "random",
        "hierarchical",
        "--steps",
        "-1",
        "4",
    ]
    assert main("decoding_orders", [*arguments, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "result.json").read_text())["results"]
    assert [(row["orders"], row["steps"]) for row in rows] == [
        (order, steps) for order in ("random", "hierarchical") for steps in (-1, 4)
    ]
    assert all(row["nats_per_token"] > 0 for row in rows) and "hierarchical" in capsys.readouterr().out


def test_tokens_of_a_folder(small_model: Model, tmp_path: Path):
    from PIL import Image

    for number in range(3):
        Image.new("RGB", (20, 16), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
    assert tokens_of(small_model, str(tmp_path), 2).shape == (2, 16)
