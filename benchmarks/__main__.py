"""`python -m benchmarks TASK …`, which is `randar bench TASK …`."""

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.run import TASKS
from benchmarks.run import main as run_task
from randar_features.cli.run import subcommands

OTHERS = {
    "suite": ("benchmarks.suite", "run every task on every data set, and write a report"),
    "demo": ("benchmarks.demo", "run the suite on built-in data"),
    "report": ("benchmarks.report.write", "write an HTML page of results"),
    "diff": ("benchmarks.report.diff", "say if two results are comparable, and why"),
}


def _other(name: str, arguments: Sequence[str]) -> int:
    status: int = importlib.import_module(OTHERS[name][0]).main(arguments)
    return status


def main(arguments: Sequence[str] | None = None, program: str = "python -m benchmarks") -> int:
    """Call the task or the command that the first argument names, and return its exit status."""
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        name: partial(run_task, name, program=f"{program} {name}") for name in TASKS
    }
    commands |= {name: partial(_other, name) for name in OTHERS}
    about = "Benchmarks of features, of generation and of speed."
    texts = {name: words for name, (_, words) in {**TASKS, **OTHERS}.items()}
    return subcommands(commands, arguments, program=program, about=about, texts=texts)


if __name__ == "__main__":
    sys.exit(main())
