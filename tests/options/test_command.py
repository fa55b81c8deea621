from __future__ import annotations

import io
import logging
import os
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from randar_features.options.command import UNFINISHED, plain_log, run, subcommands
from randar_features.store.lock import FolderLockedError, locked


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Count steps.

    Attributes:
        number: of them.
    """

    number: int = 1


def run_with(action: Any) -> int:
    return run(action, Steps, [])


def test_the_status_is_what_the_command_returns():
    assert run_with(lambda options: None) == 0
    assert run_with(lambda options: 3) == 3


@pytest.mark.parametrize(
    "error",
    [ValueError("three\nat least"), FileNotFoundError("no data"), MemoryError("needs 9 GB"), SystemExit("no data")],
)
def test_an_error_for_the_user_is_one_line(error: BaseException, capsys: pytest.CaptureFixture[str]):
    def fail(options: Steps) -> None:
        raise error

    assert run_with(fail) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"error: {' '.join(str(error).split())}\n"


def test_a_fault_of_the_program_is_a_traceback():
    def fail(options: Steps) -> None:
        raise KeyError("a")

    with pytest.raises(KeyError):
        run_with(fail)


def test_what_is_not_finished_says_so(capsys: pytest.CaptureFixture[str]):
    assert run_with(lambda options: UNFINISHED) == 75
    assert "run the command again" in capsys.readouterr().out


def test_log_and_warnings_are_one_line_each(capsys: pytest.CaptureFixture[str]):
    def speak(options: Steps) -> None:
        logging.getLogger("randar_features.store").info("3 images")
        logging.getLogger("somebody").info("unheard")
        warnings.warn("a class\nis missing", stacklevel=1)

    assert run_with(speak) == 0
    assert capsys.readouterr().err == "3 images\nwarning: a class is missing\n"
    assert logging.getLogger("randar_features").level == logging.NOTSET


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_command_in_order(
    number: int, status: int, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def write(options: Steps) -> None:
        with locked(tmp_path):
            signal.raise_signal(number)

    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)  # a worker of pytest-xdist may ignore Ctrl-C
    try:
        assert subcommands({"count": lambda _: run_with(write)}, ["count"], program="", about="", texts={}) == status
        assert signal.getsignal(number) is usual
    finally:
        signal.signal(number, before)
    assert capsys.readouterr() == ("", f"{word}\n")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"], "not the name of the process"


def test_a_program_that_calls_a_command_keeps_its_handler():
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        assert run_with(lambda options: signal.raise_signal(signal.SIGTERM)) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_a_pipe_that_nobody_reads_ends_a_command_quietly(monkeypatch: pytest.MonkeyPatch):
    """Small output stays in the buffer until the end, so that the pipe is found broken only there."""
    for command in (
        lambda: run_with(lambda options: print("3 images")),
        lambda: subcommands({"count": len}, ["--help"], program="randar", about="", texts={}),
    ):
        reading, writing = os.pipe()
        os.close(reading)
        with io.TextIOWrapper(io.FileIO(writing, "w")) as out:
            monkeypatch.setattr("sys.stdout", out)
            assert command() == 1
            out.flush()  # as Python does at its end


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full")
def test_output_to_a_full_disk_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with Path("/dev/full").open("w") as out:
        monkeypatch.setattr("sys.stdout", out)
        assert run_with(lambda options: print("3 images")) == 2
        out.flush()
    assert capsys.readouterr().err.startswith("error: ")


def test_a_locked_folder_is_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def write(options: Steps) -> None:
        with locked(tmp_path), pytest.raises(FolderLockedError) as refused, locked(tmp_path):
            pass
        raise refused.value

    assert run_with(write) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} is being written by process")


def test_subcommands(capsys: pytest.CaptureFixture[str]):
    commands = {"count": lambda arguments: len(arguments), "search": lambda arguments: 0}
    names: dict[str, Any] = {"program": "randar", "about": "A toolkit.", "texts": {"count": "count things"}}
    assert subcommands(commands, ["count", "a", "b"], **names) == 2
    assert subcommands(commands, ["--help"], **names) == 0
    assert "count   count things" in capsys.readouterr().out
    assert subcommands(commands, ["cuont"], **names) == 2
    assert "did you mean count?" in capsys.readouterr().err


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str]):
    def draw(options: Steps) -> None:
        raise ModuleNotFoundError("No module named 'matplotlib.axes'", name="matplotlib.axes")

    assert run(draw, Steps, []) == 2
    assert "pip install 'randar-features[benchmarks]'" in capsys.readouterr().err


def test_a_message_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    with plain_log():
        for text in ("opened 3 images", "opened 3 images", "step 1"):
            logging.getLogger("randar_features.test").info(text)
    assert capsys.readouterr().err.splitlines() == ["opened 3 images", "step 1"]
