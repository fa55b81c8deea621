"""Generators: architecture only."""

from randar_features.layers.config import TransformerConfig
from randar_features.models.arpg import ARPG, ARPGConfig
from randar_features.models.base import FeaturePass, ImageTransformer, middle_layer, token_cross_entropy
from randar_features.models.llamagen import LlamaGen, LlamaGenConfig
from randar_features.models.par import PAR, PARConfig
from randar_features.models.randar import RandAR, RandARConfig

# What `"type"` in a configuration names: the architecture and its sizes.
ARCHITECTURES: dict[str, tuple[type[ImageTransformer], type[TransformerConfig]]] = {
    "randar": (RandAR, RandARConfig),
    "llamagen": (LlamaGen, LlamaGenConfig),
    "par": (PAR, PARConfig),
    "arpg": (ARPG, ARPGConfig),
}

__all__ = [
    "ARCHITECTURES",
    "ARPG",
    "PAR",
    "ARPGConfig",
    "FeaturePass",
    "ImageTransformer",
    "LlamaGen",
    "LlamaGenConfig",
    "PARConfig",
    "RandAR",
    "RandARConfig",
    "TransformerConfig",
    "middle_layer",
    "token_cross_entropy",
]
