"""Indexes for every encoder of the benchmarks, which also encodes the queries."""

from collections.abc import Mapping
from typing import Any

from benchmarks.encoders import Encoder, load_encoder
from randar_features.precision import name_of, parse_format
from randar_features.retrieval import Index
from randar_features.retrieval.encoders import check_encoder


def warn_of_classes(features: Mapping[str, Any]) -> None:
    """Print a warning if these features, as an index tells of them, were made with the class given."""
    if (classes := features.get("classes")) is not None:
        print(
            f"warning: class-informed features: the encoder was given the class (classes={classes!r}), so that "
            "neighbours of one class may be near by their label, not by what is seen"
        )


def encoder_of(index: Index, name: str | None = None, device: str | None = None) -> Encoder:
    """The encoder that an index is of; `name`: where its model is now, if it has moved.

    Raises:
        IndexFilesError: what the encoder gives are not the features that the index is of.
    """
    features = index.features
    dtype = name_of(parse_format(features.get("dtype") or "float32")[0])
    encoder = load_encoder(name or features["encoder"], orders=features.get("orders"), device=device, dtype=dtype)
    if encoder.weights == features["weights"] and name is not None:
        encoder.name = features["encoder"]  # a model may be called by its name or by its folder
    check_encoder(index.vectors, encoder)
    return encoder
