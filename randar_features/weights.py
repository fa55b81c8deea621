"""The reader of weight files, under the name it had before it moved into `hub`."""

from randar_features.hub.weights import USUAL_KEY, load_weights, read_state_dict

__all__ = ["USUAL_KEY", "load_weights", "read_state_dict"]
