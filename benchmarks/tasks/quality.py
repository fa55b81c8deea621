"""How good a model's tokenizer and transformer are: `python -m benchmarks.quality --data FOLDER --split validation`.

Tokenizer: PSNR of the reconstruction, share of the codes in use, entropy of the tokens. Transformer: nats per
token over several orders, with the class and with the null class, beside that entropy, which a model
that knows only how frequent each code is would reach. Labels must be those that the model was trained with.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.result import data_hash
from randar_features import load_model, log_likelihood
from randar_features.command_line import run_command
from randar_features.data import open_images
from randar_features.data.readable import readable_batches
from randar_features.store.files import write_json
from randar_features.training.objective import evaluation_orders
from randar_features.training.tokenizer_trainer import reconstruction_quality


def measure(model_name: str, data: str, split: str | None, *, count: int, orders: int) -> dict[str, Any]:
    """All figures; the likelihood on `count` images spread evenly through the data, of models of one order in that."""
    model = load_model(model_name)
    pixels, labels = read_images(data, image_size=model.image_size, split=split)
    picked = torch.linspace(0, len(pixels) - 1, min(count, len(pixels))).long()
    tokens, labels = model.tokenizer.encode(pixels[picked]), labels[picked]
    several = evaluation_orders(model.transformer, orders)[:, None]
    with_class = log_likelihood(model.transformer, tokens, labels, several)
    null_class = log_likelihood(model.transformer, tokens, None, several)
    return {
        "model": model.name,
        "weights": model.weights_hash,
        "data": data_hash(data),
        "images": len(pixels),
        "tokenizer": reconstruction_quality(model.tokenizer, pixels),
        "likelihood_images": len(picked),
        "likelihood_orders": len(several),
        "nats_per_token": -with_class.mean().item(),
        "nats_per_token_null_class": -null_class.mean().item(),
        "machine": describe(model.device),
    }


def read_images(data: str, *, image_size: int, split: str | None) -> tuple[Tensor, Tensor]:
    """All images (n, 3, S, S) in [0, 1] that can be read, and their labels (n,); ValueError if one has no label."""
    pixels: list[Tensor] = []
    labels: list[int] = []
    source, options = open_images(data, split=split), {"image_size": image_size, "batch_size": 256}
    for batch, batch_labels in readable_batches(source, description="reading", unreadable=[], **options):
        pixels.append(batch)
        labels += batch_labels
    if min(labels) < 0:
        raise ValueError(f"{labels.count(-1)} of {len(labels)} images of {data} have no label: the likelihood needs it")
    return torch.cat(pixels), torch.tensor(labels)


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="randar-tiny")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split")
    parser.add_argument("--images", type=int, default=1000, help="how many to compute the likelihood of")
    parser.add_argument("--orders", type=int, default=8)
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    result = measure(args.model, args.data, args.split, count=args.images, orders=args.orders)
    for name, value in result.items():
        print(f"{name:28s} {value}")
    if args.out is not None:
        write_json(args.out, result)


if __name__ == "__main__":
    run_command(main)
