"""`randar COMMAND`: the list of commands. A command is imported when it is called, not before."""

import importlib
import sys
from collections.abc import Sequence
from functools import partial

from randar_features import __version__
from randar_features.options.command import subcommands

ABOUT = "Features, search, generation, editing and training with autoregressive image models."
TEXTS = {
    "extract": "write the features of images into a store on disk",
    "index": "index a collection of images",
    "search": "find the images of an index that are most similar to given ones",
    "probe": "train and evaluate a probe on the features of labelled images",
    "bench": "run benchmarks of features, of generation and of speed",
    "generate": "draw images of classes",
    "edit": "inpaint, outpaint or upscale an image",
    "animate": "show decoding orders side by side, as a GIF",
    "explore": "open a page in the browser to look at images through a model",
    "tokenize": "turn images into tokens, for training",
    "train": "train a model on your images in minutes, or a stage of the full recipe",
    "export": "write a table of features as Parquet or Zarr, or the parts of a training as one model folder",
    "push": "upload a model to the Hugging Face Hub",
    "report": "write an HTML page of benchmark results",
    "diff": "say if two benchmark results are comparable, and why",
    "doctor": "show what this machine has: versions, devices, memory, caches, weights, extras",
}


OF_BENCHMARKS = {"bench": "benchmarks.__main__", "report": "benchmarks.report.write", "diff": "benchmarks.report.diff"}


def call(name: str, arguments: Sequence[str]) -> int:
    """Import a command and run it."""
    if name in OF_BENCHMARKS:
        return importlib.import_module(OF_BENCHMARKS[name]).main(arguments, f"randar {name}")
    return importlib.import_module(f"randar_features.cli.{name}").main(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    given = sys.argv[1:] if arguments is None else arguments
    if list(given) == ["--version"]:
        print(f"randar_features {__version__}")
        return 0
    commands = {name: partial(call, name) for name in TEXTS}
    return subcommands(commands, given, program="randar", about=ABOUT, texts=TEXTS)
