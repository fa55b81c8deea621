"""The encoder of an index: its queries are encoded as its images were."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from probes.index import VectorIndex
from probes.pooling import pool
from randar_features.data import open_images
from randar_features.data.decode.ranges import DEFAULT_READING, Reading
from randar_features.features import FeatureSpec
from randar_features.features import encode as encode_images
from randar_features.hub import Model, load_model
from randar_features.precision import format_of, parse_format
from randar_features.retrieval.tables import described
from randar_features.store.records import OK


class Encoder(Protocol):
    """Anything that turns images into maps of features, each with a name."""

    name: str
    weights: str
    image_size: int
    outputs: dict[str, dict[str, Any]]
    dtype: torch.dtype

    def encode(self, images: Tensor, outputs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Maps (b, G, G, D) by name of images (b, 3, S, S) in [0, 1]."""


class ModelEncoder:
    """One feature of a model as an encoder, computed in `dtype`."""

    def __init__(self, model: Model, name: str, dtype: torch.dtype) -> None:
        self.model, self.dtype, self.spec = model, dtype, FeatureSpec.parse(name)
        self.weights_dtype = model.dtype
        self.name, self.weights, self.image_size = model.name, model.weights_hash, model.image_size
        self.outputs = {name: self.spec.details()}

    def encode(self, images: Tensor, outputs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Maps (b, G, G, D) float32 of its one feature."""
        return {str(self.spec): encode_images(self.model, images, [self.spec], dtype=self.dtype)[self.spec]}


def encoder_of(
    index: VectorIndex,
    model: str | Model | None = None,
    *,
    device: str | torch.device | None = None,
) -> Encoder:
    """The encoder that made the features of an index, in its number format.

    model: where the model is now, if it has moved.

    Raises:
        IndexFilesError: the model's weights are not those that the index was built with.
        ValueError: the features were given a class, which a query has not, or are not a model's.
    """
    about = index.features
    if about.get("context") is None:
        raise ValueError(
            f"{index.folder} is of {about.get('encoder')!r}, which is no model of load_model: search it with vectors, "
            "or give its encoder"
        )
    if about.get("classes") is not None:
        raise ValueError(f"{index.folder} is of features with the class given: search it with vectors of your own")
    products, weights = parse_format(about.get("dtype") or "float32")
    loaded = load_model(about["encoder"] if model is None else model, device=device, dtype=weights)
    encoder = ModelEncoder(loaded, about["output"], products)
    if encoder.weights == about["weights"]:
        encoder.name = about["encoder"]  # a model may be called by its name or by its folder
    check_encoder(index, encoder)
    return encoder


def check_encoder(index: VectorIndex, encoder: Encoder) -> None:
    """IndexFilesError that names the differences if this encoder does not give the index's features."""
    about, name = index.features, index.features["output"]
    if not hasattr(encoder, "outputs"):
        raise TypeError(f"encoder must have outputs and encode, as retrieval.encoders.Encoder; got {encoder!r}")
    if name not in encoder.outputs:
        raise ValueError(f"{index.folder} is of {name!r}, and {encoder.name} has {', '.join(encoder.outputs)}")
    given = {"encoder": encoder.name, "weights": encoder.weights, "image_size": encoder.image_size}
    given["dtype"] = format_of(encoder.dtype, getattr(encoder, "weights_dtype", torch.float32))
    given |= {key: about[key] for key in ("value_range",) if key in about}  # queries are read as the index says
    index.check_features(given | {"pooling": about["pooling"]} | described(name, encoder.outputs[name]))


class Encoded(NamedTuple):
    """Vectors (m, D) of the images that can be read; of all images: their paths, "ok" or why not, and content hashes.

    files: whether each image is a file of its own, at its path.
    """

    vectors: Tensor
    paths: list[str | None]
    status: list[str]
    hashes: list[str]
    files: list[bool]


def encode(
    encoder: Encoder,
    images: Any,
    name: str,
    pooling: str,
    *,
    batch_size: int = 32,
    reading: Reading = DEFAULT_READING,
) -> Encoded:
    """The vectors of images, of one feature of an encoder; ValueError if none can be read."""
    vectors: list[Tensor] = []
    found = Encoded(torch.empty(0), [], [], [], [])
    for batch in open_images(images).read_with(reading).batches(encoder.image_size, batch_size):
        found.paths.extend(batch.paths)
        found.status.extend(batch.status)
        found.hashes.extend(batch.hashes)
        found.files.extend(batch.files)
        readable = [place for place, reason in enumerate(batch.status) if reason == OK]
        if readable:
            vectors.append(pool(encoder.encode(batch.pixels[readable], [name])[name], pooling).float().cpu())
    if not found.status:
        raise ValueError("no queries: the stream of images is empty")
    if not vectors:
        raise ValueError(f"not one of the {len(found.status)} query images could be read: {found.status[0]}")
    return found._replace(vectors=torch.cat(vectors))
