"""What a command prints and returns when it fails, in a process of its own as a shell sees it."""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from randar_features import command_line
from randar_features.command_line import add_time_limit, run_command, stop_unfinished

ROOT = Path(__file__).parents[1]
COMMANDS = [*sorted((ROOT / "scripts").glob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]


def fail(raised: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A command whose main raises `raised`, under an interpreter with these options."""
    source = f"from randar_features.command_line import run_command\ndef main(): raise {raised}\nrun_command(main)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDEVMODE", None)
    command = [sys.executable, *options, "-c", source]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_an_error_that_explains_itself_is_one_line():
    done = fail("FileNotFoundError('no data at nowhere: expected a folder')")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "FileNotFoundError: no data at nowhere: expected a folder\n"


def test_development_mode_shows_where_it_was_raised():
    done = fail("ValueError('three at least')", "-X", "dev")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "in main" in done.stderr
    assert done.stderr.endswith("ValueError: three at least\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError("needs 9 GB"), "MemoryError: needs 9 GB"),
        (IndexError("row 2 is not in the index"), "IndexError: row 2 is not in the index"),
        (FloatingPointError("loss is nan"), "FloatingPointError: loss is nan"),
        (UnicodeError("no text"), "UnicodeError: no text"),
        (LookupError("asked for"), "LookupError: asked for"),
    ],
)
def test_what_explains_itself(error: Exception, line: str):
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(main, LookupError)
    assert ended.value.code == line


@pytest.mark.parametrize("error", [RuntimeError("shapes"), KeyError("a"), AssertionError(), SystemExit(75)])
def test_anything_else_is_left_alone(error: BaseException):
    def main() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        run_command(main)
    assert raised.value is error


def started(path: Path) -> str | None:
    """What a module does when it is run, None: nothing."""
    last = ast.parse(path.read_text(encoding="utf-8")).body[-1]
    if not isinstance(last, ast.If) or ast.unparse(last.test) != "__name__ == '__main__'":
        return None
    return "\n".join(map(ast.unparse, last.body))


def test_every_script_and_benchmark_ends_in_this_way():
    found = {path.name: body for path in COMMANDS if (body := started(path)) is not None}
    assert {path.name for path in COMMANDS if path.parent.name == "scripts"} <= set(found)
    assert {"suite.py", "demo.py", "diff.py"} <= set(found)
    ways = ("run_command(main", "raise SystemExit(main", "run_as_command(", "sys.exit(main")
    assert {name: body for name, body in found.items() if not body.startswith(ways)} == {}


def test_a_limit_counts_from_the_parsing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(command_line.time, "monotonic", lambda: 100.0)
    parser = argparse.ArgumentParser()
    add_time_limit(parser)
    assert parser.parse_args([]).deadline is None
    assert parser.parse_args(["--max-minutes", "2.5"]).deadline == 250
    assert parser.parse_args(["--max-minutes", "-1"]).deadline == 40
    with pytest.raises(SystemExit):
        parser.parse_args(["--max-minutes", "soon"])
    assert "--max-minutes: invalid number of minutes value: 'soon'" in capsys.readouterr().err


def test_what_is_not_finished_says_so(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        run_command(stop_unfinished)
    assert ended.value.code == 75
    assert capsys.readouterr().out == "not finished: run it again to continue\n"
