"""What every command has in common."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
import yaml

import randar_features as rf
from randar_features.cli.commands import TEXTS, main
from randar_features.cli.extract import ExtractOptions
from randar_features.cli.index import IndexOptions
from randar_features.cli.probe import ProbeOptions
from randar_features.cli.train_tokenizer import TokenizerOptions
from randar_features.cli.train_transformer import TransformerOptions
from randar_features.options.parse import _settings, part, read_options
from randar_features.training.generator.recipe import TrainingConfig
from randar_features.training.recipes import RECIPES
from randar_features.training.tokenizer.recipe import TokenizerTrainingConfig

ROOT = Path(__file__).parents[2]
IN_BENCHMARKS = ("bench", "report", "diff")
WITH_OPTIONS = [name for name in TEXTS if name not in IN_BENCHMARKS]
WITH_OPTIONS += ["edit inpaint", "edit outpaint", "edit upscale", "train transformer", "train tokenizer"]
WITH_OPTIONS += ["report", "diff", "bench suite", "bench demo", "bench classification", "bench throughput"]
WITH_OPTIONS.remove("edit")


def test_the_list_of_commands(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in TEXTS if f"  {name} " not in shown] == []
    assert main([]) == 0


@pytest.mark.parametrize("command", WITH_OPTIONS)
def test_help_gives_type_and_default_of_each_option(command: str, capsys: pytest.CaptureFixture[str]):
    assert main([*command.split(), "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(f"usage: randar {command} ")
    _, _, options = shown.partition("options:")
    assert options.count("default: ") + options.count("required)") >= options.count(" --") // 2 - 4
    assert "--config FILE" in options


@pytest.mark.parametrize("command", WITH_OPTIONS)
def test_an_unknown_option_is_refused(command: str, capsys: pytest.CaptureFixture[str]):
    assert main([*command.split(), "--no-such-option"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_read(recipe: Path):
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    if "variants" in values:
        pytest.skip("several recipes in one file, which its own test reads")
    if "model" in values:
        options = read_options(TransformerOptions, recipe, ["--out", "run", "--tokens", "tokens"])
        assert part(options, TrainingConfig).model == values["model"]
    else:
        tokenizer = read_options(TokenizerOptions, recipe, ["--out", "run", "--data", "images"])
        assert part(tokenizer, TokenizerTrainingConfig).total_steps == values["total_steps"]


@pytest.mark.parametrize("script", ["extract_features", "generate", "edit", "train_randar", "tokenize_images"])
def test_scripts_are_aliases(script: str):
    tree = ast.parse((ROOT / f"scripts/{script}.py").read_text(encoding="utf-8"))
    [module] = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert module is not None and callable(importlib.import_module(module).main)
    assert len(tree.body) == 3


def test_every_script_and_benchmark_ends_with_a_status():
    ways = ("raise SystemExit(main", "raise SystemExit(run(", "run_as_command(", "sys.exit(main")
    found = {}
    for path in [*sorted((ROOT / "scripts").glob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]:
        last = ast.parse(path.read_text(encoding="utf-8")).body[-1]
        if isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'":
            found[path.name] = "\n".join(map(ast.unparse, last.body))
    assert {path.name for path in (ROOT / "scripts").glob("*.py")} <= set(found)
    assert {name: body for name, body in found.items() if not body.startswith(ways)} == {}


def every_option(kind: type) -> dict[str, str]:
    """The text of each option of a dataclass, those inside it too."""
    return {setting.name: setting.text for setting in _settings(kind)}


@pytest.mark.parametrize("kind", [TransformerOptions, TokenizerOptions, ExtractOptions, IndexOptions, ProbeOptions])
def test_every_option_has_a_text(kind: type):
    assert [name for name, text in every_option(kind).items() if not text or " behind " in text] == []


def test_doctor_says_what_there_is(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for named in ("torch", "cpu", "available", "randar-tiny: here", "vq_ds16_c2i.pt", "float32", "tensorboard"):
        assert named in shown


def test_the_version(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"randar_features {rf.__version__}\n"


@pytest.mark.parametrize("given", [("--as", "../x"), ("--as", ""), ("--splits", "train", "/x")])
def test_a_split_names_no_folder_elsewhere(given: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    assert main(["tokenize", "--data", "d", "--tokenizer", "t", "--out", "o", *given]) == 2
    assert "without /" in capsys.readouterr().err
