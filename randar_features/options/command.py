"""How a command runs: it gets its options, its log is plain, and an error for the user is one line.

Exit status: 0, 2 for an error, `UNFINISHED` where a time limit ended it, `INTERRUPTED` after Ctrl-C, `TERMINATED` after
SIGTERM.
"""

import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from randar_features.options.parse import OptionError, Options, parse
from randar_features.options.types import nearest
from randar_features.store.records import printable

EXPLAINED: tuple[type[Exception], ...] = (
    ValueError, OSError, MemoryError, IndexError, FloatingPointError, ModuleNotFoundError,
)  # fmt: skip
"""Errors whose message is for the user: one line. Others are faults of this program and come with a traceback."""

EXTRA_OF = dict.fromkeys(("matplotlib", "jinja2", "pandas"), "benchmarks") | {
    "tensorboard": "training",
    "zarr": "zarr",
    "gradio": "explore",
    "ray": "ray",
}
"""The extra that installs a package."""

UNFINISHED = 75
"""Exit status (EX_TEMPFAIL) of a command that a time limit ended: run it again to continue."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

TERMINATED = 143
"""Exit status after SIGTERM, which schedulers send, as shells have it."""


def run(
    command: Callable[[Options], int | None],
    options: type[Options],
    arguments: Sequence[str] | None = None,
    *,
    program: str | None = None,
    recipe: Path | None = None,
    also: tuple[type[Exception], ...] = (),
) -> int:
    """Read the options, call the command with them, and return the exit status.

    A bad option, and an error of `EXPLAINED` or `also`, is one line "error: …" and status 2; in Python's development
    mode (`python -X dev`) it is a traceback. Ctrl-C is one line and status 130, SIGTERM one line and status 143.

    Args:
        command: takes the options, and returns its exit status; None is 0.
        options: the dataclass to fill.
        arguments: of the command line; None: those of this process.
        program: the name in the usage line; None: that of this process.
        recipe: the YAML file to read where `--config` is not given.
        also: further errors whose message is for the user.
    """

    def action() -> int | None:
        with plain_log():
            return command(parse(options, arguments, program=program, recipe=recipe))

    status = ended(action, also)
    if status == UNFINISHED:
        print("not finished: run the command again to continue")
    return status


def subcommands(
    commands: Mapping[str, Callable[[Sequence[str]], int]],
    arguments: Sequence[str] | None = None,
    *,
    program: str,
    about: str,
    texts: Mapping[str, str],
) -> int:
    """Call the command that the first argument names with the others, and return its exit status.

    Args:
        commands: take their arguments and return an exit status. They may import what they need when they are called.
        arguments: of the command line; None: those of this process.
        program: the name in the usage line.
        about: the help's first words.
        texts: a line of help for each command.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)

    def action() -> int:
        if not given or given[0] in ("-h", "--help"):
            width = max(map(len, commands))
            lines = [f"  {name:{width}s}  {texts.get(name, '')}".rstrip() for name in commands]
            print(f"usage: {program} COMMAND …\n\n{about}\n\ncommands:\n" + "\n".join(lines))
            print(f"\n{program} COMMAND --help lists the options of a command")
            return 0
        if given[0] not in commands:
            raise OptionError(f"{program} has no command {given[0]!r}; {nearest(given[0], list(commands))}")
        return commands[given[0]](given[1:])

    return ended(action)


def ended(action: Callable[[], int | None], also: tuple[type[Exception], ...] = ()) -> int:
    """The exit status of an action; an error for the user, Ctrl-C and SIGTERM are one line each, see `run`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may hold what the terminal's encoding cannot
            stream.reconfigure(errors="backslashreplace")
    try:
        with _written_out(), _terminable():
            return action() or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `randar … | head`: nobody reads on
        return 1
    except SystemExit as end:
        if end.code == TERMINATED:
            print("terminated", file=sys.stderr)
        if not isinstance(end.code, str):
            return int(end.code or 0)
        print(f"error: {end.code}", file=sys.stderr)
    except Exception as error:
        out_of_memory = type(error).__name__ == "OutOfMemoryError"  # torch's, without importing torch
        if sys.flags.dev_mode or not (out_of_memory or isinstance(error, EXPLAINED + also)):
            raise
        message = printable(" ".join(str(error).split())) or type(error).__name__
        print(f"error: {message}{_remedy(error, message)}", file=sys.stderr)
    return 2


@contextmanager
def _written_out() -> Iterator[None]:
    """Standard output is written at the end of the block; what cannot be is dropped, as Python would try it again."""
    try:
        yield
    finally:
        try:
            if sys.stdout is not None:  # it may be closed
                sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


@contextmanager
def _terminable() -> Iterator[None]:
    """Within it, SIGTERM ends the block as an exception does: locks are released, temporary files removed.

    A program that calls a command keeps the handler that it has; only the default one is replaced.
    """
    main_thread = threading.current_thread() is threading.main_thread()  # which alone may handle signals
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a scheduler and torchrun both send one
        sys.exit(TERMINATED)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def plain_log() -> Iterator[None]:
    """Within it, log records and warnings are one line each on standard error: ours from INFO, others' from WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    shown: set[str] = set()  # a command that opens the same images for several steps tells of them once

    def first_time(record: logging.LogRecord) -> bool:
        before = len(shown)
        shown.add(record.getMessage())
        return len(shown) > before

    handler.addFilter(first_time)
    root, ours = logging.getLogger(), [logging.getLogger(name) for name in ("randar_features", "probes", "benchmarks")]
    before = [logger.level for logger in ours]
    root.addHandler(handler)
    for logger in ours:
        logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: logging.getLogger("py.warnings").warning("%s", message)
            yield
    finally:
        root.removeHandler(handler)
        for logger, level in zip(ours, before, strict=True):
            logger.setLevel(level)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = " ".join(record.getMessage().split())
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def _remedy(error: Exception, message: str) -> str:
    """What to install where a package of an extra is missing."""
    extra = EXTRA_OF.get((getattr(error, "name", None) or "").partition(".")[0])
    if not isinstance(error, ModuleNotFoundError) or extra is None or "pip install" in message:
        return ""
    return f": pip install 'randar-features[{extra}]'"
