"""Ways to read one layer: each is what it says, of the same images, with its cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import randar_features as rf
from benchmarks.comparisons import run_differences
from benchmarks.result import open_run
from benchmarks.tasks.whole_images import readouts as task
from benchmarks.tasks.whole_images.readouts import BASE, Config, read_tokens, readouts
from randar_features.models.base import several_orders
from tests.benchmarks.image_folders import write_classes
from tests.small_models import write_folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("readouts")
    write_classes(folder / "classes", per_class=8, seed=0)
    about = {"model": str(write_folder(folder / "model")), "data": str(folder / "classes")}
    return Config(**about, layer=2, images=24, evaluation_images=6, orders=(1, 2), queries=(1, 4), epochs=2)


def test_each_way_is_what_its_name_says(config: Config):
    model = rf.load_model(config.model, device="cpu")
    tokens, labels, warnings = read_tokens(model, config)
    assert (len(tokens), len(labels), warnings) == (24, 24, [])
    found = {way.name: way for way in readouts(model, tokens, 2, config)}
    first = rf.encode_tokens(model.transformer, tokens, layers=2, context="single").flatten(1, 3)
    torch.testing.assert_close(found["first showing, tokens at 25 to 50 %"].features, first[:, 4:8].mean(1))
    joined = found["first and last showing"].features
    torch.testing.assert_close(joined, torch.cat([first.mean(1), found[BASE].features], 1))
    orders = several_orders(model.transformer, 2, 0)
    each = [rf.encode_tokens(model.transformer, tokens, order=o, layers=2).flatten(1, 3).mean(1) for o in orders]
    torch.testing.assert_close(found["1 random orders"].features, each[0])
    torch.testing.assert_close(found["2 random orders"].features, (each[0] + each[1]) / 2)
    assert [found[name].sequences for name in (BASE, "1 random orders", "2 random orders")] == [1, 1, 2]


def test_all_are_in_one_table_with_their_cost(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few = (BASE, "maps", "2 random orders")
    monkeypatch.setattr(task, "readouts", lambda *given: [way for way in readouts(*given) if way.name in few])
    found = open_run(task.run(config, tmp_path))
    expected = [(BASE, "logistic"), (BASE, "knn"), (BASE, "knn"), ("maps", "attentive"), ("maps", "attentive")]
    expected += [("2 random orders", probe) for probe in ("logistic", "knn", "knn")]
    assert [(row["output"], row["probe"]) for row in found.results] == expected
    assert found.results[4]["settings"].startswith("4 queries")
    assert all({"sequences", "transformer_seconds", "accuracy", "tuning"} <= {*row.metrics} for row in found.results)
    assert len(run_differences(found)) == 5


def test_a_layer_that_the_model_lacks_is_refused_before_images_are_read(config: Config, tmp_path: Path):
    with pytest.raises((ValueError, IndexError), match="99"):
        task.measure(replace(config, layer=99, data=str(tmp_path / "nothing")), tmp_path)


def test_too_few_images_to_hold_out_are_told_by_the_option(config: Config, tmp_path: Path):
    with pytest.raises(ValueError, match=r"24 readable images .* 600 .* --evaluation-images"):
        task.measure(replace(config, evaluation_images=600), tmp_path)
