"""One table of four small random models."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.report.tables import with_interval
from benchmarks.result import Result, read_result
from benchmarks.tasks.generators import architectures
from benchmarks.tasks.generators.architectures import (
    Config,
    best_layers,
    folders_of,
    mask_options,
    rows_of,
    run,
    single_runs,
    training_differences,
)
from benchmarks.tasks.generators.generator_measures import (
    SpeedConfig,
    image_losses,
    images_per_second,
    run_speed,
    step_counts,
    steps_for,
)
from probes import LogisticProbe
from randar_features import generate, load_model
from randar_features.data.token_store import TokenStore
from randar_features.generation.likelihood import one_order
from randar_features.models import ARCHITECTURES
from randar_features.tokenizers.folder import tokenizer_hash
from randar_features.training.generator.objective import evaluation_orders, validation_losses
from tests.benchmarks.image_folders import write_classes
from tests.benchmarks.tasks.dense.test_segmentation import write_scenes
from tests.small_models import IMAGE_SIZE, VOCAB_SIZE, small_tokenizer, small_transformer, write_folder
from tests.training.small import random_tokens, write_store

CAUSAL = [("single", "image"), ("repeat", "image")]
VIEWS = {
    "randar": [(context, read) for context in ("single", "repeat", "reverse") for read in ("image", "instruction")],
    "llamagen": CAUSAL,
    "par": CAUSAL,
    "arpg": [*CAUSAL, ("reverse", "image"), ("single", "query"), ("single", "leave_one_out")],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, tokens, and images with labels and with masks."""
    root = tmp_path_factory.mktemp("architectures")
    for name in ARCHITECTURES:
        write_folder(root / "runs" / name / "model", architecture=name, training={"seed": 0, "model": {"type": name}})
    made = {"tokenizer": tokenizer_hash(small_tokenizer()), "vocab_size": VOCAB_SIZE, "image_size": IMAGE_SIZE}
    labels = np.array([0, 1, 2, -1] * 5)
    write_store(root / "tokens" / "validation", random_tokens(num_tokens=16), labels, **made)
    write_classes(root / "colours", per_class=14, seed=0)
    write_scenes(root / "camvid", count=6, bad=False)
    return root


def config_of(folder: Path, **options: Any) -> Config:
    given: dict[str, Any] = {
        "runs": tuple(f"{name}={folder / 'runs' / name}" for name in ARCHITECTURES),
        "tokens": str(folder / "tokens"),
        "classification": str(folder / "colours"),
        "segmentation": str(folder / "camvid"),
        "evaluation_images": 12,
        "hold_out": "stratified",
        "loss_images": 7,
        "head": "knn",
        "batch": 2,
        "repeats": 1,
        "cache": str(folder / "cache"),
        "work": str(folder / "work"),
    }
    return Config(**given | options)


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    """Of a run without pictures and near-duplicates that tries one strength of the linear probe, to be quick."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("figures", "overlays"):
            patch.setattr(f"benchmarks.report.{module}.to_png", lambda figure: b"")
        for task in ("whole_images.labelled", "dense.segmentation"):
            patch.setattr(f"benchmarks.tasks.{task}.between", lambda *_: [])
        patch.setattr(
            "benchmarks.tasks.whole_images.classification_probes.LogisticProbe", partial(LogisticProbe, C_grid=(0.1,))
        )
        return read_result(run(config_of(folder), folder / "out"))


def test_every_context_and_read_of_every_model_has_a_row(result: dict[str, Any]):
    found = [(row["encoder"], (row["context"], row["read"])) for row in result["results"]]
    assert sorted(found) == sorted((name, view) for name, views in VIEWS.items() for view in views)
    layers = {(row["encoder"], row["read"]): row["layer"] for row in result["results"]}
    assert layers["arpg", "image"] in (0, 1) and layers["arpg", "query"] in (2, 3)


def test_figures_of_a_row_are_those_of_the_benchmarks(folder: Path, result: dict[str, Any]):
    work = folder / "work"
    for row in result["results"]:
        probes = read_result(work / row["encoder"] / "classification")["results"]
        masks = read_result(work / row["encoder"] / "segmentation")["results"]
        of_view = [each for each in probes if (each["context"], each["read"]) == (row["context"], row["read"])]
        linear = {str(each["layer"]): each for each in of_view if each["probe"] == "logistic"}
        knn = {str(each["layer"]): each for each in of_view if each["probe"] == "knn"}
        layer, every = str(row["layer"]), next(layers for layers in linear if layers.startswith("["))
        assert row["tuning"] == max(each["tuning"] for name, each in linear.items() if name != every)
        assert row["tuning"] == linear[layer]["tuning"]
        assert (row["accuracy"], row["interval"]) == (linear[layer]["accuracy"], linear[layer]["interval"])
        assert (row["accuracy_all_layers"], row["knn"]) == (linear[every]["accuracy"], knn[layer]["accuracy"])
        assert row["knn_all_layers"] == knn[every]["accuracy"]
        (mask,) = [each for each in masks if each["output"] == linear[layer]["output"]]
        assert row["miou"] == mask["miou"]
        assert row["parameters"] == sum(p.numel() for p in small_transformer(0, row["encoder"]).parameters())


def test_classes_that_are_given_come_before_those_of_the_name(folder: Path):
    known, given = (mask_options("", (), config_of(folder, num_classes=count)) for count in (None, 4))
    assert (known.labels, known.num_classes) == ("camvid", None)
    assert (given.labels, given.num_classes) == (None, 4)
    with pytest.raises(ValueError, match="--ignore-index 3"):
        mask_options("", (), config_of(folder, ignore_index=3))


def test_masks_of_unknown_classes_are_refused_before_any_work(folder: Path, tmp_path: Path):
    given = {"segmentation": str(write_scenes(tmp_path / "scenes", count=1, bad=False)), "work": str(tmp_path / "work")}
    with pytest.raises(ValueError, match="give --num-classes of the masks"):
        run(config_of(folder, **given), tmp_path / "out")
    assert not (tmp_path / "work").exists()


def test_the_layer_is_chosen_by_tuning():
    def row(layer: int | list[int], tuning: float, accuracy: float, probe: str = "logistic", read: str = "image"):
        axes = {"context": "single", "read": read, "layer": layer, "probe": probe}
        return axes | {"tuning": tuning, "accuracy": accuracy}

    rows = [row(0, 0.5, 0.9), row(1, 0.7, 0.2), row(2, 0.6, 0.8), row([0, 1, 2], 0.9, 0.95)]
    rows += [row(2, 0.99, 0.99, probe="knn"), row(0, 0.4, 0.4, read="query"), row(1, 0.4, 0.6, read="query")]
    best = best_layers(rows)
    assert {view: each["layer"] for view, each in best.items()} == {("single", "image"): 1, ("single", "query"): 0}


def test_parts_of_a_single_image_have_no_intervals():
    loss = {"parameters": 9, "validation_loss": 1.5, "validation_loss_null": 2.0, "loss_orders": 1}
    axes = {"context": "single", "read": "image", "layer": 0, "orders": None, "output": "single/image/0"}
    probes = [axes | {"probe": probe, "accuracy": 1.0, "tuning": 0.5} for probe in ("logistic", "knn")]
    parts = {"loss": [loss], "classification": probes, "segmentation": [axes | {"miou": 0.25}]}
    (row,) = rows_of("a", {kind: {"results": rows} for kind, rows in parts.items()}, {})
    assert (row["interval"], row["miou_interval"], row["validation_loss_interval"]) == (None, None, None)
    assert with_interval(Result.of(row), "miou") == "25.0 %"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_is_that_of_training(folder: Path, result: dict[str, Any], name: str):
    store, model = TokenStore(folder / "tokens" / "validation"), small_transformer(architecture=name)
    picked = torch.linspace(0, 19, 7).long()
    tokens, classes = store.batch(picked, torch.zeros_like(picked))
    assert (classes < 0).any()
    known = torch.where(classes < 0, 3, classes)
    orders = evaluation_orders(model, 4)
    assert len(orders) == (1 if name in ("llamagen", "par") else 4)
    sums = validation_losses(model, tokens, known, orders, batch_size=3)
    row = next(row for row in result["results"] if row["encoder"] == name)
    assert row["validation_loss"] == pytest.approx(sums[0] / (7 * len(orders)), rel=1e-5)
    assert row["validation_loss_null"] == pytest.approx(sums[1] / (7 * len(orders)), rel=1e-5)
    assert row["validation_loss"] != pytest.approx(row["validation_loss_null"], rel=1e-5)
    low, high = row["validation_loss_interval"]
    assert low < row["validation_loss"] < high and row["loss_orders"] == len(orders)


def test_a_model_trained_in_raster_order_is_measured_in_it():
    model, tokens = small_transformer(), torch.arange(32).view(2, 16)
    model.trained_order = "raster"
    losses, _ = image_losses(model, tokens, torch.tensor([0, 1]), 4)
    expected = -one_order(model, tokens, torch.tensor([0, 1]), torch.arange(16)[None]).mean(1)
    assert losses == pytest.approx(expected.detach().numpy(), rel=1e-5)


def test_models_are_timed_in_the_same_numbers_of_steps(result: dict[str, Any]):
    assert step_counts(16) == {"single": 16, "parallel": 7} and step_counts(64)["parallel"] == 19
    found = {row["encoder"]: (row["single_steps"], row["parallel_steps"]) for row in result["results"]}
    assert found == {"randar": (16, 7), "arpg": (16, 7), "llamagen": (16, None), "par": (None, 7)}
    for row in result["results"]:
        for kind in ("single", "parallel"):
            assert (row[f"{kind}_images_per_second"] is None) == (row[f"{kind}_steps"] is None)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("length", [7, 16])
def test_that_many_passes_are_made(name: str, length: int):
    model, passes = small_transformer(architecture=name), list[int]()
    steps = steps_for(model, length)
    if steps is None:
        assert (name, length) in (("llamagen", 7), ("par", 16))
        return
    model.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    generate(model, [1, 2], steps=steps, generator=0)
    assert len(passes) == length


def test_speed_is_of_a_batch_with_the_published_guidance(folder: Path, monkeypatch: pytest.MonkeyPatch):
    model, calls = load_model(folder / "runs/par/model"), []
    monkeypatch.setattr(
        "benchmarks.tasks.generators.generator_measures.generate", lambda *args, **given: calls.append((args, given))
    )
    monkeypatch.setattr("benchmarks.tasks.generators.generator_measures.seconds", lambda run, *_: run() or 0.5)
    assert images_per_second(model, 7, SpeedConfig(models=(), batch=6, seed=3)) == 12
    ((args, given),) = calls
    assert args[0] is model.transformer and len(args[1]) == 6 and given == {"steps": 7, "generator": 3}
    assert run_speed(SpeedConfig(models=(str(folder / "runs/par/model"),), batch=6), folder / "speed").exists()


def test_tables(folder: Path, result: dict[str, Any]):
    text = (folder / "out" / "result.md").read_text()
    row = next(row for row in result["results"] if (row["encoder"], row["read"]) == ("arpg", "leave_one_out"))
    for name, end in (("accuracy", "interval"), ("miou", "miou_interval")):
        low, high = row[end]
        assert f"{100 * row[name]:.1f} % ({100 * low:.1f} % … {100 * high:.1f} %)" in text
    low, high = row["validation_loss_interval"]
    assert f"{row['validation_loss']:.4g} ({low:.4g} … {high:.4g})" in text
    assert "single images per second" in text
    assert result["card"]["command"] in text and result["card"]["protocol"][10:] in text
    assert all(f"Warning: {warning[:20]}" in text for warning in result["card"]["warnings"])
    assert sum("| randar |" in line.replace("*", "") for line in text.splitlines()) == 6


def test_what_is_measured_is_not_measured_again(folder: Path, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> None:
        raise AssertionError("measured again")

    for benchmark in (architectures.classification, architectures.segmentation):
        monkeypatch.setattr(benchmark, "run", fail)
    monkeypatch.setattr(architectures, "run_speed", fail)
    again = read_result(run(config_of(folder, loss_images=5), folder / "again"))["results"]
    for new, old in zip(again, result["results"], strict=True):
        changed = {key for key in old if new[key] != old[key]}
        assert changed == {"validation_loss", "validation_loss_null", "validation_loss_interval"}
    with pytest.raises(AssertionError, match="measured again"):
        run(config_of(folder, batch=3), folder / "again")


def test_unequal_runs_are_refused_or_named(folder: Path, tmp_path: Path):
    config = config_of(folder)
    with pytest.raises(ValueError, match=r"--runs par=.*llamagen/model: that model is of type llamagen"):
        run(replace(config, runs=(f"par={folder / 'runs/llamagen'}",)), tmp_path)
    with pytest.raises(ValueError, match=r"--runs par-1=.*llamagen/model: that model is of type llamagen"):
        run(replace(config, runs=(f"par-1={folder / 'runs/llamagen'}",)), tmp_path)
    other = write_folder(tmp_path / "other", tokenizer_hash="f" * 16)
    with pytest.raises(ValueError, match=f"is a model of tokenizer {'f' * 16}, the tokens in .* are of"):
        run(replace(config, runs=(f"other={other}",)), tmp_path)
    for runs in (("randar",), ("=a",), ("a=b", "a=c")):
        with pytest.raises(ValueError, match="--runs takes NAME=FOLDER, each name once"):
            folders_of(replace(config, runs=runs))


def test_settings_of_training_that_differ_are_warned_of(folder: Path, tmp_path: Path, result: dict[str, Any]):
    assert not [warning for warning in result["card"]["warnings"] if "trained" in warning]
    for seed, (name, steps, width) in enumerate((("a", 4, 8), ("b", 5, 8), ("c", 4, 8))):
        training = {"total_steps": steps, "seed": seed, "model": {"type": name, "dim": width}, "loop": {"log": steps}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"training": training}))
    folders = {name: str(tmp_path / name) for name in "abc"}
    assert training_differences(folders) == ["trained with different total_steps: a 4, b 5, c 4"]


def test_architectures_of_one_run_are_named(result: dict[str, Any]):
    assert "one training run of RandAR, LlamaGen, PAR, ARPG" in result["card"]["warnings"][0]
    models = {name: SimpleNamespace(transformer=small_transformer(architecture=name)) for name in ("par", "arpg")}
    assert single_runs({**models, "par-1": models["par"]}) == ["ARPG"]
    assert single_runs({"arpg-0": models["arpg"], "arpg-1": models["arpg"]}) == []
