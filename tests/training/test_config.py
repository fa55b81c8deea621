from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml

from randar_features.tokenizers import LlamaGenTokenizer
from randar_features.training.config import differences, load_config, typed_arguments
from randar_features.training.tokenizer_trainer import TokenizerTrainingConfig

CONFIGS = sorted((Path(__file__).parents[2] / "randar_features/cli/recipes").glob("*.yaml"))
SHIPPED = [path for path in CONFIGS if "network" in yaml.safe_load(path.read_text())]  # the others: test_recipe.py


@dataclass(frozen=True, kw_only=True)
class Recipe:
    model: dict[str, Any]
    learning_rate: float = 0.5
    total_steps: int = 7
    muon: float | None = None
    precision: Literal["bf16", "no"] | None = None
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    writers: list[str] | None = None
    schedule: Literal["cosine", "linear"] | None = None
    inner: Inner = field(default_factory=lambda: Inner())


@dataclass(frozen=True, kw_only=True)
class Inner:
    every: int = 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("model:\n  dim: 8\nlearning_rate: 0.25\n")
    return path


def test_file_over_default_and_override_over_file(path: Path):
    assert load_config(Recipe, path) == Recipe(model={"dim": 8}, learning_rate=0.25, total_steps=7)
    changed = load_config(Recipe, path, ["total_steps=9", "model.dim=16", "model.widths.first=[1, 2]", "muon=0.5"])
    assert changed == Recipe(
        model={"dim": 16, "widths": {"first": [1, 2]}}, learning_rate=0.25, total_steps=9, muon=0.5
    )


def test_sections_and_choices(path: Path):
    changed = load_config(Recipe, path, ["inner.every=7", "schedule=linear"])
    assert (changed.inner, changed.schedule) == (Inner(every=7), "linear")
    assert load_config(Recipe, path, ["schedule=null"]).schedule is None


def test_no_is_a_word_where_it_is_a_choice(path: Path):
    assert load_config(Recipe, path, ["precision=no"]).precision == "no"
    path.write_text("model: {}\nprecision: no\n")
    assert load_config(Recipe, path).precision == "no"
    assert load_config(Recipe, path, ["precision=null"]).precision is None


def test_items_of_lists_are_typed_too(path: Path):
    changed = load_config(Recipe, path, ["betas=[0, 9e-1]", "writers=[jsonl]"])
    assert (changed.betas, changed.writers) == ([0.0, 0.9], ["jsonl"]) and type(changed.betas[0]) is float
    assert load_config(Recipe, path, ["writers=null"]).writers is None


def test_differences_are_named_with_both_values():
    old = {"a": 1, "model": {"dim": 16, "rate": (0.1, 2)}, "gone": None}
    new = {"a": 1, "model": {"dim": 32, "rate": [0.1, 2]}, "b": "x"}
    assert differences(old, new) == ["model.dim: 16 → 32", "gone: None → 'absent'", "b: 'absent' → 'x'"]
    assert differences(old, old) == []


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("3E4", 3e4), ("2", 2.0), ("1.0e-3", 1e-3)])
def test_numbers_become_floats_as_one_writes_them(path: Path, text: str, value: float):
    path.write_text(f"model: {{}}\nlearning_rate: {text}\n")
    loaded = load_config(Recipe, path, [f"muon={text}"])
    assert (loaded.learning_rate, loaded.muon) == (value, value)
    assert type(loaded.learning_rate) is float
    assert load_config(Recipe, path, ["muon=null"]).muon is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1", r"recipe\.yaml: Recipe has no option 'learning_rat'; did you mean learning_rate\?"),
        ("zzz=1", "no option 'zzz'; known: model, learning_rate, total_steps, muon, precision,"),
        ("inner.evry=1", r"recipe\.yaml: inner: Inner has no option 'evry'; did you mean every\?"),
        ("inner.every=often", r"recipe\.yaml: inner: every is 'often', expected int"),
        ("inner=3", "inner is 3, expected Inner"),
        ("schedule=step", "schedule is 'step', expected cosine or linear or none"),
        ("learning_rate=fast", "learning_rate is 'fast', expected float"),
        ("total_steps=1.5", "total_steps is 1.5, expected int"),
        ("total_steps=true", "total_steps is True, expected int"),
        ("muon=[1]", r"muon is \[1\], expected float or none"),
        ("precision=yes", "precision is True, expected bf16 or no or none"),
        ("betas=[0.9,abc]", r"betas\[1\] is 'abc', expected float"),
        ("betas=[0.9,true]", r"betas\[1\] is True, expected float"),
        ("betas=0.9", "betas is 0.9, expected list"),
        ("writers=[1]", r"writers\[0\] is 1, expected str"),
        ("model=3", "model is 3, expected dict"),
        ("total_steps", "must read key=value, got 'total_steps'"),
        ("learning_rate.x=3", "override 'learning_rate.x=3': learning_rate is 0.25 and has no options inside"),
    ],
)
def test_what_does_not_fit_is_named(path: Path, override: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_config(Recipe, path, [override])


def test_files_that_are_no_recipe(path: Path):
    path.write_text("total_steps: 3\n")
    with pytest.raises(ValueError, match="Recipe lacks model"):
        load_config(Recipe, path)
    path.write_text("- 1\n")
    with pytest.raises(ValueError, match="holds a list, expected options as key: value"):
        load_config(Recipe, path)


def test_arguments_are_of_the_types_of_the_annotations():
    def network(*, channels: int, widths: Sequence[int] = (), rate: float = 0.1, other=None) -> None: ...

    given = {"channels": 1, "widths": [1, 2], "rate": "1e-3", "other": "any"}
    assert typed_arguments(network, given, "network") == given | {"rate": 0.001}
    for name, value, message in [
        ("chanels", 1, r"network has no option 'chanels'; did you mean channels\?"),
        ("channels", "abc", "network: channels is 'abc', expected int"),
        ("widths", [1, "b"], r"network: widths\[1\] is 'b', expected int"),
        ("widths", 3, "network: widths is 3, expected list"),
    ]:
        with pytest.raises(ValueError, match=message):
            typed_arguments(network, {name: value}, "network")
    with pytest.raises(ValueError, match="network: channels is 'abc', expected int"):
        typed_arguments(LlamaGenTokenizer, {"channels": "abc"}, "network")


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_builds_its_tokenizer(shipped: Path):
    config = load_config(TokenizerTrainingConfig, shipped)
    with torch.device("meta"):
        tokenizer = LlamaGenTokenizer(**config.network)
    assert config.image_size % tokenizer.downsampling == 0


def test_there_are_shipped_recipes():
    assert {"tiny_tokenizer"} <= {path.stem for path in SHIPPED}
