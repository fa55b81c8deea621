"""Image tokenizers: pixels to a grid of discrete codes and back."""

from randar_features.tokenizers.base import Codebook, ImageTokenizer, TokenizerOutput, nearest_code
from randar_features.tokenizers.llamagen import LlamaGenTokenizer
from randar_features.tokenizers.maskgit import MaskGITTokenizer

__all__ = [
    "Codebook",
    "ImageTokenizer",
    "LlamaGenTokenizer",
    "MaskGITTokenizer",
    "TokenizerOutput",
    "nearest_code",
]
