"""Images and tokens to features: one engine, the table of what it gives, and the encoder as a module."""

from randar_features.features.encode import encode, encode_layer, encode_specs, encode_tokens
from randar_features.features.encoder import ImageEncoder, RandAREncoder
from randar_features.features.extract import extract_features, extract_to_store
from randar_features.features.spec import FeatureSpec, model_specs
from randar_features.features.store import FeatureStore, abandon_extraction
from randar_features.features.table import FeatureTable, open_table
from randar_features.features.tiling import tiled_maps

__all__ = [
    "FeatureSpec",
    "FeatureStore",
    "FeatureTable",
    "ImageEncoder",
    "RandAREncoder",
    "abandon_extraction",
    "encode",
    "encode_layer",
    "encode_specs",
    "encode_tokens",
    "extract_features",
    "extract_to_store",
    "model_specs",
    "open_table",
    "tiled_maps",
]
