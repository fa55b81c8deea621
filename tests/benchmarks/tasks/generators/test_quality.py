from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.tasks.generators.quality import Config, measure
from randar_features import load_model, sequence
from tests.small_models import IMAGE_SIZE, write_folder


def test_figures_equal_those_by_hand(tmp_path: Path):
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    for label in range(3):
        (folder / str(label)).mkdir(parents=True)
        pixels = rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / str(label) / "0.png")
    (folder / "1/bad.png").write_bytes(b"no image")
    model = load_model(write_folder(tmp_path / "model"), device="cpu")
    found = measure(Config(model=str(tmp_path / "model"), data=str(folder), images=3, orders=2), tmp_path)
    result = found.results[0]
    assert found.warnings == ["1 images could not be read"]

    files = sorted(folder.rglob("0.png"))
    images = torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255 for file in files])
    tokens = model.tokenizer.encode(images)
    error = (model.tokenizer.decode(tokens) - images).square().mean((1, 2, 3))
    assert result["tokenizer_psnr"] == pytest.approx((-10 * error.log10()).mean().item(), abs=1e-4)
    for classes, name in ((torch.arange(3), "nats_per_token"), (None, "nats_per_token_null_class")):
        losses = []
        for order in sequence.antithetic_orders(2, 16):
            logits = model.transformer(tokens, classes, order)
            losses.append(F.cross_entropy(logits.flatten(0, 1), tokens[:, order].flatten()))
        assert result[name] == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)


@pytest.mark.parametrize(("architecture", "trained"), [("llamagen", "random"), ("randar", "raster")])
def test_a_model_of_one_order_is_measured_in_it(tmp_path: Path, architecture: str, trained: str):
    folder = tmp_path / "images" / "0"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "0.png")
    model = load_model(write_folder(tmp_path / "model", architecture=architecture, training={"order": trained}))
    config = Config(model=str(tmp_path / "model"), data=str(folder.parent), images=1, orders=8)
    result = measure(config, tmp_path).results[0]
    tokens = model.tokenizer.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    expected = F.cross_entropy(model.transformer(tokens, torch.tensor([0]))[0], tokens[0]).item()
    assert result["likelihood_orders"] == 1 and result["nats_per_token"] == pytest.approx(expected, abs=1e-5)
