"""Features, retrieval, generation and editing from autoregressive image models.

Each name is imported when it is first used: torch takes seconds, and `randar --help` does without.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from randar_features.features.cluster import extract_features_ray
    from randar_features.generation import (
        inpaint,
        log_likelihood,
        outpaint,
        pack_weights,
        surprisal_map,
        upscale_tokens,
    )
    from randar_features.generation.generate import generate
    from randar_features.hub import Model, list_models, load_model, load_tokenizer, push_to_hub
    from randar_features.retrieval import build_index, open_index

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

_FACES = ("hub", "features", "generation", "retrieval", "features.cluster")
"""The packages that the names come from, each after those that it imports."""

_PARTS = (
    "data", "features", "generation", "hub", "layers", "models", "precision", "retrieval", "sequence", "store",
    "tokenizers",
)  # fmt: skip
"""What is found as an attribute without an import of its own."""


def __dir__() -> list[str]:
    """All names, also those that are not imported yet."""
    return sorted({*globals(), *__all__, *_PARTS})


def __getattr__(name: str) -> Any:
    """What is imported when it is first used."""
    if name in _PARTS:
        return importlib.import_module(f"randar_features.{name}")
    if name in __all__:
        for face in _FACES:
            if hasattr(module := importlib.import_module(f"randar_features.{face}"), name):
                return getattr(module, name)
    raise AttributeError(f"module 'randar_features' has no attribute {name!r}")
