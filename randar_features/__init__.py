"""Features, retrieval, generation and editing from autoregressive image models."""

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
    from randar_features.retrieval import build_index, open_index


def __getattr__(name: str) -> Any:
    """`build_index` and `open_index`, when they are first used: faiss takes a second to import."""
    if name not in ("build_index", "open_index"):
        raise AttributeError(f"module 'randar_features' has no attribute {name!r}")
    from randar_features import retrieval

    return getattr(retrieval, name)
