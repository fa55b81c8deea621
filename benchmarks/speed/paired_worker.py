"""One process of `benchmarks.speed.paired_speed`: does the works that standard input names, one on each line.

It runs with the packages of either checkout, so it uses only public names that older commits have too. The arguments
are the sizes of the model, as JSON, and the steps of generation. Prints the processor seconds of each work.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import randar_features as rf
from randar_features.models import RandAR, RandARConfig


def features_and_generation(sizes: dict[str, Any], steps: int) -> dict[str, Callable[[], object]]:
    """The two works on a model of these sizes with random weights."""
    model = RandAR(RandARConfig(**sizes)).eval().requires_grad_(False)
    model.initialize(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.output.weight, std=0.02, generator=torch.Generator().manual_seed(1))
    shape = (2, sizes["num_tokens"])
    tokens = torch.randint(sizes["vocab_size"], shape, generator=torch.Generator().manual_seed(2), device="cpu")
    return {
        "features": lambda: rf.encode_tokens(model, tokens, layers=[sizes["num_layers"] - 1], context="reverse"),
        "generation": lambda: rf.generate(model, [1], steps=steps, generator=0),
    }


def training() -> Callable[[], object]:
    """A step of randar-tiny's size on 16 images."""
    speed = "benchmarks.speed.training_speed" if Path("benchmarks/speed").exists() else "benchmarks.training_speed"
    module: Any = import_module(speed)
    step = module.our_step(module.Config(model="randar-tiny", batch_size=16).resolved())
    return lambda: step(0)


def main(sizes: str, steps: str) -> int:
    """Do what standard input names, until it ends; the exit status."""
    torch.set_num_threads(1)
    works = features_and_generation(json.loads(sizes), int(steps))
    for line in sys.stdin:
        work = line.strip()
        if work not in works:
            works[work] = training()
        start = time.process_time()
        works[work]()
        print(time.process_time() - start, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
