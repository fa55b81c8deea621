"""Encoders under one interface: a name to vectors for the probes, one matrix a variant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from randar_features import Model, sequence
from randar_features.data import open_images
from randar_features.data.readable import readable_batches
from randar_features.encoding import encode_reads
from randar_features.encoding.precision import autocast

PIXEL_SIDE = 32


@dataclass(frozen=True)
class Variant:
    """Vectors (n, D) float32 of all images, and what distinguishes them from the encoder's other variants."""

    encoder: str
    name: str
    vectors: Tensor
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Images:
    """Decoded images (n, 3, S, S) uint8 of one data set, their labels (n,), and what could not be read."""

    pixels: Tensor
    labels: Tensor
    label_names: list[str] | None
    unreadable: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Tensor) -> Images:
        """The images of these rows."""
        return Images(self.pixels[index], self.labels[index], self.label_names, self.unreadable)

    def batches(self, size: int) -> Iterator[Tensor]:
        """Float batches in [0, 1]."""
        for start in tqdm(range(0, len(self), size), unit="batch", leave=False):
            yield self.pixels[start : start + size].float() / 255


def read_images(data: Any, *, image_size: int, split: str | None = None) -> Images:
    """Everything of a labelled data set that `open_images` takes.

    Unreadable images are left out and named in `unreadable`; ValueError if none is left or a label is missing.
    """
    source = open_images(data, split=split)
    pixels: list[Tensor] = []
    labels: list[int] = []
    unreadable: list[dict[str, Any]] = []
    batches = readable_batches(
        source, image_size=image_size, batch_size=256, description=f"reading {split or ''}", unreadable=unreadable
    )
    for batch, batch_labels in batches:
        pixels.append((batch * 255).round().byte())
        labels += batch_labels
    if min(labels) < 0:
        raise ValueError(f"{labels.count(-1)} of {len(labels)} images of {data} have no label: a probe needs one each")
    return Images(torch.cat(pixels), torch.tensor(labels), source.label_names, unreadable)


def variants(
    encoder: str,
    images: Images,
    *,
    model: Model,
    contexts: Sequence[str] = sequence.CONTEXTS,
    reads: Sequence[str] = sequence.READS,
    orders: int | None = None,
    batch_size: int = 64,
) -> Iterator[Variant]:
    """Every variant of an encoder.

    "pixels": the image at 32×32, flattened. "codes": the tokenizer's code vectors, flattened, and their
    histogram. Any other name is a model: mean-pooled features of every layer, context and read, and of all
    layers concatenated. The class is always the null class.
    """
    if encoder == "pixels":
        yield _pixels(images)
    elif encoder == "codes":
        yield from _codes(images, model, batch_size)
    else:
        yield from _features(encoder, images, model, contexts, reads, orders, batch_size)


def _pixels(images: Images) -> Variant:
    small = [F.adaptive_avg_pool2d(batch, PIXEL_SIDE).flatten(1) for batch in images.batches(1024)]
    return Variant("pixels", f"{PIXEL_SIDE}x{PIXEL_SIDE}", torch.cat(small))


@lru_cache(maxsize=1)
def _tokens(images: Images, model: Model, batch_size: int) -> Tensor:
    """Tokens (n, N), kept: "codes" and the model behind them need the same ones, one after the other."""
    return torch.cat([model.tokenizer.encode(batch).cpu() for batch in images.batches(batch_size)])


def _codes(images: Images, model: Model, batch_size: int) -> Iterator[Variant]:
    tokens = _tokens(images, model, batch_size)
    yield Variant("codes", "vectors", model.tokenizer.codes(tokens).flatten(1).cpu())
    counts = torch.zeros(len(tokens), model.tokenizer.vocab_size)
    yield Variant("codes", "histogram", counts.scatter_add_(1, tokens, torch.ones(tokens.shape)))


@torch.inference_mode()
def _features(
    name: str,
    images: Images,
    model: Model,
    contexts: Sequence[str],
    reads: Sequence[str],
    orders: int | None,
    batch_size: int,
) -> Iterator[Variant]:
    tokens = _tokens(images, model, batch_size)
    count = model.transformer.config.num_layers
    drawn = None if orders is None else sequence.antithetic_orders(orders, tokens.shape[1])
    for context in contexts:
        pooled = {read: torch.zeros(len(tokens), count, model.transformer.config.dim) for read in reads}
        for start in tqdm(range(0, len(tokens), batch_size), desc=f"{name} {context}", unit="batch", leave=False):
            rows = slice(start, start + batch_size)
            for order in [None] if drawn is None else drawn:
                with autocast(model.device, None):
                    maps = encode_reads(
                        model.transformer,
                        tokens[rows].to(model.device),
                        order=order,
                        layers=range(count),
                        context=context,
                        reads=reads,
                    )
                for read in reads:
                    pooled[read][rows] += maps[read].mean(dim=(2, 3)).cpu() / (orders or 1)
        for read in reads:
            about = {"context": context, "read": read, "pool": "mean", "orders": orders or "raster"}
            for layer in range(count):
                yield Variant(
                    name, f"{context} {read} layer {layer}", pooled[read][:, layer], {**about, "layer": layer}
                )
            layers = list(range(count))
            yield Variant(name, f"{context} {read} all layers", pooled[read].flatten(1), {**about, "layer": layers})
