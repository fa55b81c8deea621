"""README's Python runs as pasted, and its command lines name commands and options that exist."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import torch

from randar_features.cli.commands import TEXTS, main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def command_lines() -> list[list[str]]:
    """The arguments of each `randar …` line, without comments; continued lines are joined."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("randar ")]


@pytest.mark.usefixtures("photos")
def test_the_python_runs_as_pasted():
    torch.manual_seed(0)
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), names)
    assert "accuracy" in printed.getvalue()
    assert names["images"].shape == (3, 3, 64, 64)  # type: ignore[attr-defined]


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return capsys.readouterr().out


def command_of(arguments: list[str]) -> list[str]:
    """The command and its subcommand, if it has one."""
    deeper = {"bench", "edit"}
    stages = {"transformer", "tokenizer"}
    if arguments[0] in deeper or (arguments[0] == "train" and arguments[1] in stages):
        return arguments[:2]
    return arguments[:1]


@pytest.mark.parametrize("arguments", command_lines(), ids=" ".join)
def test_command_lines_name_options_that_exist(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert arguments[0] in TEXTS
    text = help_of(command_of(arguments), capsys)
    options = {word.split("=")[0] for word in arguments if word.startswith("--")}
    assert options <= set(re.findall(r"--[\w-]+", text))


def test_every_command_is_named():
    assert all(f"randar {name}" in README for name in TEXTS)


def test_every_link_and_picture_is_there():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert missing == []
