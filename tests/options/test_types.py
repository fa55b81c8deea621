from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import torch
import yaml

from randar_features.options.parse import OptionError, read_options
from randar_features.options.types import Count, Decay, Seed, check_ranges, differences, fits, typed
from randar_features.tokenizers import LlamaGenTokenizer
from randar_features.training.generator.recipe import TrainingConfig
from randar_features.training.tokenizer.recipe import TokenizerTrainingConfig

CONFIGS = sorted((Path(__file__).parents[2] / "randar_features/training/recipes").glob("*.yaml"))
SHIPPED = [path for path in CONFIGS if "network" in yaml.safe_load(path.read_text())]  # the others: test_recipe.py


@dataclass(frozen=True, kw_only=True)
class Numbers:
    steps: Count = 1
    betas: list[Decay] | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "numbers.")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("model:\n  dim: 8\nlearning_rate: 0.25\n")
    return path


def test_a_recipe_and_changes_of_it(path: Path):
    changes = ["total_steps=9", "model.dim=16", "loop.log_every=7", "muon_learning_rate=1e-3", "schedule=linear"]
    found = read_options(
        TrainingConfig, path, [*changes, "adam_betas=[0, 9e-1]", "loop.log_writers=[]", "hardware.mixed_precision=no"]
    )
    assert (found.total_steps, found.model, found.learning_rate) == (9, {"dim": 16}, 0.25)
    assert (found.loop.log_every, found.muon_learning_rate, found.schedule) == (7, 1e-3, "linear")
    assert (found.adam_betas, found.loop.log_writers) == ([0.0, 0.9], [])
    assert found.hardware.mixed_precision == "no"
    assert read_options(TrainingConfig, path, ["hardware.mixed_precision=none"]).hardware.mixed_precision is None


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("3E4", 3e4), ("2", 2.0), ("1.0e-3", 1e-3)])
def test_numbers_become_floats_as_one_writes_them(path: Path, text: str, value: float):
    path.write_text(f"model: {{}}\nlearning_rate: {text}\n")
    loaded = read_options(TrainingConfig, path)
    assert loaded.learning_rate == value and type(loaded.learning_rate) is float


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("learning_rat=1", ["learning-rat", "learning-rate"]),
        ("loop.log_evry=1", ["loop.log-every"]),
        ("schedule=step", ["cosine, constant, linear", "step"]),
        ("learning_rate=fast", ["--learning-rate", "float", "fast"]),
        ("total_steps=1.5", ["--total-steps", "int", "1.5"]),
        ("total_steps=true", ["--total-steps", "int", "True"]),
        ("adam_betas=[0.9,abc]", ["--adam-betas", "abc"]),
        ("adam_betas=[0.9,1]", ["--adam-betas", "from 0 to below 1"]),
        ("model=3", ["--model", "mapping", "3"]),
        ("auxiliary.alignment.weight=-1", ["--auxiliary.alignment.weight", "0 or more"]),
    ],
)
def test_what_does_not_fit_is_named(path: Path, change: str, named: list[str]):
    with pytest.raises(OptionError) as error:
        read_options(TrainingConfig, path, [change])
    assert [word for word in named if word not in str(error.value)] == []


def test_ranges_hold_in_python_too():
    assert Numbers(steps=3, betas=[0.0, 0.5]).betas == [0.0, 0.5]
    assert fits(2**63 - 1, Seed) and not fits(2**63, Seed) and fits(10**400, Annotated[int, "0 or more"])
    with pytest.raises(ValueError, match=r"numbers\.steps = 0, expected int, at least 1"):
        Numbers(steps=0)
    with pytest.raises(ValueError, match=r"numbers\.betas = \[0, 1\], expected a list of float, from 0 to below 1"):
        Numbers(betas=[0, 1])
    with pytest.raises(ValueError, match=r"nan"):
        Numbers(betas=[float("nan")])


def test_differences_are_named_with_both_values():
    old = {"a": 1, "model": {"dim": 16, "rate": (0.1, 2)}, "gone": None}
    new = {"a": 1, "model": {"dim": 32, "rate": [0.1, 2]}, "b": "x"}
    assert differences(old, new) == ["model.dim: 16 → 32", "gone: None → 'absent'", "b: 'absent' → 'x'"]
    assert differences(old, old) == []


def test_arguments_are_of_the_types_of_the_annotations():
    def network(*, channels: int = 3, widths: Sequence[int] = (), rate: float = 0.1, other=None) -> None: ...

    given = {"channels": 1, "widths": [1, 2], "rate": "1e-3", "other": "any"}
    assert typed(network, given, "network") == given | {"rate": 0.001}
    for name, value, message in [
        ("chanels", 1, r"network has no option 'chanels'; did you mean channels\?"),
        ("channels", "abc", "network: channels is 'abc', expected int"),
        ("channels", True, "network: channels is True, expected int"),
        ("widths", [1, "b"], r"network: widths is \[1, 'b'\], expected one or more of int"),
        ("widths", 3, "network: widths is 3, expected one or more of int"),
    ]:
        with pytest.raises(ValueError, match=message):
            typed(network, {name: value}, "network")
    with pytest.raises(ValueError, match="network: channels is 'abc', expected int"):
        typed(LlamaGenTokenizer, {"channels": "abc"}, "network")
    with pytest.raises(ValueError, match="lacks options"):
        typed(check_ranges, {"where": ""}, "network")


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_builds_its_tokenizer(shipped: Path):
    config = read_options(TokenizerTrainingConfig, shipped)
    with torch.device("meta"):
        tokenizer = LlamaGenTokenizer(**config.network)
    assert config.image_size % tokenizer.downsampling == 0


def test_there_are_shipped_recipes():
    assert {"tiny_tokenizer"} <= {path.stem for path in SHIPPED}
