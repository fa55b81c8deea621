"""How good a model's tokenizer and transformer are: `python -m benchmarks.quality --data FOLDER --split validation`.

Tokenizer: PSNR of the reconstruction, share of the codes in use, entropy of the tokens. Transformer: nats per
token over several orders, with the class and with the null class. A model that knows only the frequency of
each code would reach the entropy. Labels must be those that the model was trained with.
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.datasets import read_labelled
from benchmarks.options import ImageTaskOptions
from benchmarks.result import NO_AXES, Result, data_hash
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.tasks.generators.generator_measures import image_losses
from probes import bootstrap_interval
from randar_features import load_model
from randar_features.data import open_images
from randar_features.options.shared import ModelOptions
from randar_features.options.types import Count
from randar_features.training.batches import spread
from randar_features.training.generator.objective import evaluation_orders
from randar_features.training.tokenizer.image_quality import reconstruction_quality


@dataclass(frozen=True, kw_only=True)
class Config(ImageTaskOptions, ModelOptions):
    """Reconstruction by the tokenizer, and likelihood under the transformer.

    Attributes:
        data: labelled images: a folder of class folders, or Parquet files.
        split: split of the data.
        images: number of images for the likelihood, evenly spread over the data.
        orders: number of orders, in pairs of an order and its reverse, the same for all images; a model of one order is
            measured in that one.
    """

    data: str
    split: str | None = None
    images: Count = 1000
    orders: Count = 8


def measure(config: Config, out: Path) -> Measurement:
    """One result: nats per token with the class and with the null class, and how well images are reconstructed."""
    model = load_model(config.model, config.device)
    source = open_images(config.data, split=config.split).read_with(config.reading)
    pixels, labels, warnings = read_labelled(source, config.data, lambda batch: batch, model.image_size, 256)
    picked = spread(len(pixels), config.images)
    tokens, labels = model.tokenizer.encode(pixels[picked].to(model.device)), labels[picked]
    with_class, null_class = image_losses(model.transformer, tokens, labels, config.orders)
    entries = {"nats_per_token": float(with_class.mean()), "interval": bootstrap_interval(with_class)}
    entries |= {
        "nats_per_token_null_class": float(null_class.mean()),
        "images": len(pixels),
        "likelihood_images": len(picked),
    }
    entries |= {"likelihood_orders": len(evaluation_orders(model.transformer, config.orders))}
    quality = reconstruction_quality(model.tokenizer, pixels)
    entries |= {f"tokenizer_{name}": value for name, value in quality.items()}
    return Measurement(
        protocol="nats per token of labelled images, the mean over antithetic orders; reconstruction by the tokenizer",
        axes={**NO_AXES, "encoder": model.name, "resolution": model.image_size},
        data={"evaluation": f"{data_hash(config.data)} {config.split or 'all'}"},
        weights={model.name: model.weights_hash},
        interval="percentile bootstrap over images",
        results=[Result.of(entries)],
        warnings=warnings,
    )


run = Task("quality", Config, measure)

if __name__ == "__main__":
    run_as_command("quality")
