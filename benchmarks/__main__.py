"""`python -m benchmarks TASK …`, which is `randar bench TASK …`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.run import TASKS
from randar_features.cli import parse

OTHERS = {"suite": "benchmarks.suite", "demo": "benchmarks.demo", "report": "benchmarks.report.write"}
OTHERS |= {"diff": "benchmarks.report.diff"}
TEXTS = {
    "classification": "logistic, linear, kNN, few-shot and attentive probes",
    "generative_classification": "the likeliest class, beside a probe",
    "retrieval": "mAP and Recall@K, exactly and through indexes",
    "near_duplicates": "the same picture twice",
    "duplicate_recall": "how many of these are found",
    "segmentation": "mIoU of heads on feature maps",
    "correspondence": "PCK of matched points",
    "maps": "feature maps as colours",
    "samples": "pictures that a model draws",
    "generation": "FID and its kin of samples, and the search of guidance, steps and order",
    "reconstruction": "what a tokenizer loses, by the same measures",
    "quality": "reconstruction and likelihood",
    "decoding_orders": "likelihood by order and number of steps",
    "architectures": "RandAR and its sisters in one table",
    "throughput": "images a second of features",
    "generation_speed": "seconds to draw images",
    "training_speed": "seconds of a training step",
    "training_plan": "time and memory of a training run, computed",
    "probe_speed": "seconds to fit probes",
    "index_speed": "building and searching indexes",
    "extraction_speed": "from JPEG files to a store",
    "growth": "time and memory against images, tokens and layers",
    "gpu_report": "tests and speed on a GPU, one page",
    "generation_metrics_speed": "seconds of distances, precision and recall",
    "suite": "every task on every data set, and a report",
    "demo": "the suite on built-in data",
    "report": "an HTML page of results",
    "diff": "why two results can or cannot be compared",
}


def _task(name: str, program: str, arguments: Sequence[str]) -> int:
    from benchmarks.run import main as run_task

    return run_task(name, arguments, f"{program} {name}")


def _other(name: str, arguments: Sequence[str]) -> int:
    status: int = importlib.import_module(OTHERS[name]).main(arguments)
    return status


def main(arguments: Sequence[str] | None = None, program: str = "python -m benchmarks") -> int:
    """Call the task or the command that the first argument names, and return its exit status."""
    commands: dict[str, Callable[[Sequence[str]], int]] = {name: partial(_task, name, program) for name in TASKS}
    commands |= {name: partial(_other, name) for name in OTHERS}
    about = "Benchmarks of features, of generation and of speed."
    return parse.subcommands(commands, arguments, program=program, about=about, texts=TEXTS)


if __name__ == "__main__":
    sys.exit(main())
