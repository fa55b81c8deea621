"""Generation and reconstruction measured: each number by hand, and what is refused before any work."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.datasets.image_npz import NpzImages, write_npz
from benchmarks.encoders.inception import InceptionEncoder, resize_clean, weights_file
from benchmarks.encoders.judges import same_classes
from benchmarks.result import read_result
from benchmarks.run import main
from benchmarks.tasks.generators import generation, judged_sets, reconstruction, sampler
from benchmarks.tasks.generators.generation import Config, lines_of
from benchmarks.tasks.generators.judged_sets import JudgedSet, JudgeOptions, merged_moments, score_of, top_1
from benchmarks.tasks.generators.sampler import Setting, class_labels, draw, guidance_at, scales_of
from probes.generation import Moments, frechet_distance, inception_score, manifold_scores
from probes.rows import TensorRows
from randar_features import Model, generate, load_model
from randar_features.data import open_images
from tests.small_models import IMAGE_SIZE, NUM_CLASSES, write_folder

pytestmark = pytest.mark.filterwarnings("ignore:frechet_distance")
RNG = np.random.default_rng


def write_images(folder: Path, count: int, seed: int = 0, size: int = IMAGE_SIZE) -> np.ndarray:
    """Noise as PNG files in folders of classes; the images (n, S, S, 3) in the order of the files."""
    images = RNG(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        place = folder / f"class {number * NUM_CLASSES // count}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:03d}.png")
    return images


OUTPUT = "single/image/1"
NAME = f"FD-model {OUTPUT}"


model_judge = cache(lambda network: JudgeOptions(network=str(network), output=OUTPUT).judge(IMAGE_SIZE))


def features_of(images: np.ndarray, network: Path) -> np.ndarray:
    """What a model makes of images (n, S, S, 3): 32 numbers each."""
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    return model_judge(network).encode(tensors)[OUTPUT].mean((1, 2)).numpy()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("generation") / "model")


def options(tmp_path: Path, network: Path | str, **more: Any) -> dict[str, Any]:
    return {"network": str(network), "output": OUTPUT, "cache": str(tmp_path / "cache"), "batch_size": 4, **more}


# What a set is drawn by


def test_scales():
    assert scales_of("1.0:3.0:0.5") == [1, 1.5, 2, 2.5, 3] and scales_of("4") == [4]
    assert scales_of("1:8:0.1")[-1] == 8 and len(scales_of("1:8:0.1")) == 71
    for bad in ("1:2", "2:1:1", "1:2:0", "a", "nan", "1:2:-1", "0:1e9:1e-3", ""):
        with pytest.raises(ValueError, match="--guidance"):
            scales_of(bad)


def test_labels():
    assert class_labels("balanced", 7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    many = class_labels("uniform", 3000, 3, seed=1)
    assert np.array_equal(many[:100], class_labels("uniform", 100, 3, seed=1))
    counts = np.bincount(many)
    assert counts.min() > 900 and len(set(counts.tolist())) > 1


def test_a_scale_means_what_is_published_with_the_model(small_model: Model):
    assert guidance_at(3.0, None, small_model.transformer) == [1.0, 3.0]
    assert guidance_at(3.0, "constant", small_model.transformer) == 3.0


def test_any_number_of_processes_draws_the_same_set(
    small_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    setting = Setting("random", 4, 2.0, [1.0, 2.0])
    about: dict[str, Any] = {"settings": {"top_k": 0}, "notes": {}, "seed": 3, "batch_size": 2}
    classes = class_labels("balanced", 7, NUM_CLASSES)
    for ranks, folder in ((1, "one"), (3, "three")):
        for rank in range(ranks):
            state = SimpleNamespace(process_index=rank, num_processes=ranks, is_main_process=rank == 0)
            state.wait_for_everyone = lambda: None
            monkeypatch.setattr(sampler, "processes", lambda state=state: state)
            files = draw(small_model, setting, classes, tmp_path / folder, **about)
    names = [file.name for file in files]
    assert names[:4] == [f"class{c:04d}_seed{3 + i:06d}.png" for i, c in enumerate((0, 1, 2, 0))]
    one, three = ([np.asarray(Image.open(tmp_path / f / name)) for name in names] for f in ("one", "three"))
    assert np.abs(np.subtract(one, three, dtype=np.int64)).max() <= 1
    tokens = generate(small_model.transformer, classes.tolist(), steps=4, guidance=(1.0, 2.0), order="random",
                      generator=torch.arange(3, 10))  # fmt: skip
    expected = small_model.tokenizer.to_uint8(small_model.tokenizer.decode(tokens)).numpy()
    assert np.abs(np.subtract(one, expected, dtype=np.int64)).max() <= 1


def test_statistics_are_merged_over_processes(monkeypatch: pytest.MonkeyPatch):
    rows = TensorRows(torch.from_numpy(RNG(0).standard_normal((23, 4))))
    parts: list[Moments] = []
    for rank in range(3):
        monkeypatch.setattr(judged_sets, "processes", lambda r=rank: SimpleNamespace(num_processes=3, process_index=r))
        monkeypatch.setattr(judged_sets, "gather_object", lambda own: parts.append(own[0]) or parts)
        merged = merged_moments(rows)
    np.testing.assert_allclose(merged.covariance, np.cov(rows.tensor.numpy(), rowvar=False), rtol=1e-10)
    assert merged.count == 23


# Images in ADM's form


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_of_an_npz(tmp_path: Path, save: Any):
    images = RNG(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    save(tmp_path / "a.npz", arr_0=images, mu=np.zeros(3))
    found = NpzImages(tmp_path / "a.npz", tmp_path / "unpacked")
    assert len(found) == 5 and isinstance(found.images, np.memmap)
    assert all(np.array_equal(found[number], images[number]) for number in range(5))


def test_samples_are_written_as_adm_reads_them(tmp_path: Path):
    images = RNG(0).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    write_npz(tmp_path / "a.npz", iter(images), 4, np.arange(4))
    with np.load(tmp_path / "a.npz") as file:
        assert np.array_equal(file["arr_0"], images) and file["arr_1"].tolist() == [0, 1, 2, 3]
    assert np.array_equal(NpzImages(tmp_path / "a.npz", tmp_path)[3], images[3])


@pytest.mark.parametrize("images", [np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4), np.uint8), np.array([None, {}])])
def test_an_npz_of_something_else_is_refused(tmp_path: Path, images: np.ndarray):
    np.savez(tmp_path / "a.npz", arr_0=images)
    with pytest.raises(ValueError, match=r"a\.npz"):
        NpzImages(tmp_path / "a.npz", tmp_path)
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(ValueError, match=r"b\.npz"):
        NpzImages(tmp_path / "b.npz", tmp_path)


# The task


def test_a_search_measures_the_best_scales_on_all_samples(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    real = write_images(tmp_path / "real", 12)
    given = ["--reference", str(tmp_path / "real"), "--model", str(model_folder), "--network", str(model_folder)]
    given += ["--output", OUTPUT, "--cache", str(tmp_path / "cache"), "--guidance", "1:3:2", "--steps", "4", "-1"]
    given += ["--orders", "raster", "--images", "9", "--coarse-images", "6", "--batch-size", "4"]
    given += ["--splits", "2", "--npz", "--save-statistics", str(tmp_path / "real.npz")]
    assert main("generation", [*given, "--out", str(tmp_path / "out")]) == 0
    result = read_result(tmp_path / "out")
    full, coarse = result["results"][:2], result["results"][2:]
    assert [row["stage"] for row in full] == ["full"] * 2 and len(coarse) == 4
    for row in full:
        same = [one for one in coarse if (one["orders"], one["steps"]) == (row["orders"], row["steps"])]
        assert row["guidance"] == min(same, key=lambda one: one[NAME])["guidance"]
        scale = f"1-{row['guidance']:g}" if row["guidance"] != 1 else "1-1"
        steps = "one-by-one" if row["steps"] == 16 else "4"
        with np.load(tmp_path / "out" / f"{row['orders']}_{steps}_{scale}.npz") as file:
            samples, classes = file["arr_0"], file["arr_1"]
        assert classes.tolist() == [0, 1, 2] * 3 and samples.shape == (9, IMAGE_SIZE, IMAGE_SIZE, 3)
        measured = features_of(real, model_folder), features_of(samples, model_folder)
        assert row[NAME] == pytest.approx(frechet_distance(*measured), rel=1e-4)
        scores = manifold_scores(*measured)
        assert [row[name] for name in scores._fields] == pytest.approx(list(scores))
        assert row["seconds_per_image"] > 0 and row["cpu_seconds_per_image"] > 0
    distances = {(row["orders"], row["steps"]): row[NAME] for row in full}
    for row in full:
        gap = row[NAME] - distances[row["orders"], 16]
        assert row[f"{NAME} above 16 steps"] == pytest.approx(gap, abs=1e-9)
    assert any(row["front"] == "yes" for row in full)
    card = result["card"]
    assert any("9 samples are few" in warning for warning in card["warnings"]) and "balanced labels" in card["protocol"]
    assert {"distance-guidance.png", "distance-steps.png", "distance-seconds.png"} <= {*result["artifacts"].values()}
    drawn = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.png")}
    monkeypatch.setattr(generation, "write_plots", lambda *_: {})
    assert len(drawn) == 2 * 9 + 2 * 6 and main("generation", [*given, "--out", str(tmp_path / "again")]) == 0
    assert drawn == {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.png")}
    again = read_result(tmp_path / "again")["results"]
    assert [row[NAME] for row in again] == [row[NAME] for row in result["results"]]


def test_classes_of_samples_are_told_by_a_probe_of_the_models_own_features(tmp_path: Path):
    folder = write_folder(tmp_path / "named")
    (folder / "classes.json").write_text(json.dumps(["class 2", "class 0", "class 1"]))
    for label in range(NUM_CLASSES):
        for number in range(10):
            place = tmp_path / "data" / f"class {label}" / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 80 * label + 40 + number, np.uint8)).save(place)
    about = options(tmp_path, folder, model=str(folder), reference=str(tmp_path / "data"), images=6)
    config = Config(**about, probe_data=str(tmp_path / "data"))
    probe = generation.own_probe(config, load_model(str(folder), device="cpu"))
    assert probe is not None and probe.accuracy > 0.6 and probe.classes.tolist() == [1, 2, 0]
    files = [tmp_path / "data" / f"class {label}" / "1.png" for label in (0, 1, 2)]
    assert probe.top_1(files, np.array([1, 2, 0]), "three") == 1
    assert probe.top_1(files, np.array([0, 1, 2]), "three") == 0
    (tmp_path / "data" / "class 0" / "10.png").write_bytes(b"no image")
    found = generation.measure(config, tmp_path)
    assert 0 <= found.results[0]["top-1 own probe"] <= 1
    assert any(warning.startswith("1 of 31 images could not be read: row ") for warning in found.warnings)
    (tmp_path / "data" / "class 0" / "10.png").unlink()
    (tmp_path / "data" / "class 0").rename(tmp_path / "data" / "lamp")
    with pytest.raises(ValueError, match="by name"):
        generation.own_probe(config, load_model(str(folder), device="cpu"))


def test_images_and_statistics_of_all_forms_give_the_same(tmp_path: Path, model_folder: Path):
    real, fake = write_images(tmp_path / "real", 12), write_images(tmp_path / "fake", 9, seed=1)
    np.savez(tmp_path / "fake.npz", arr_0=fake)
    np.save(tmp_path / "real.npy", features_of(real, model_folder))
    np.save(tmp_path / "fake.npy", features_of(fake, model_folder))
    expected = frechet_distance(features_of(real, model_folder), features_of(fake, model_folder))
    about = options(tmp_path, model_folder, reference=str(tmp_path / "real"))
    folder = Config(**about, samples=str(tmp_path / "fake"), save_statistics=tmp_path / "statistics.npz")
    statistics = {**about, "reference": str(tmp_path / "statistics.npz")}
    for config in (
        folder,
        Config(**about, samples=str(tmp_path / "fake.npz")),
        Config(**statistics, samples=str(tmp_path / "fake.npz")),
        Config(**{**about, "reference": str(tmp_path / "real.npy")}, samples=str(tmp_path / "fake.npy")),
    ):
        found = generation.measure(config, tmp_path)
        (row,) = found.results
        assert row.metric is not None and row.metrics[row.metric] == pytest.approx(expected, rel=1e-4)
        alone = config.reference.endswith("statistics.npz")
        assert ("precision" in row) is not alone
        assert row.metric == ("FD-features" if config.samples == str(tmp_path / "fake.npy") else NAME)


def test_reconstruction_compares_images_with_themselves(tmp_path: Path, small_model: Model, model_folder: Path):
    images = write_images(tmp_path / "data", 9)
    about = options(tmp_path, model_folder, data=str(tmp_path / "data"), model=str(model_folder))
    found = reconstruction.measure(
        reconstruction.Config(**about, save_statistics=tmp_path / "own.npz"), tmp_path
    ).results[0]
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    tokenizer = small_model.tokenizer
    again = tokenizer.to_uint8(tokenizer.decode(tokenizer.encode(tensors))).numpy()
    expected = frechet_distance(features_of(images, model_folder), features_of(again, model_folder))
    assert found[NAME] == pytest.approx(expected, rel=1e-3)
    given = reconstruction.Config(**about, reference=str(tmp_path / "own.npz"))
    assert reconstruction.measure(given, tmp_path).results[0][NAME] == found[NAME]


# What is refused


def test_the_built_in_images_are_a_reference_too(tmp_path: Path):
    common = {"network": "pixels", "cache": str(tmp_path), "reference": "photo-digits", "reference_images": 12}
    found = generation.measure(Config(**common, samples="photo-digits", images=12, resolution=32), tmp_path)
    assert found.results[0]["FD-pixels"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="state --resolution"):
        generation.measure(Config(**common, samples="photo-digits"), tmp_path)


def test_each_task_refuses_the_reference_of_the_other(tmp_path: Path, model_folder: Path):
    write_images(tmp_path / "data", 9)
    about = options(tmp_path, model_folder, model=str(model_folder))
    config = reconstruction.Config(**about, data=str(tmp_path / "data"), save_statistics=tmp_path / "own.npz")
    reconstruction.measure(config, tmp_path)
    with pytest.raises(ValueError, match=r"own\.npz holds statistics for reconstruction"):
        generation.measure(Config(**about, reference=str(tmp_path / "own.npz"), images=3), tmp_path)
    np.savez(tmp_path / "adm.npz", mu=np.zeros(4), sigma=np.eye(4))
    with pytest.raises(ValueError, match=r"adm\.npz holds statistics for generation"):
        reconstruction.measure(
            reconstruction.Config(**about, data=str(tmp_path / "data"), reference=str(tmp_path / "adm.npz")), tmp_path
        )
    with pytest.raises(ValueError, match="--data themselves"):
        reconstruction.Config(data="x", reference=str(tmp_path / "data"))


def test_statistics_of_other_features_are_refused(tmp_path: Path, model_folder: Path):
    write_images(tmp_path / "data", 9)
    np.savez(tmp_path / "adm.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    about = options(tmp_path, model_folder, samples=str(tmp_path / "data"))
    with pytest.raises(ValueError, match="ADM's statistics of Inception"):
        generation.measure(Config(**about, reference=str(tmp_path / "adm.npz")), tmp_path)
    saved = Config(**about, reference=str(tmp_path / "data"), save_statistics=tmp_path / "own.npz")
    generation.measure(saved, tmp_path)
    with pytest.raises(ValueError, match=r"size 16 instead of 8"):
        generation.measure(Config(**about, reference=str(tmp_path / "own.npz"), resolution=8), tmp_path)


def test_options_that_contradict_each_other():
    for wrong, named in [
        ({"samples": "a.npy"}, "file of features"),
        ({"coarse_images": 9, "images": 8}, "--coarse-images 9"),
        ({"guidance": ("1:2",)}, "--guidance"),
        ({"samples": "folder", "probe_data": "x"}, "--probe-data"),
        ({"samples": "folder", "guidance": ("2",)}, "--guidance"),
        ({"samples": "folder", "npz": True}, "--npz"),
        ({"reference": "a.npy", "samples": "b.npy", "save_statistics": Path("c.npz")}, "--save-statistics"),
        ({"labels": "sorted"}, "labels"),
        ({"k": 0}, "at least 1"),
    ]:
        with pytest.raises(ValueError, match=named):
            Config(**{"reference": "real", **wrong})  # type: ignore[arg-type]


# Classes


def test_classes_are_the_same_by_name():
    known = ["tench, Tinca tinca", "goldfish, Carassius auratus", "crane", "crane, hoist"]
    assert same_classes(["n01443537 goldfish", "Tinca-tinca", "crane", "dog"], known).tolist() == [1, 0, -1, -1]


def test_top_1_is_among_the_classes_in_common():
    probabilities = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]])
    judge: Any = SimpleNamespace(class_names=["cat", "dog", "lamp"])
    about = {"features": None, "probabilities": TensorRows(probabilities), "class_names": ["dog", "cat", "bird"]}
    moments = Moments(None, np.zeros(1), np.eye(1))
    found = JudgedSet(moments, labels=np.array([0, 1, 1, 2]), **about)  # type: ignore[arg-type]
    assert top_1(found, judge) == pytest.approx(2 / 3), "lamp is no answer, bird no question"
    assert top_1(JudgedSet(moments, labels=None, **about), judge) is None  # type: ignore[arg-type]


# Inception


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The network with random weights, as a file of its own."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network

    file = tmp_path_factory.mktemp("inception") / "random.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(Network, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        torch.save(Network("random", ["2048"]).state_dict(), file)
    return f"inception={file}"


def test_inception_as_the_variants_have_it(inception: str):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 16, 16), generator=generator).float() / 255
    judge = JudgeOptions(network=inception, device="cpu").judge(16)
    network: Any = judge.network
    found = judge.encode(images)
    assert {name: values.shape[1:] for name, values in found.items()} == {
        "pool": (1, 1, 2048), "spatial": (1, 1, 2023), "probabilities": (1, 1, 1008)
    }  # fmt: skip
    kept: list[torch.Tensor] = []
    network.network.Mixed_6e.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    pool, logits = network.network(images.mul(255).round().to(torch.uint8))
    spatial = np.array(
        [[[kept[0][b, c, y, x] for c in range(7)] for y in range(17) for x in range(17)] for b in (0, 1)]
    )
    np.testing.assert_allclose(found["spatial"].flatten(1), spatial.reshape(2, -1), rtol=1e-5)
    torch.testing.assert_close(found["pool"][:, 0, 0], pool)
    torch.testing.assert_close(found["probabilities"][:, 0, 0], logits.softmax(-1))
    assert torch.allclose(logits, pool @ network.network.fc.weight.T, atol=1e-4), "without the bias"
    assert judge.named("FID") == "FID (ADM)" and judge.class_names is None
    clean = InceptionEncoder(inception, "clean-fid", 299, "cpu")
    large = torch.rand(1, 3, 299, 299, generator=generator)
    exact = large.mul(255).round() / 255
    other = InceptionEncoder(inception, "adm", 299, "cpu").encode(exact)["pool"]
    torch.testing.assert_close(clean.encode(exact)["pool"], other, rtol=1e-4, atol=1e-5)
    assert list(clean.outputs) == ["pool"]


def test_clean_fids_resize_is_pillows_in_floats():
    pixels_of = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    channel = Image.fromarray(pixels_of[1].numpy().astype(np.float32))
    expected = np.asarray(channel.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
    np.testing.assert_array_equal(resize_clean(pixels_of)[1].numpy(), expected)


def test_without_its_weights_inception_says_which_file_goes_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"weights-inception-2015-12-05-6726825d\.pth.*checkpoints.*=FILE"):
        weights_file("inception")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth"):
        InceptionEncoder(f"inception={tmp_path / 'other.pth'}", "adm", 16, "cpu")


def test_the_score_of_each_variant(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(judged_sets, "ADM_SPLIT", 15)
    probabilities = torch.softmax(3 * torch.from_numpy(RNG(0).standard_normal((40, 5))), 1)
    rows = TensorRows(probabilities)
    network = InceptionEncoder.__new__(InceptionEncoder)
    judge: Any = SimpleNamespace(network=network)
    assert score_of(rows, judge, JudgeOptions(variant="adm")) == inception_score(probabilities, size=15)
    shuffled = probabilities[np.random.RandomState(2020).permutation(40)]
    assert score_of(rows, judge, JudgeOptions(variant="torch-fidelity")) == inception_score(shuffled, 10)
    plain: Any = SimpleNamespace(network=None)
    assert score_of(rows, plain, JudgeOptions(splits=4)) == inception_score(probabilities, 4)


def test_names_of_measures_by_network(small_model: Model):
    assert JudgeOptions(network=small_model.name).judge(IMAGE_SIZE).named("KID").startswith("KD-")
    judge = JudgeOptions(network="timm:test_resnet?random@32", device="cpu").judge(16)
    assert judge.named("FID") == "FD-test_resnet@32" and judge.class_names is None
    assert judge.encode(torch.rand(2, 3, 16, 16))["probabilities"].sum(-1).numpy() == pytest.approx(1, abs=1e-5)


ADM_FOLDER = os.environ.get("RANDAR_ADM_FOLDER")
"""A folder with ADM's two files for ImageNet 256, and the weights of Inception in the cache of torch.hub."""


@pytest.mark.skipif(ADM_FOLDER is None, reason="RANDAR_ADM_FOLDER names no folder with ADM's files")
def test_check_values_of_adm(tmp_path: Path):
    folder = Path(ADM_FOLDER or "")
    given = ["--samples", str(folder / "admnet_guided_upsampled_imagenet256.npz"), "--network", "inception"]
    given += ["--reference", str(folder / "VIRTUAL_imagenet256_labeled.npz"), "--out", str(tmp_path / "out")]
    assert main("generation", [*given, "--cache", str(tmp_path / "cache")]) == 0
    (row,) = json.loads((tmp_path / "out" / "result.json").read_text())["results"]
    assert row["IS (ADM)"] == pytest.approx(215.84, abs=1)
    assert row["FID (ADM)"] == pytest.approx(3.94, abs=0.05) and row["sFID (ADM)"] == pytest.approx(6.14, abs=0.1)
    assert row["precision"] == pytest.approx(0.8265, abs=0.005) and row["recall"] == pytest.approx(0.5309, abs=0.005)


def test_images_are_judged_at_one_size(tmp_path: Path):
    """A photograph loses what a sample of 16 pixels cannot have."""
    write_images(tmp_path / "large", 6, size=64)
    judge = JudgeOptions(network="pixels", output="patches").judge(16)
    source = open_images(tmp_path / "large")
    found = judged_sets.judged(judge, source, JudgeOptions(cache=str(tmp_path / "cache")), "large")
    small = next(iter(source.batches(16, 6))).pixels
    expected = judge.encode(small)["patches"].mean((1, 2))
    assert found.features is not None
    torch.testing.assert_close(found.features.read(np.arange(6)), expected)


def test_a_line_of_a_plot_joins_settings_of_one_scale_where_every_scale_was_measured():
    rows = [{"orders": "raster", "steps": s, "guidance": g, "d": s + g} for s in (8, 4) for g in (1.0, 4.0)]
    assert lines_of(rows, "steps", "d") == {
        "raster, scale 1": [(4, 5, None), (8, 9, None)],
        "raster, scale 4": [(4, 8, None), (8, 12, None)],
    }
    assert list(lines_of(rows[::3], "steps", "d")) == ["raster"], "a search keeps the best scale of each"
