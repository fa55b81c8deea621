"""Likelihood that parallel decoding costs in each order: `python -m benchmarks.decoding_orders`.

Real images are scored as a decoder draws: in an order and a number of steps, each token given the tokens of the
steps before. Tokens of one step do not see each other, so fewer steps cost likelihood. An order is good if it costs
little. This needs no sampling and no classifier.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.datasets import PHOTO_DIGITS, open_data
from benchmarks.options import ImageTaskOptions
from benchmarks.result import NO_AXES, Result, data_hash
from benchmarks.run import Measurement, Task, run_as_command
from probes import bootstrap_interval
from randar_features import Model, load_model
from randar_features.data.decode.ranges import DEFAULT_READING, Reading
from randar_features.data.images import readable_batches
from randar_features.generation.complete import arrange, known_orders
from randar_features.generation.decode import DecodingTask, Guidance, decode
from randar_features.generation.schedule import Scale, decoding_schedule, recommended_steps
from randar_features.options.shared import ModelOptions, Order
from randar_features.options.types import Count


class Score:
    """A `Chooser` that draws nothing: it takes the true tokens, and keeps their log-likelihood."""

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
def parallel_log_likelihood(model: Model, tokens: Tensor, *, order: str | None, steps: int) -> Tensor:
    """Log-likelihood of each token (B, N) in nats, raster order, decoded in `steps` steps; null class."""
    batch, num_tokens = tokens.shape
    if order is None or model.transformer.fixed_order:
        raise ValueError(f"{model.name} knows one order only: there are no orders to compare")
    schedule, score = decoding_schedule(num_tokens, steps), Score(tokens)
    every = torch.arange(batch, device=tokens.device)
    nothing = torch.zeros(batch, num_tokens, dtype=torch.bool, device=tokens.device)
    task = DecodingTask(
        classes=torch.full_like(every, model.transformer.config.num_classes),
        order=arrange(order, every, every, schedule, nothing),
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


@dataclass(frozen=True, kw_only=True)
class Config(ImageTaskOptions, ModelOptions):
    """Nats per token in each order of decoding and number of steps.

    Attributes:
        data: a folder of images, or "photo-digits", the built-in test images.
        images: number of images, the first ones.
        steps: numbers of steps; none: one token in each step, the recommended number, half and a quarter of it.
        orders: orders of decoding; none: all that the model knows.
    """

    data: str = PHOTO_DIGITS
    images: Count = 128
    steps: tuple[int, ...] | None = None
    orders: tuple[Order, ...] | None = None


def measure(config: Config, out: Path) -> Measurement:
    """A result each order and number of steps."""
    model = load_model(config.model, config.device)
    tokens = tokens_of(model, config.data, config.images, config.reading)
    recommended = recommended_steps(tokens.shape[1])
    steps = config.steps or [-1, recommended, max(1, recommended // 2), max(1, recommended // 4)]
    results = []
    for order in config.orders or known_orders(model.transformer):
        for count in steps:
            loss = -parallel_log_likelihood(model, tokens, order=order, steps=count).double().mean(1).cpu().numpy()
            entries = {"orders": order, "nats_per_token": float(loss.mean()), "interval": bootstrap_interval(loss)}
            results.append(Result.of(entries | {"steps": count}))
    return Measurement(
        protocol="nats per token of the true tokens, decoded in a number of steps; null class",
        axes={name: value for name, value in {**NO_AXES, "encoder": model.name}.items() if name != "orders"},
        data={"evaluation": f"{data_hash(config.data)} first {len(tokens)} images"},
        weights={model.name: model.weights_hash},
        interval="percentile bootstrap over images",
        results=results,
    )


def tokens_of(model: Model, data: str, count: int, reading: Reading = DEFAULT_READING) -> Tensor:
    """(B, N) tokens of the first images that can be read."""
    source = open_data(data, "test" if data == PHOTO_DIGITS else None, model.image_size, reading)
    found: list[Tensor] = []
    for pixels, _ in readable_batches(source, image_size=model.image_size, batch_size=32, description="tokens"):
        found.append(model.tokenizer.encode(pixels.to(model.device)))
        if sum(map(len, found)) >= count:
            break
    return torch.cat(found)[:count]


run = Task("decoding_orders", Config, measure)

if __name__ == "__main__":
    run_as_command("decoding_orders")
