"""Images and tokens to features."""

from randar_features.encoding.encoder import (
    ImageEncoder,
    RandAREncoder,
    encode_orders,
    encode_reads,
    encode_tokens,
    resolve_layers,
    resolve_view,
)
from randar_features.encoding.extract import Features, extract_features
from randar_features.encoding.store import FeatureStore
from randar_features.encoding.to_store import extract_to_store

__all__ = [
    "FeatureStore",
    "Features",
    "ImageEncoder",
    "RandAREncoder",
    "encode_orders",
    "encode_reads",
    "encode_tokens",
    "extract_features",
    "extract_to_store",
    "resolve_layers",
    "resolve_view",
]
