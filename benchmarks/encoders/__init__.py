"""Encoders under one interface: a name to an `Encoder`, and its features of a data set, computed once."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.encoders.base import Encoder, all_layers
from benchmarks.encoders.extract import add_to_store, extract, unreadable
from benchmarks.encoders.feature_file import PREFIX, FeatureFile
from benchmarks.encoders.generators import GeneratorEncoder, TokenizerEncoder, untrained
from benchmarks.encoders.plain import HistogramEncoder, PixelsEncoder
from benchmarks.result import resolved_dtype
from randar_features import Model, load_model
from randar_features.baselines import PACKAGES, RANDOM, is_network

FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # MODULE:FACTORY
DEFAULT_MODEL = "randar-tiny"
PLAIN = ("pixels", "histogram", "codes", "latents", "features", "timm", *PACKAGES)


def load_encoder(
    name: str | Model,
    *,
    contexts: Sequence[str] | None = None,
    reads: Sequence[str] | None = None,
    orders: int | None = None,
    device: torch.device | str | None = None,
    dtype: str | None = None,
) -> Encoder:
    """An encoder by its name.

    Args:
        name: "pixels"; "histogram" (of colours); "codes:MODEL" or "latents:MODEL", what the model's tokenizer
            makes of an image ("codes" and "latents": of randar-tiny's); "efficientnet-lite0" or "timm:NAME", see
            `randar_features.baselines`; "MODULE:FACTORY", see `benchmarks.encoders.modules`; "features:FILE", see
            `benchmarks.encoders.feature_file`; else a model as `load_model` takes it, a loaded one too, with "?random"
            after its name for a transformer of random weights on the same tokens.
        contexts, reads: of a model, None: all that it has.
        orders: of a model, None: one raster order; K: the mean over K seeded random ones.
        device: None: CUDA where there is one.
        dtype: number format that it computes in: float32 (also None), bfloat16, float16 or auto, the device's fastest.

    Raises:
        ValueError, FileNotFoundError: there is no such encoder, or a model has no such context or read.
    """
    encoder = _load(name, device, contexts=contexts, reads=reads, orders=orders)
    encoder.dtype = getattr(torch, resolved_dtype(dtype, encoder.device))
    return encoder


def load_encoders(names: Sequence[str], **loading: Any) -> Iterator[Encoder]:
    """Each encoder when its turn comes, as `load_encoder` gives it.

    All are loaded before the first is given, so that one that cannot be loaded is refused before any work; one at a
    time, since they may not go into memory together.
    """
    for name in names[1:]:
        load_encoder(name, **loading)
    for name in names:
        yield load_encoder(name, **loading)


def _load(name: str | Model, device: torch.device | str | None, **outputs: Any) -> Encoder:
    if isinstance(name, Model):
        return GeneratorEncoder(name, device=device, **outputs)
    kind, _, rest = name.partition(":")
    if name == "pixels":
        return PixelsEncoder()
    if name == "histogram":
        return HistogramEncoder()
    if kind in ("codes", "latents"):
        return TokenizerEncoder(name, rest or DEFAULT_MODEL, device)
    if name.startswith(PREFIX):
        return FeatureFile(name)
    if is_network(name):
        from benchmarks.encoders.timm_models import TimmEncoder  # takes seconds to import

        return TimmEncoder(name, device)
    if FACTORY.fullmatch(name):
        from benchmarks.encoders.modules import ModuleEncoder

        return ModuleEncoder(name, device)
    if not Path(name).exists() and (nearest := difflib.get_close_matches(kind, PLAIN, n=1, cutoff=0.7)):
        raise ValueError(f"no encoder {name!r}: did you mean {nearest[0]!r}? Or any model, as `load_model` takes it")
    model = untrained(load_model(name.removesuffix(RANDOM), device)) if name.endswith(RANDOM) else name
    return GeneratorEncoder(model, device=device, **outputs)


__all__ = [
    "DEFAULT_MODEL",
    "Encoder",
    "add_to_store",
    "all_layers",
    "extract",
    "load_encoder",
    "load_encoders",
    "unreadable",
]
