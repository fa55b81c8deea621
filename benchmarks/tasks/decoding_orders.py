"""What parallel decoding costs in each order: `python -m benchmarks.decoding_orders`.

Real images are scored as the decoder would have drawn them: in an order and a number of steps, each token
given those of the steps before. Tokens of one step do not see each other, so fewer steps cost likelihood; an
order is good where it costs little. Needs no sampling and no classifier.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import describe
from randar_features import Model, load_model
from randar_features.command_line import run_command
from randar_features.data import PhotoDigits, open_images
from randar_features.generation.complete import ORDERS, arrange, known_orders
from randar_features.generation.decode import DecodingTask, Guidance, decode
from randar_features.generation.schedule import Scale, decoding_schedule, recommended_steps
from randar_features.store.files import write_json


class Score:
    """In the place of sampling: takes the true tokens, and keeps their log-likelihood."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self.log_likelihood = torch.zeros(tokens.shape, device=tokens.device)

    def draw(self, logits: Tensor, seeds: Tensor, locations: Tensor) -> Tensor:
        """The true tokens (B, M) at the locations."""
        true = self.tokens.gather(1, locations)
        found = logits.log_softmax(dim=-1).gather(-1, true[..., None])[..., 0]
        self.log_likelihood.scatter_(1, locations, found)
        return true


@torch.no_grad()
def parallel_log_likelihood(model: Model, tokens: Tensor, *, order: str | None, steps: int, seed: int = 0) -> Tensor:
    """Log-likelihood of each token (B, N) in nats, raster order, decoded in so many steps; null class."""
    batch, num_tokens = tokens.shape
    if order is None or model.transformer.fixed_order:
        raise ValueError(f"{model.name} knows one order only: there are no orders to compare")
    schedule, score = decoding_schedule(num_tokens, steps), Score(tokens)
    every = torch.arange(batch, device=tokens.device)
    nothing = torch.zeros(batch, num_tokens, dtype=torch.bool, device=tokens.device)
    task = DecodingTask(
        classes=torch.full_like(every, model.transformer.config.num_classes),
        order=arrange(order, every + seed, every, schedule, nothing),
        known=tokens[:, :0],
        schedule=schedule,
        guidance=Guidance(scale=Scale(1, 1)),
        sampling=score,
        seeds=every,
        rotary=model.transformer.rotary,
        by_confidence=order == "confidence",
    )
    decode(model.transformer, task)
    return score.log_likelihood


def main() -> None:
    """Print nats a token for each order and number of steps, and write all to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="randar-tiny")
    parser.add_argument("--images", default="photo-digits", help="a folder, or photo-digits: the built-in test images")
    parser.add_argument("--count", type=int, default=128, help="images, the first ones")
    parser.add_argument("--steps", type=int, nargs="+", help="default: one token a step, the recommended number, …")
    parser.add_argument("--orders", nargs="+", choices=ORDERS, help="default: all that the model knows")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()

    model = load_model(args.model)
    tokens = tokens_of(model, args.images, args.count)
    recommended = recommended_steps(tokens.shape[1])
    steps = args.steps or [-1, recommended, max(1, recommended // 2), max(1, recommended // 4)]
    rows: list[dict[str, Any]] = []
    for order in args.orders or known_orders(model.transformer):
        losses = {
            count: -float(parallel_log_likelihood(model, tokens, order=order, steps=count).mean()) for count in steps
        }
        rows += [{"order": order, "steps": count, "nats_per_token": loss} for count, loss in losses.items()]
        print(f"{order:14s}" + "".join(f"{loss:9.4f} ({count} steps)" for count, loss in losses.items()), flush=True)
    if args.out:
        settings = {"model": model.name, "weights": model.weights_hash, "images": args.images, "count": len(tokens)}
        write_json(args.out, {"machine": describe(model.device), "settings": settings, "results": rows})


def tokens_of(model: Model, images: str, count: int) -> Tensor:
    """(B, N) tokens of the first images."""
    if images == "photo-digits":
        digits = PhotoDigits("test", size=model.image_size)
        pictures: Any = [digits[index].image for index in range(min(count, len(digits)))]
    else:
        pictures = images
    found: list[Tensor] = []
    for batch in open_images(pictures).batches(model.image_size, 32):
        good = torch.tensor([status == "ok" for status in batch.status])
        found.append(model.tokenizer.encode(batch.pixels[good].to(model.device)))
        if sum(map(len, found)) >= count:
            break
    return torch.cat(found)[:count]


if __name__ == "__main__":
    run_command(main)
