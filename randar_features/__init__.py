"""Features, generation and editing from autoregressive image models."""

from randar_features.encoding import (
    Features,
    FeatureStore,
    ImageEncoder,
    RandAREncoder,
    encode_tokens,
    extract_features,
    extract_to_store,
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
    "FeatureStore",
    "Features",
    "ImageEncoder",
    "Model",
    "RandAREncoder",
    "encode_tokens",
    "extract_features",
    "extract_to_store",
    "generate",
    "inpaint",
    "list_models",
    "load_model",
    "load_tokenizer",
    "log_likelihood",
    "outpaint",
    "pack_weights",
    "push_to_hub",
    "surprisal_map",
    "upscale_tokens",
]
