from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks import classification
from benchmarks.encoders import Images, read_images, variants
from probes import LogisticProbe, stratified_holdout
from randar_features import Model, encode_tokens
from tests.small_models import IMAGE_SIZE, VOCAB_SIZE, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes by colour, 16 images each, and noise."""
    root, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir()
        for index in range(16):
            picture = rng.integers(0, 200, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
            picture[..., 2 - label] = np.minimum(255, picture[..., 2 - label] + 90)
            Image.fromarray(picture).save(root / name / f"{index:02d}.png")
    return root


@pytest.fixture(scope="module")
def images(folder: Path) -> Images:
    return read_images(folder, image_size=IMAGE_SIZE)


def test_variants_are_the_features_they_say(images: Images, small_model: Model):
    pixels = images.pixels.float() / 255
    tokens = small_model.tokenizer.encode(pixels)
    (raw,) = variants("pixels", images, model=small_model)
    assert torch.equal(raw.vectors, F.adaptive_avg_pool2d(pixels, 32).flatten(1))
    vectors, histogram = variants("codes", images, model=small_model, batch_size=5)
    assert torch.equal(vectors.vectors, small_model.tokenizer.codes(tokens).flatten(1))
    assert torch.equal(
        histogram.vectors, torch.stack([torch.bincount(row, minlength=VOCAB_SIZE) for row in tokens]).float()
    )
    found = {v.name: v for v in variants("small", images, model=small_model, batch_size=5)}
    assert len(found) == 3 * 2 * (3 + 1)
    for context, read, layer in (("single", "image", 0), ("reverse", "instruction", 2)):
        expected = encode_tokens(small_model.transformer, tokens, layers=layer, context=context, read=read).mean(
            (2, 3)
        )[:, 0]
        torch.testing.assert_close(found[f"{context} {read} layer {layer}"].vectors, expected, atol=1e-5, rtol=1e-5)
    joined = found["repeat image all layers"].vectors
    torch.testing.assert_close(joined[:, 32:64], found["repeat image layer 1"].vectors)


def test_several_orders_are_averaged(images: Images, small_model: Model):
    from randar_features.encoding import encode_orders

    few = Images(images.pixels[:3], images.labels[:3], None)
    tokens = small_model.tokenizer.encode(few.pixels.float() / 255)
    options = {"contexts": ["reverse"], "reads": ["image"], "orders": 4}
    found = {v.name: v for v in variants("small", few, model=small_model, **options)}
    expected = encode_orders(small_model.transformer, tokens, orders=4, layers=1).mean((2, 3))[:, 0]
    torch.testing.assert_close(found["reverse image layer 1"].vectors, expected, atol=1e-5, rtol=1e-5)


def test_the_command_reports_what_the_probe_gives(
    folder: Path, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = write_folder(tmp_path / "model")
    arguments = ["--data", str(folder), "--encoder", "pixels", str(model)]
    arguments += ["--evaluation-rows", "9", "--contexts", "reverse", "--reads", "image", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["classification", *arguments])
    classification.main()
    report = json.loads((tmp_path / "out/result.json").read_text())
    assert report["config"]["evaluation_rows"] == 9
    by_name = {result["variant"]: result for result in report["results"]}
    assert set(by_name) == {"32x32", *(f"reverse image layer {i}" for i in range(3)), "reverse image all layers"}

    # By hand: three rows of each class are held back, the probe never sees them.
    vectors = F.adaptive_avg_pool2d(images.pixels.float() / 255, 32).flatten(1).numpy()
    labels = images.labels.numpy()
    kept, held_out = stratified_holdout(labels, fraction=9 / 48, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [3, 3, 3]
    probe = LogisticProbe(seed=0).fit(vectors[kept], labels[kept])
    expected = float((probe.predict(vectors[held_out]) == labels[held_out]).mean())
    assert by_name["32x32"]["accuracy"] == expected
    assert by_name["32x32"]["chosen"]["C"] == probe.C
    assert "| pixels | 32x32 | 3072 |" in (tmp_path / "out/result.md").read_text()


def test_unusable_data_is_refused(folder: Path, tmp_path: Path, small_model: Model):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/a.png").write_bytes((folder / "blue/00.png").read_bytes())
    with pytest.raises(ValueError, match=r"1 of 1 images of .*plain have no label"):
        read_images(tmp_path / "plain", image_size=16)
    options = {"data": str(folder), "encoder": ["pixels"], "contexts": ["reverse"], "reads": ["image"]}
    with pytest.raises(ValueError, match="48 images cannot hold back 48"):
        classification.run(classification.Config(**options, evaluation_rows=48), {"pixels": small_model})
    sorted_by_class = classification.Config(**options, evaluation_rows=16, hold_out="last")
    with pytest.raises(ValueError, match=r"the last 16 rows hold none of 2 classes, \[0, 1\]"):
        classification.run(sorted_by_class, {"pixels": small_model})


def test_the_last_rows_are_held_back_when_asked_for():
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    config = classification.Config(data="", encoder=[], contexts=[], reads=[], evaluation_rows=3, hold_out="last")
    kept, held_out = classification.hold_out(labels, config)
    assert kept.tolist() == [0, 1, 2] and held_out.tolist() == [3, 4, 5]


def test_an_unreadable_image_is_left_out_and_named(folder: Path, tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes((folder / "blue/00.png").read_bytes())
    (tmp_path / "a/1.jpg").write_text("no picture")
    images = read_images(tmp_path, image_size=16)
    assert images.labels.tolist() == [0, 1]
    assert [(bad["row"], Path(bad["path"]).name) for bad in images.unreadable] == [(1, "1.jpg")]


def test_splits_of_other_classes_are_refused(folder: Path, tmp_path: Path, small_model: Model):
    for split, names in (("train", "abc"), ("validation", "ac")):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.png").write_bytes((folder / "blue/00.png").read_bytes())
    config = classification.Config(
        data=str(tmp_path), encoder=[], contexts=[], reads=[], train_split="train", evaluation_split="validation"
    )
    with pytest.raises(
        ValueError, match=r"are \['a', 'b', 'c'\], those of validation are \['a', 'c'\]"
    ):
        classification.run(config, {"pixels": small_model})


def test_fewer_training_rows_are_of_all_classes(images: Images):
    few = classification.fewer(images, 6, seed=0)
    assert torch.bincount(few.labels).tolist() == [2, 2, 2]
    assert classification.fewer(images, None, seed=0) is images
    with pytest.raises(ValueError, match="at least 1, got 0"):
        classification.fewer(images, 0, seed=0)
