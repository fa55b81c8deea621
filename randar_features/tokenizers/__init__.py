"""Image tokenizers: pixels to a grid of discrete codes and back."""

from randar_features.tokenizers.base import Codebook, ImageTokenizer, TokenizerOutput, nearest_code
from randar_features.tokenizers.llamagen import LlamaGenTokenizer
from randar_features.tokenizers.maskgit import MaskGITTokenizer
from randar_features.tokenizers.network import NetworkTokenizer

__all__ = [
    "Codebook",
    "ImageTokenizer",
    "LlamaGenTokenizer",
    "MaskGITTokenizer",
    "NetworkTokenizer",
    "TokenizerOutput",
    "nearest_code",
]
