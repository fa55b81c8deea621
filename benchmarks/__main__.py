"""`python -m benchmarks TASK …`, which is `randar bench TASK …`."""

import importlib
import sys
from collections.abc import Sequence
from functools import partial

from benchmarks.run import TASKS
from benchmarks.run import main as run_task
from randar_features.options.command import subcommands

OTHERS = {
    "suite": ("benchmarks.suite", "run every task on every data set, and write a report"),
    "demo": ("benchmarks.demo", "run the suite on built-in data"),
    "report": ("benchmarks.report.write", "write an HTML page of results"),
    "diff": ("benchmarks.report.diff", "say if two results are comparable, and why"),
}


def main(arguments: Sequence[str] | None = None, program: str = "python -m benchmarks") -> int:
    """Call the task or the command that the first argument names, and return its exit status."""

    def call(name: str, given: Sequence[str]) -> int:
        if name in TASKS:
            return run_task(name, given, program=f"{program} {name}")
        return importlib.import_module(OTHERS[name][0]).main(given, f"{program} {name}")

    about = "Benchmarks of features, of generation and of speed."
    texts = {name: words for name, (_, words) in {**TASKS, **OTHERS}.items()}
    commands = {name: partial(call, name) for name in texts}
    return subcommands(commands, arguments, program=program, about=about, texts=texts)


if __name__ == "__main__":
    sys.exit(main())
