"""A name, a folder or a Hub repository to a loaded model, and a model to the Hub."""

from randar_features.hub.load import Model, choose_device, load_model, load_tokenizer, untrained_model
from randar_features.hub.publish import push_to_hub
from randar_features.hub.registry import list_models

__all__ = ["Model", "choose_device", "list_models", "load_model", "load_tokenizer", "push_to_hub", "untrained_model"]
