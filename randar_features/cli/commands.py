"""`randar COMMAND`: the list of commands. A command is imported when it is called, not before."""

import importlib
from collections.abc import Sequence
from functools import partial

from randar_features.cli.parse import subcommands

ABOUT = "Features, search, generation, editing and training with autoregressive image models."
TEXTS = {
    "extract": "features of images into a store on disk",
    "index": "an index of a collection of images",
    "search": "the images of an index that are most similar to given ones",
    "probe": "accuracy of a probe on the features of labelled images",
    "bench": "benchmarks of features, of generation and of speed",
    "generate": "images of classes",
    "edit": "inpaint, outpaint or upscale an image",
    "animate": "a GIF of decoding orders side by side",
    "explore": "a page in your browser to look at images through a model",
    "tokenize": "images as tokens, for training",
    "train": "train a model on your images in minutes, or a stage of the full recipe",
    "export": "a table of features as Parquet or Zarr, or the parts of a training as one model folder",
    "push": "upload a model to the Hugging Face Hub",
    "report": "an HTML page of benchmark results",
    "diff": "why two benchmark results can or cannot be compared",
    "doctor": "what this machine has: versions, devices, memory, caches, weights, extras",
}


OF_BENCHMARKS = {"bench": "benchmarks.__main__", "report": "benchmarks.report.write", "diff": "benchmarks.report.diff"}


def call(name: str, arguments: Sequence[str]) -> int:
    """Import a command and run it."""
    if name in OF_BENCHMARKS:
        return importlib.import_module(OF_BENCHMARKS[name]).main(arguments, f"randar {name}")
    return importlib.import_module(f"randar_features.cli.{name}").main(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    commands = {name: partial(call, name) for name in TEXTS}
    return subcommands(commands, arguments, program="randar", about=ABOUT, texts=TEXTS)
