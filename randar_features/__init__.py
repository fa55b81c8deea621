"""Features, retrieval, generation and editing from autoregressive image models."""

import importlib
from typing import TYPE_CHECKING, Any

from randar_features.features import (
    FeatureSpec,
    FeatureStore,
    FeatureTable,
    ImageEncoder,
    RandAREncoder,
    abandon_extraction,
    encode_tokens,
    extract_features,
    extract_to_store,
    open_table,
)
from randar_features.generation import (
    generate,
    inpaint,
    log_likelihood,
    outpaint,
    pack_weights,
    surprisal_map,
    upscale_tokens,
)
from randar_features.hub import Model, list_models, load_model, load_tokenizer, push_to_hub

__version__ = "0.1.0"

__all__ = [
    "FeatureSpec",
    "FeatureStore",
    "FeatureTable",
    "ImageEncoder",
    "Model",
    "RandAREncoder",
    "abandon_extraction",
    "build_index",
    "encode_tokens",
    "extract_features",
    "extract_features_ray",
    "extract_to_store",
    "generate",
    "inpaint",
    "list_models",
    "load_model",
    "load_tokenizer",
    "log_likelihood",
    "open_index",
    "open_table",
    "outpaint",
    "pack_weights",
    "push_to_hub",
    "surprisal_map",
    "upscale_tokens",
]

if TYPE_CHECKING:
    from randar_features.features.cluster import extract_features_ray
    from randar_features.retrieval import build_index, open_index

_LATER = {"build_index": "retrieval", "open_index": "retrieval", "extract_features_ray": "features.cluster"}


def __dir__() -> list[str]:
    """All names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """What is imported when it is first used: faiss takes a second."""
    if name not in _LATER:
        raise AttributeError(f"module 'randar_features' has no attribute {name!r}")
    return getattr(importlib.import_module(f"randar_features.{_LATER[name]}"), name)
