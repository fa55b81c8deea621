"""Features, generation and editing from autoregressive image models."""

from randar_features.hub import Model, load_model, load_tokenizer
from randar_features.registry import list_models

__all__ = ["Model", "list_models", "load_model", "load_tokenizer"]
