"""Networks that judge generated images: their features, the names of the measures, the names of their classes."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.encoders.base import Encoder
from benchmarks.encoders.inception import CLASSES, SPATIAL, InceptionEncoder, Variant
from randar_features import Model
from randar_features.baselines import IMAGENET_LABELS, PACKAGES, is_network, parse_network
from randar_features.data.decode.transforms import tensor_center_crop
from randar_features.hub.registry import imagenet_classes

VARIANT_TITLES: dict[Variant, str] = {"adm": "ADM", "torch-fidelity": "torch-fidelity", "clean-fid": "clean-fid"}


class Judge(Encoder):
    """An encoder that is given all images, real and generated, at one size, and brings them to its own size itself.

    So photographs lose what samples of that size cannot have. With a model, images go through its tokenizer and back
    before they are judged: what is judged is its reconstruction.

    Attributes:
        network: the encoder inside.
        title: of the features, in the names of measures.
        features, spatial, probabilities: outputs by their use; None where there is none.
        class_names: synonyms of each class, None where they are not known.
    """

    def __init__(self, network: Encoder, size: int, *, features: str, title: str, through: Model | None = None) -> None:
        self.network, self.features, self.title, self.through = network, features, title, through
        known = network.outputs
        self.spatial = SPATIAL if SPATIAL in known else None
        self.probabilities = CLASSES if CLASSES in known else None
        labelled = is_network(network.name) and network.supervision == IMAGENET_LABELS
        self.class_names = imagenet_classes() if labelled and self.probabilities else None
        wanted = [name for name in (features, self.spatial, self.probabilities) if name]
        super().__init__(
            name=network.name if through is None else f"{network.name} through {through.name}",
            image_size=size,
            weights=network.weights if through is None else f"{network.weights} {through.weights_hash}",
            outputs={name: known[name] for name in wanted},
            device=network.device,
            supervision=network.supervision,
        )
        self.dtype = network.dtype

    def named(self, measure: str) -> str:
        """The name of a measure by these features: FID (ADM), but FD-EfficientNet-Lite0."""
        inception = isinstance(self.network, InceptionEncoder)
        return f"{measure} ({self.title})" if inception else f"{PLAIN_NAMES[measure]}-{self.title}"

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        if self.through is not None:
            tokenizer = self.through.tokenizer
            pixels = tokenizer.to_uint8(tokenizer.decode(tokenizer.encode(images.to(self.through.device))))
            images = pixels.permute(0, 3, 1, 2).to(images) / 255
        resized = map(partial(tensor_center_crop, size=self.network.image_size), images)
        return self.network.encode(torch.stack(list(resized)), outputs)


PLAIN_NAMES = {"FID": "FD", "sFID": "sFD", "IS": "IS", "KID": "KD"}
"""Measures by other features than Inception's. What is called FID or KID is by Inception's alone."""


def title_of(name: str) -> str:
    """EfficientNet-Lite0@64 of efficientnet-lite0@64; others without timm:, a file, or the folder that they lie in."""
    head, at, size = name.partition("=")[0].partition("@")
    if head in PACKAGES:
        return head.replace("efficientnet", "EfficientNet").replace("lite", "Lite") + at + size
    return parse_network(name).architecture + at + size if is_network(name) else Path(name).name


def same_classes(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """The one class of `known` of each name, or -1 where none or several have it: (len(names),).

    A name, and each class, may be several synonyms with commas; a WordNet number at the beginning does not count.
    """
    by_synonym: dict[str, set[int]] = {}
    for index, synonyms in enumerate(known):
        for word in _synonyms(synonyms):
            by_synonym.setdefault(word, set()).add(index)
    found = [set().union(*(by_synonym.get(word, set()) for word in _synonyms(name))) for name in names]
    return np.array([min(indices) if len(indices) == 1 else -1 for indices in found])


def _synonyms(name: str) -> list[str]:
    bare = re.sub(r"^n\d{8}\s+", "", name)
    return [" ".join(re.split(r"[\W_]+", word.casefold())).strip() for word in bare.split(",")]
