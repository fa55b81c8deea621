"""Images and tokens to features."""

from randar_features.encoding.encoder import RandAREncoder, encode_orders, encode_reads, encode_tokens, resolve_layers
from randar_features.encoding.extract import Features, extract_features

__all__ = [
    "Features",
    "RandAREncoder",
    "encode_orders",
    "encode_reads",
    "encode_tokens",
    "extract_features",
    "resolve_layers",
]
