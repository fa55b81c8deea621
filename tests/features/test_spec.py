from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from randar_features import FeatureSpec, Model
from randar_features.features import model_specs
from randar_features.features.spec import check_specs, resolve_layers
from tests.golden.models import golden_model
from tests.small_models import small_transformer

SPECS = {
    "reverse/image/2": FeatureSpec("reverse", "image", 2),
    "single/leave_one_out/0/norm": FeatureSpec("single", "leave_one_out", 0, norm=True),
    "repeat/image/11/orders=4": FeatureSpec("repeat", "image", 11, orders=4),
    "repeat/image/1/norm/orders=4/seed=-7/concatenate": FeatureSpec(
        "repeat", "image", 1, orders=4, norm=True, seed=-7, combine="concatenate"
    ),
}


@pytest.mark.parametrize(("text", "spec"), SPECS.items())
def test_a_spec_is_written_and_read_back(text: str, spec: FeatureSpec):
    assert str(spec) == text and FeatureSpec.parse(text) == spec and FeatureSpec.parse(spec) is spec
    assert FeatureSpec(**spec.details()) == spec
    assert [*spec.details()][:5] == ["context", "read", "layer", "orders", "norm"]  # in one order in every process


def test_suffixes_come_in_any_order():
    assert FeatureSpec.parse("single/image/0/seed=2/orders=3/norm") == FeatureSpec("single", "image", 0, 3, True, 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "reverse image layer 2",
        "reverse/image",
        "sideways/image/2",
        "reverse/image/-1",
        "reverse/image/02",
        "reverse/image/2.0",
        "reverse/image/2/orders=0",
        "reverse/image/2/seed=3",
        "reverse/image/2/norm/norm",
        "reverse/image/2/mean",
        "reverse/image/2/orders=2/seed=99999999999999999999999",
        "reverse//2",
    ],
)
def test_what_names_no_spec_is_refused(text: str):
    with pytest.raises(ValueError, match="reverse/image/2"):
        FeatureSpec.parse(text)


@pytest.mark.parametrize(
    ("layers", "expected"), [(0, [0]), (-1, [5]), ([1, -2], [1, 4]), (None, [2]), (range(3), [0, 1, 2])]
)
def test_layer_indices(layers: Any, expected: list[int]):
    assert resolve_layers(layers, 6, default=[2]) == expected


def test_layers_of_an_iterator_are_of_every_context(small_model: Model):
    specs = model_specs(small_model, layers=iter([0, 1]), context=["single", "reverse"])
    assert [str(spec) for spec in specs] == ["single/image/0", "single/image/1", "reverse/image/0", "reverse/image/1"]


def test_orders_are_drawn_only_to_be_used(small_model: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("randar_features.features.spec.several_orders", lambda *given: pytest.fail("drawn"))
    check_specs(small_model.transformer, [FeatureSpec.parse("reverse/image/1/orders=4")])


@pytest.mark.parametrize("architecture", ["llamagen", "par"])
def test_a_model_of_one_order_has_no_others(architecture: str):
    model = small_transformer(architecture=architecture)
    check_specs(model, [FeatureSpec.parse("repeat/image/1/orders=1")])
    with pytest.raises(ValueError, match="4 orders"):
        check_specs(model, [FeatureSpec.parse("repeat/image/1/orders=4")])


def test_layers_out_of_range_are_refused():
    with pytest.raises(IndexError, match=r"layer 6 is out of range: the model has 6 layers, 0 … 5 or -6 … -1"):
        resolve_layers([0, 6], 6, default=[2])
    with pytest.raises(IndexError, match="layer -7"):
        resolve_layers(-7, 6, default=[2])
    with pytest.raises(ValueError, match="layers is empty"):
        resolve_layers([], 6, default=[2])


def test_all_that_goes_together(small_model: Model):
    specs = model_specs(small_model, layers="all", context=["single", "reverse"], read=["image", "instruction"])
    assert len(specs) == 12 and str(specs[3]) == "single/instruction/0"
    arpg = golden_model("arpg_small")
    names = [str(spec) for spec in model_specs(arpg, layers="all", context=["single", "repeat"], read=arpg.reads)]
    assert names[:2] == ["single/image/0", "single/image/1"] and "single/leave_one_out/3" in names
    assert "repeat/image/1" in names and not any(name.startswith("repeat/query") for name in names)


def test_defaults_are_what_each_model_recommends():
    found = {}
    for name in ("randar_small", "llamagen_small", "par_small", "arpg_small"):
        model = golden_model(name)
        found[name] = [str(spec) for spec in model_specs(model, read=model.reads)]
    assert found == {
        "randar_small": ["reverse/image/1", "reverse/instruction/1"],
        "llamagen_small": ["repeat/image/1"],
        "par_small": ["repeat/image/1"],
        "arpg_small": ["reverse/image/0", "single/query/2", "single/leave_one_out/2"],
    }
    raster = golden_model("randar_small")
    raster.trained_order = "raster"
    assert [str(spec) for spec in model_specs(raster)] == ["repeat/image/1"]
    assert [str(spec) for spec in model_specs(raster, context="reverse")] == ["reverse/image/1"]


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"layers": "1"}, TypeError, "layers.*'1'"),
        ({"layers": True}, TypeError, "layers.*True"),
        ({"layers": [1.0]}, TypeError, "layers.*1.0"),
        ({"layers": []}, ValueError, "layers"),
        ({"context": "sideways"}, ValueError, "sideways"),
        ({"context": 3}, TypeError, "context.*3"),
        ({"context": []}, ValueError, "context"),
        ({"read": "query"}, ValueError, "query"),
        ({"read": None}, TypeError, "read"),
        ({"norm": "no"}, TypeError, "norm.*'no'"),
        ({"orders": 0}, ValueError, "at least 1, got 0"),
        ({"orders": 2.0}, TypeError, "orders.*2.0"),
        ({"orders": True}, TypeError, "orders.*True"),
        ({"seed": 1.5}, TypeError, "seed.*1.5"),
        ({"orders": 2, "seed": 2**70}, ValueError, "seed.*2\\*\\*64"),
        ({"combine": "sum"}, ValueError, "combine.*sum"),
    ],
)
def test_settings_are_refused_by_name(small_model: Model, options: dict[str, Any], error: type, named: str):
    with pytest.raises(error, match=named):
        model_specs(small_model, **options)


@pytest.mark.parametrize("number", [np.int64, np.array, torch.tensor])
def test_a_spec_holds_numbers_of_python(number: Callable[[int], Any]):
    plain = FeatureSpec("repeat", "image", 1, orders=2, seed=3)
    spec = FeatureSpec("repeat", "image", number(1), orders=number(2), seed=number(3))
    assert {spec: "found"}[plain] == "found" and str(spec) == str(plain)
    assert json.dumps(spec.details()) == json.dumps(plain.details())


@pytest.mark.parametrize("wrong", [{"context": np.array(1)}, {"read": torch.tensor(1)}, {"layers": b"\x01"}])
def test_names_and_layers_that_are_neither_one_nor_several_are_named(wrong: dict[str, Any]):
    with pytest.raises(TypeError, match=f"{next(iter(wrong))}.*got"):
        model_specs(small_transformer(), **wrong)


def test_truth_values_of_numpy_are_flags_of_python():
    spec = FeatureSpec("single", "image", 1, norm=np.bool_(True))  # type: ignore[arg-type]
    assert spec.norm is True and spec == FeatureSpec("single", "image", 1, norm=True)
    for wrong in (1, "yes", np.array([True, False]), None):
        with pytest.raises(TypeError, match="norm must be True or False"):
            FeatureSpec("single", "image", 1, norm=wrong)  # type: ignore[arg-type]
